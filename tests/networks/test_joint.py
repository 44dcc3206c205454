"""Networks of the user's own as networks of joint classes: what they say is kept, what is unclear refused."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skfairprune.networks.joint import JointNetwork
from skfairprune.networks.widening import check_outputs, widen_outputs
from tests.networks import zoo

N_FEATURES = 6
# What a forward may do to the scores.
ONE_OUTPUT = {
    "column": lambda z: z,
    "squeeze": lambda z: z.squeeze(-1),
    "squeeze_all": lambda z: z.squeeze(),
    "view": lambda z: z.view(-1),
    "flatten": lambda z: torch.flatten(z),
    "first": lambda z: z[:, 0],
    "number_of_rows": lambda z: z.view(z.shape[0]),
    "transpose": lambda z: z.T.reshape(-1),
    "sigmoid": torch.sigmoid,
    "sigmoid_squeeze": lambda z: torch.sigmoid(z).squeeze(-1),
    "view_sigmoid": lambda z: torch.sigmoid(z.view(-1)),
    "sigmoid_by_hand": lambda z: 1 / (1 + torch.exp(-z)),
    "logsigmoid": nn.functional.logsigmoid,
}
MANY_OUTPUTS = {
    "logits": lambda z: z,
    "reshape": lambda z: z.reshape(len(z), -1),
    "softmax": lambda z: nn.functional.softmax(z, dim=1),
    "softmax_last": lambda z: torch.softmax(z, -1),
    "log_softmax": lambda z: nn.functional.log_softmax(z, dim=-1),
    "log_of_softmax": lambda z: torch.log(torch.softmax(z, dim=1)),
}
LINKS = {
    "sigmoid": "sigmoid",
    "sigmoid_squeeze": "sigmoid",
    "view_sigmoid": "sigmoid",
    "sigmoid_by_hand": "sigmoid",
    "logsigmoid": "log_sigmoid",
    "softmax": "probability",
    "softmax_last": "probability",
}


class Network(nn.Module):
    """Batch normalisation and dropout below a linear layer, and a function of its outputs."""

    def __init__(self, n_outputs, post, bias=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.post = post
        self.first = nn.Linear(N_FEATURES, 12)
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(12, n_outputs, bias=bias)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        with torch.no_grad():
            self.head.weight.mul_(6)

    def hidden(self, x):
        return self.dropout(nn.functional.relu(self.norm(self.first(x))))

    def forward(self, x):
        return self.post(self.head(self.hidden(x)))


def _rows(n_samples=11, seed=1):
    return torch.randn(n_samples, N_FEATURES, generator=torch.Generator().manual_seed(seed))


def _widen(network, x):
    return widen_outputs(network, (0, 0, 1), 2, x)


def _keep(network, x):
    return widen_outputs(network, (0, 1), 2, x)


def _check(network, x):
    return check_outputs(network, 2, x)


def _expected(network, x):
    """Compute the class probabilities in double precision from the scores, past the user's forward."""
    trial = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        scores = trial.head(trial.hidden(x.double())).numpy()
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    proba = np.exp(scores)
    return proba / proba.sum(axis=1, keepdims=True)


def _class_sums(joint, x, class_of):
    with torch.no_grad():
        logits = copy.deepcopy(joint).eval()(x)
    assert logits.shape == (len(x), len(class_of))
    proba = torch.softmax(logits.double(), dim=1).numpy()
    return proba @ np.eye(max(class_of) + 1)[list(class_of)]


def _shared_alike(joint, x, class_of):
    """Whether the joint classes of a class are equally probable."""
    with torch.no_grad():
        logits = copy.deepcopy(joint).eval()(x).numpy()
    return all(np.ptp(logits[:, np.array(class_of) == c], axis=1).max() < 1e-4 for c in set(class_of))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("class_of", [(0, 1), (1, 0), (0, 0, 1, 1), (1, 0, 1, 1, 1)])
@pytest.mark.parametrize("post", ONE_OUTPUT)
def test_one_output(post, class_of, bias):
    network = Network(1, ONE_OUTPUT[post], bias)
    joint = widen_outputs(network, class_of, 2, _rows())
    is_vector = copy.deepcopy(network).eval()(_rows()).ndim == 1
    assert joint.link == ("at head" if is_vector else LINKS.get(post, "logits"))
    for x in (_rows(), _rows(40, seed=2), _rows(1, seed=3)):
        assert_allclose(_class_sums(joint, x, class_of), _expected(network, x), atol=2e-6)
    assert _shared_alike(joint, _rows(), class_of)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("class_of", [(0, 1), (1, 0), (0, 0, 1, 1), (1, 0, 1, 1, 1)])
@pytest.mark.parametrize("post", MANY_OUTPUTS)
def test_two_outputs(post, class_of, bias):
    network = Network(2, MANY_OUTPUTS[post], bias)
    joint = widen_outputs(network, class_of, 2, _rows())
    assert joint.link == LINKS.get(post, "logits")
    for x in (_rows(), _rows(40, seed=2), _rows(1, seed=3)):
        assert_allclose(_class_sums(joint, x, class_of), _expected(network, x), atol=2e-6)
    assert _shared_alike(joint, _rows(), class_of)


@pytest.mark.parametrize("class_of", [(0, 1, 2), (2, 1, 0), (0, 0, 1, 1, 2, 2), (2, 0, 2, 1, 2)])
@pytest.mark.parametrize("post", MANY_OUTPUTS)
def test_many_classes(post, class_of):
    network = Network(3, MANY_OUTPUTS[post])
    joint = widen_outputs(network, class_of, 3, _rows())
    assert joint.link == LINKS.get(post, "logits")
    assert_allclose(_class_sums(joint, _rows(40, 2), class_of), _expected(network, _rows(40, 2)), atol=2e-6)


@pytest.mark.parametrize("last", [(), (nn.Sigmoid(),), (nn.Flatten(0),), (nn.Sigmoid(), nn.Flatten(0))])
def test_sequential_of_one_output(last):
    torch.manual_seed(0)
    layers = [nn.Linear(N_FEATURES, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 1)]
    network = nn.Sequential(*layers, *last)
    joint = widen_outputs(network, (0, 0, 1), 2, _rows())
    with torch.no_grad():
        score = nn.Sequential(*layers).eval()(_rows()).numpy().ravel()
    assert_allclose(_class_sums(joint, _rows(), (0, 0, 1))[:, 1], 1 / (1 + np.exp(-score)), atol=2e-6)


def test_a_layer_alone():
    network = nn.Linear(N_FEATURES, 2, bias=False)
    joint = widen_outputs(network, (0, 1, 1), 2, _rows())
    expected = torch.softmax(network(_rows()), dim=1).detach()
    assert_allclose(_class_sums(joint, _rows(), (0, 1, 1)), expected, atol=2e-6)


@pytest.mark.parametrize(
    "made",
    [
        zoo.PlainMLP,
        zoo.ResNetTabular,
        zoo.FTTransformer,
        zoo.Conv1dNetwork,
        zoo.ResNet10,
        zoo.DenselyConnected,
    ],
)
def test_usual_architectures(made):
    torch.manual_seed(0)
    network, x = made(64, 2), torch.rand(9, 64)
    joint = widen_outputs(network, (0, 0, 1, 1), 2, x)
    expected = torch.softmax(copy.deepcopy(network).eval()(x), dim=1).detach()
    assert_allclose(_class_sums(joint, x, (0, 0, 1, 1)), expected, atol=2e-6)
    assert check_outputs(made(64, 4), 4, x).link == "logits"


def test_saturated_outputs():
    network = Network(1, torch.sigmoid)
    with torch.no_grad():
        network.head.weight.mul_(1000)
    joint = widen_outputs(network, (0, 0, 1, 1), 2, _rows())
    assert_allclose(_class_sums(joint, _rows(), (0, 0, 1, 1)), _expected(network, _rows()), atol=2e-6)


@pytest.mark.parametrize("zero", ["head", "others"])
def test_layers_that_are_0_as_yet(zero):
    """The layer is told by what it does, not by values that agree by chance."""

    class TwoHeads(Network):
        def __init__(self):
            super().__init__(2, lambda z: z)
            self.side = nn.Linear(12, 2)
            nn.init.zeros_((self.head if zero == "head" else self.side).weight)
            nn.init.zeros_((self.head if zero == "head" else self.side).bias)

        def forward(self, x):
            hidden = self.hidden(x)
            if zero == "head":
                return self.head(hidden + 0 * self.side(hidden).sum())
            return self.head(hidden) + self.side(hidden)

    if zero == "head":
        joint = widen_outputs(TwoHeads(), (0, 1, 1), 2, _rows())
        assert_allclose(_class_sums(joint, _rows(), (0, 1, 1)), 0.5, atol=1e-6)
    else:
        with pytest.raises(ValueError, match=r"not that of one nn.Linear"):
            widen_outputs(TwoHeads(), (0, 1, 1), 2, _rows())


def test_a_hidden_layer_of_as_many_outputs_is_no_output_layer():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(N_FEATURES, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.zero_()
        network[2].weight.copy_(torch.eye(2))
        network[2].bias.zero_()
    joint = widen_outputs(network, (0, 0, 1, 1), 2, _rows())
    assert [m.out_features for m in joint.modules() if isinstance(m, nn.Linear)] == [2, 4]


@pytest.mark.parametrize("train", [True, False])
def test_the_template_stays_as_it_is(train):
    network = Network(1, torch.sigmoid, bias=False).train(train)
    network.norm.eval()
    network.head.weight.requires_grad_(False)
    state, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    random_state, x = torch.get_rng_state(), _rows()
    joint = widen_outputs(network, (0, 0, 1, 1), 2, x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, _rows())
    assert [m.training for m in network.modules()] == modes
    assert [m.training for m in joint.module.modules()] == modes
    assert joint.training is train
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    assert not {id(p) for p in network.parameters()} & {id(p) for p in joint.parameters()}
    assert network.head.out_features == 1
    assert not any(m._forward_hooks for m in [*network.modules(), *joint.modules()])
    assert not joint.module.head.weight.requires_grad
    assert joint.module.first.weight.requires_grad
    assert torch.equal(joint.module.norm.running_mean, network.norm.running_mean)


def test_checked_networks_stay_as_they_are():
    network = Network(4, torch.nn.Softmax(1))
    state, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    joint = check_outputs(network, 4, _rows())
    assert joint.module is network
    assert joint.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    assert not any(m._forward_hooks for m in network.modules())


def test_random_numbers_in_the_forward_are_put_back():
    network = Network(1, lambda z: z + 0 * torch.rand(1))
    random_state = torch.get_rng_state()
    widen_outputs(network, (0, 1), 2, _rows())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("post", MANY_OUTPUTS)
def test_checked_outputs(post):
    network = Network(4, MANY_OUTPUTS[post])
    joint = check_outputs(network, 4, _rows())
    assert joint.link == LINKS.get(post, "logits")
    with torch.no_grad():
        found = torch.softmax(joint.eval()(_rows()), dim=1)
    assert_allclose(found, _expected(network, _rows()), atol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_logits_within_0_and_1_by_chance(seed):
    network = Network(2, lambda z: z, seed=seed)
    with torch.no_grad():
        network.head.weight.mul_(1e-3)
        network.head.bias.uniform_(0.2, 0.8)
        assert ((network(_rows()) > 0) & (network(_rows()) < 1)).all()
    assert check_outputs(network, 2, _rows()).link == "logits"
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([0.25, 0.75]))  # they even sum to 1
    assert check_outputs(network, 2, _rows()).link == "logits"


@pytest.mark.parametrize("seed", range(20))
def test_sigmoids_of_each_joint_class_are_refused(seed):
    for network in (Network(4, torch.sigmoid, seed=seed), nn.Sequential(nn.Linear(6, 4), nn.Sigmoid())):
        with pytest.raises(ValueError, match=r"do not sum to 1.*append nn.LogSoftmax"):
            check_outputs(network, 4, _rows())


@pytest.mark.parametrize("post", [lambda z: z[:, :1], lambda z: z[:, 0]])
def test_checked_shape(post):
    told = r"called as module\(6, 2\).*its network Network.*must return n_outputs values"
    with pytest.raises(ValueError, match=told):
        check_outputs(Network(2, post), 2, _rows())


@pytest.mark.parametrize("check", [_widen, _keep, _check])
def test_what_is_no_class_output(check):
    x = _rows()
    for post, told in [
        (lambda z: (z, z), "returned a tuple and not a tensor"),
        (lambda z: {"logits": z}, "returned a dict and not a tensor"),
        (lambda z: z[:5], r"torch.float32 of shape \(5, 2\) for rows of torch.float32 and shape \(11, 6\)"),
        (lambda z: z.unsqueeze(1), r"of shape \(11, 1, 2\)"),
        (lambda z: z.sum(), r"of shape \(\)"),
        (lambda z: z.argmax(1), "returned torch.int64"),
        (lambda z: z.bfloat16(), r"returned torch.bfloat16 .*without torch.autocast, or with .to\(x.dtype\)"),
        (
            lambda z: z / torch.zeros(11, 1).index_fill(0, torch.arange(8), 1.0),
            "NaN outputs for 3 of 11 rows",
        ),
    ]:
        with pytest.raises(ValueError, match=told):
            check(Network(2, post), x)
    with pytest.raises(
        ValueError, match=r"fails on rows of torch.float64 and shape \(11, 6\): RuntimeError"
    ) as e:
        check(Network(2, lambda z: z), x.double())
    assert isinstance(e.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="changes its input in place"):
        check(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(N_FEATURES, 2)), x)
    assert torch.equal(x, _rows())


@pytest.mark.parametrize(("n_outputs", "n_classes"), [(3, 2), (1, 3), (2, 3), (4, 3)])
def test_number_of_outputs(n_outputs, n_classes):
    with pytest.raises(
        ValueError, match=rf"shape \(11, {n_outputs}\) for 11 rows, and y has {n_classes} classes"
    ):
        widen_outputs(Network(n_outputs, lambda z: z), list(range(n_classes)) * 2, n_classes, _rows())
    with pytest.raises(ValueError, match=r"shape \(11,\) for 11 rows, and y has 3 classes"):
        widen_outputs(Network(1, lambda z: z.squeeze(-1)), [0, 1, 2], 3, _rows())


@pytest.mark.parametrize(
    ("n_outputs", "post"),
    [
        (2, nn.functional.relu),
        (2, lambda z: z / 3),
        (2, lambda z: torch.softmax(z, dim=0)),
        (2, lambda z: z.flip(1)),
        (1, nn.functional.relu),
        (1, lambda z: torch.cat([1 - torch.sigmoid(z), torch.sigmoid(z)], dim=1)),
        (1, lambda z: 1 - torch.sigmoid(z)),
        (1, lambda z: z.flip(0)),
        (1, lambda z: torch.softmax(z, dim=1)),
    ],
)
def test_outputs_that_no_layer_explains(n_outputs, post):
    network = Network(n_outputs, post)
    with torch.no_grad():
        network.head.bias.add_(100)  # where relu is the identity
    with pytest.raises(
        ValueError, match=r"not that of one nn.Linear.*\(n_features_in, n_outputs\) -> nn.Module"
    ):
        widen_outputs(network, (0, 0, 1, 1), 2, _rows())


@pytest.mark.parametrize("post", [torch.sigmoid, nn.functional.logsigmoid])
def test_sigmoids_of_each_class_are_refused(post):
    with pytest.raises(ValueError, match="sigmoid of each of 3 outputs"):
        widen_outputs(Network(3, post), (0, 0, 1, 2), 3, _rows())
    if post is torch.sigmoid:
        with pytest.raises(ValueError, match="do not sum to 1"):
            widen_outputs(Network(3, post), (0, 1, 2), 3, _rows())


def test_a_layer_that_is_called_twice():
    class Twice(Network):
        def forward(self, x):
            self.head(self.hidden(-x))
            return self.head(self.hidden(x))

    with pytest.raises(ValueError, match="output layer head of the network Twice is called 2 times"):
        widen_outputs(Twice(2, None), (0, 0, 1), 2, _rows())


class ByMode(Network):
    """The scores, and in one mode something of them."""

    def __init__(self, n_outputs, post, post_in_training):
        super().__init__(n_outputs, post)
        self.post_in_training = post_in_training

    def forward(self, x):
        scores = self.head(self.hidden(x))
        return self.post(scores) if self.training == self.post_in_training else scores


@pytest.mark.parametrize("post_in_training", [True, False])
def test_other_outputs_in_training(post_in_training):
    told = "something else in training than in evaluation"
    for check in (_widen, _keep, _check):
        with pytest.raises(ValueError, match=told):
            check(ByMode(2, nn.Softmax(1), post_in_training), _rows())
        assert check(ByMode(2, nn.LogSoftmax(1), post_in_training), _rows()).link == "logits"
    with pytest.raises(ValueError, match=told):
        _widen(ByMode(1, nn.Sigmoid(), post_in_training), _rows())
    with pytest.raises(ValueError, match=told):
        _widen(ByMode(2, nn.functional.dropout, True), _rows())
    for check in (_widen, _keep, _check):
        with pytest.raises(ValueError, match="returned a tuple"):
            check(ByMode(2, lambda z: (z, z), post_in_training), _rows())


def test_networks_that_cannot_be_copied():
    network = Network(2, lambda z: z)
    network.cached = network.head.weight * 2
    for check in (_widen, _keep, _check):
        with pytest.raises(ValueError, match="Network cannot be copied: RuntimeError"):
            check(network, _rows())


def test_outputs_of_a_convolution():
    def made(*last):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Unflatten(1, (1, N_FEATURES)), nn.Conv1d(1, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), *last
        )

    assert check_outputs(made(), 4, _rows()).link == "logits"
    assert check_outputs(made(nn.Softmax(1)), 4, _rows()).link == "probability"
    with pytest.raises(ValueError, match="do not sum to 1"):
        check_outputs(made(nn.Sigmoid()), 4, _rows())
    with pytest.raises(ValueError, match=r"not that of one nn\.Linear with 4 outputs"):
        widen_outputs(made(), (0, 1, 2, 3, 3), 4, _rows())


def test_shared_weights():
    tied = Network(2, lambda z: z)
    tied.other = nn.Linear(12, 2)
    tied.other.weight = tied.head.weight
    with pytest.raises(
        ValueError, match=r"shares its weights: they are head.weight, head.bias, other.weight"
    ):
        widen_outputs(tied, (0, 0, 1), 2, _rows())
    twice = Network(2, lambda z: z)
    twice.alias = twice.head
    with pytest.raises(ValueError, match=r"shares its weights: they are .*alias.weight"):
        widen_outputs(twice, (0, 0, 1), 2, _rows())


@pytest.mark.parametrize(
    "wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_computed_weights(wrap):
    network = Network(2, lambda z: z)
    wrap(network.head)
    with pytest.raises(ValueError, match="computes its weight from other parameters"):
        widen_outputs(network, (0, 0, 1), 2, _rows())


@pytest.mark.parametrize(
    ("n_outputs", "post", "told"),
    [
        (2, lambda z: z.view(-1, 2), "of shape"),
        (2, lambda z: z[:, :2], "must not select"),
        (2, lambda z: z + torch.zeros(2), "fails: RuntimeError"),
    ],
)
def test_forwards_that_know_the_number_of_outputs(n_outputs, post, told):
    with pytest.raises(ValueError, match=told) as error:
        widen_outputs(Network(n_outputs, post), (0, 0, 1, 1), 2, _rows())
    assert "with 4 outputs, one for each class and group," in str(error.value)


def test_layers_that_explain_alike():
    class Either(Network):
        """Two layers, of which the second counts only where the first has not been called."""

        def __init__(self):
            super().__init__(2, lambda z: z)
            self.second = nn.Linear(12, 2)

        def forward(self, x):
            hidden = self.hidden(x)
            outputs = [self.head(hidden), self.second(hidden)]
            return outputs[bool(outputs[1].std() > outputs[0].std())]

    network = Either()
    with torch.no_grad():
        for layer in (network.head, network.second):
            layer.weight.mul_(1e-3)
    with pytest.raises(
        ValueError, match="Several layers of the network Either explain its output: head, second"
    ):
        widen_outputs(network, (0, 0, 1), 2, _rows())


def test_every_class_has_a_joint_class():
    with pytest.raises(ValueError, match=r"each of the classes 0 to 2, got \[0, 1, 1\]"):
        widen_outputs(Network(3, lambda z: z), (0, 1, 1), 3, _rows())


def test_unknown_link():
    with pytest.raises(ValueError, match="link='probit' is unknown"):
        JointNetwork(nn.Identity(), "probit", 2)


@pytest.mark.parametrize("link", ["logits", "probability", "sigmoid", "log_sigmoid"])
def test_logits_and_two_derivatives_are_finite(link):
    scores = torch.tensor([[0.0, 90.0], [-90.0, 0.0], [300.0, -300.0], [-1.5, 0.25], [16.0, -40.0]])
    post = {
        "logits": lambda z: z,
        "probability": lambda z: torch.softmax(z, dim=1),
        "sigmoid": torch.sigmoid,
        "log_sigmoid": nn.functional.logsigmoid,
    }[link]

    class Post(nn.Module):
        def forward(self, x):
            return post(x)

    joint = JointNetwork(Post(), link, 2)
    moderate = scores[3:4]
    assert_allclose(
        torch.log_softmax(joint(moderate), 1), torch.log_softmax(moderate, 1), rtol=1e-5, atol=1e-6
    )
    assert joint(scores).isfinite().all()
    scores.requires_grad_()
    loss = nn.functional.cross_entropy(joint(scores), torch.tensor([0, 0, 1, 0, 1]))
    (gradient,) = torch.autograd.grad(loss, scores, create_graph=True)
    assert gradient.isfinite().all()
    (second,) = torch.autograd.grad(gradient.square().sum(), scores)
    assert second.isfinite().all()


@pytest.mark.parametrize("link", ["probability", "sigmoid", "log_sigmoid"])
def test_gradients_of_the_links(link):
    network = Network(
        1, {"sigmoid": torch.sigmoid, "log_sigmoid": nn.functional.logsigmoid}.get(link, torch.sigmoid)
    )
    if link == "probability":
        network = Network(2, lambda z: torch.softmax(z, dim=1))
    joint = widen_outputs(network, (0, 0, 1, 1), 2, _rows()).double().eval()
    plain = copy.deepcopy(joint)
    plain.module.post, plain.link = (lambda z: z), "logits"
    target = torch.arange(11) % 4
    for network in (joint, plain):
        nn.functional.cross_entropy(network(_rows().double()), target).backward()
    for mine, other in zip(joint.parameters(), plain.parameters(), strict=True):
        assert_allclose(mine.grad, other.grad, atol=1e-9)


class Squeezed(Network):
    def __init__(self):
        super().__init__(1, None)

    def forward(self, x):
        return torch.sigmoid(self.head(self.hidden(x))).view(-1)


def test_vmap_over_copies():
    joint, x = widen_outputs(Squeezed(), (0, 0, 1), 2, _rows()).eval(), _rows(8, 5)
    other = copy.deepcopy(joint)
    with torch.no_grad():
        other.module.head.bias.add_(torch.tensor([1.0, -1.0, 0.5]))
    params, buffers = torch.func.stack_module_state([joint, other])
    found = torch.vmap(lambda p, b: torch.func.functional_call(joint, (p, b), (x,)))(params, buffers)
    assert_allclose(found.detach(), torch.stack([joint(x), other(x)]).detach(), atol=1e-5)


def test_export_of_any_number_of_rows():
    joint = widen_outputs(Squeezed(), (0, 0, 1), 2, _rows()).eval()
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(joint, (_rows(),), dynamic_shapes=({0: rows},))
    for n_samples in (1, 2, 30):
        x = _rows(n_samples, 7)
        assert_allclose(program.module()(x).detach(), joint(x).detach(), atol=1e-6)


def test_copies_files_and_state():
    joint, x = widen_outputs(Squeezed(), (0, 0, 1), 2, _rows()).eval(), _rows(4, 5)
    fresh = widen_outputs(Squeezed(), (0, 0, 1), 2, _rows()).eval()
    with torch.no_grad():
        joint.module.head.bias.add_(torch.tensor([1.0, -1.0, 0.5]))
    fresh.load_state_dict(joint.state_dict())
    for other in (copy.deepcopy(joint), pickle.loads(pickle.dumps(joint)), fresh):
        assert torch.equal(other(x), joint(x))


@pytest.mark.parametrize("post", ["squeeze_all", "first", "number_of_rows", "view_sigmoid"])
def test_a_vector_gives_the_scores_of_its_layer_under_the_modules_own_names(post):
    joint = widen_outputs(Network(1, ONE_OUTPUT[post]), (0, 0, 1), 2, _rows()).eval()
    bare = copy.deepcopy(joint.bare)
    assert type(bare).__name__ == "Network"
    assert list(dict(bare.named_parameters())) == list(dict(joint.module.named_parameters()))
    assert torch.equal(bare(_rows()), joint(_rows()))
    assert not joint.module.head._forward_hooks
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(joint, (_rows(),), dynamic_shapes=({0: rows},))
    assert_allclose(program.module()(_rows(30, 7)).detach(), joint(_rows(30, 7)).detach(), atol=1e-6)


def test_threads_get_their_own_rows():
    joint = widen_outputs(Network(1, ONE_OUTPUT["number_of_rows"]), (0, 0, 1), 2, _rows()).eval()
    parts = [_rows(64, seed) for seed in range(4)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        expected = [joint(part) for part in parts]
        found = list(pool.map(lambda number: joint(parts[number % 4]), range(200)))
    assert all(torch.equal(one, expected[number % 4]) for number, one in enumerate(found))


class InParts(Network):
    """Many rows are taken in parts, by itself."""

    def forward(self, x):
        if len(x) > 40:
            return torch.cat([self(part) for part in x.split(40)])
        return super().forward(x)


class OfItsClass(Network):
    """Knows its class, and wants no other below it."""

    def __init_subclass__(cls):
        raise TypeError("no class below this one")

    def forward(self, x):
        assert type(self) is OfItsClass
        return super().forward(x)


def test_many_rows_in_parts():
    joint = widen_outputs(InParts(1, ONE_OUTPUT["first"]), (0, 0, 1), 2, _rows()).eval()
    rows = _rows(100, 3)
    whole = torch.cat([joint(part) for part in rows.split(25)])
    assert_allclose(joint(rows).detach(), whole.detach(), atol=1e-6)
    assert_allclose(joint.bare(rows).detach(), whole.detach(), atol=1e-6)


def test_what_follows_in_place_changes_no_score():
    network = Network(1, lambda z: z.clamp_(-1e-3, 1e3).view(-1)).eval()
    trial = JointNetwork(network, "at head", 1)
    scores = [trial(row).detach() for row in _rows().split(1)]
    assert min(scores) < -1e-3
    assert_allclose(torch.cat(scores), trial(_rows()).detach(), atol=1e-6)


def test_the_class_of_the_module_stays():
    joint = widen_outputs(OfItsClass(1, ONE_OUTPUT["first"]), (0, 0, 1), 2, _rows()).eval()
    bare = copy.deepcopy(joint.bare)
    assert type(bare) is OfItsClass
    with torch.no_grad():
        bare.head.bias.add_(1)
    assert_allclose(bare(_rows()).detach(), joint(_rows()).detach() + 1, atol=1e-5)


def test_a_link_to_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="link='at nowhere' is unknown"):
        JointNetwork(Squeezed(), "at nowhere", 2)


def test_double_precision():
    network = Network(2, lambda z: torch.softmax(z, dim=1)).double()
    joint = widen_outputs(network, (0, 1, 1), 2, _rows().double())
    assert {p.dtype for p in joint.parameters()} == {torch.float64}
    assert_allclose(_class_sums(joint, _rows().double(), (0, 1, 1)), _expected(network, _rows()), atol=1e-12)


@pytest.mark.parametrize(
    ("post", "reason"),
    [
        (torch.sigmoid, "between 0 and 1 and do not sum to 1"),
        (nn.functional.logsigmoid, "never above 0, and their exponentials do not sum to 1"),
        (lambda scores: scores.log_softmax(1) / np.log(2), "never above 0"),
        (lambda scores: -scores.softmax(1), "never above 0"),
        (lambda scores: -scores.log_softmax(1), "never below 0"),
        (lambda scores: 100 * scores.softmax(1), "never below 0"),
        (torch.relu, "never below 0"),
        (torch.tanh, "never beyond -1 and 1"),
        (lambda scores: scores.softmax(1).logit(), "sum to .* in every row"),
        (lambda scores: scores - scores.mean(dim=1, keepdim=True), "sum to .* in every row"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_that_can_be_several_things_are_refused(post, reason, seed):
    network = Network(2, post, seed=seed)
    for make in (
        lambda: check_outputs(network, 2, _rows()),
        lambda: widen_outputs(network, (0, 1), 2, _rows()),
    ):
        with pytest.raises(ValueError, match=rf"{reason}.*can be more than one thing.*nn.LogSoftmax"):
            make()


@pytest.mark.parametrize("post", [nn.functional.logsigmoid, torch.relu, torch.tanh])
def test_a_log_softmax_says_that_scores_are_scores(post):
    def log_softmax(scores):
        return post(scores).log_softmax(1)

    network = Network(3, log_softmax)
    joint = check_outputs(network, 3, _rows())
    assert joint.link == "logits"
    assert_allclose(joint(_rows()).exp().sum(dim=1).detach(), 1, atol=1e-5)


@pytest.mark.parametrize("n_outputs", [2, 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(
    ("post", "link"),
    [(nn.Identity(), "logits"), (nn.Softmax(dim=1), "probability"), (nn.LogSoftmax(dim=1), "logits")],
)
def test_links_are_told_at_any_scale_of_the_rows(n_outputs, scale, post, link):
    assert check_outputs(Network(n_outputs, post), n_outputs, scale * _rows()).link == link


def test_outputs_whose_rows_sum_to_one_by_chance_are_logits():
    network = Network(2, nn.Identity())
    with torch.no_grad():
        network.head.weight[:] = 0
        network.head.bias[:] = torch.tensor([0.25, 0.75])
    assert check_outputs(network, 2, _rows()).link == "logits"
