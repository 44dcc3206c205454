"""The estimator with networks that are brought along: instances, functions that make one, and skorch nets."""

import copy
import functools
import warnings

import numpy as np
import pytest
import sklearn
import torch
from fairlearn.metrics import MetricFrame
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    PassthroughScoring,
    ProgressBar,
    TrainEndCheckpoint,
)
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.metrics import degradation_gap, gap_with_error
from skfairprune.networks.recipe import take_over
from skfairprune.training import hypergradient as hypergradients
from skfairprune.training.stacks import CopyStack
from tests.networks import zoo

DATA = make_biased_classification(2500, base_rates=(0.6, 0.2), random_state=0)
N_FEATURES = DATA.X.shape[1]


class Net(nn.Module):
    """A network of class scores whose ending is given."""

    def __init__(self, n_outputs=2, ending=None, width=24):
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(N_FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.out = nn.Linear(width, n_outputs)
        self.ending = ending

    def forward(self, x):
        scores = self.out(self.hidden(x))
        return scores if self.ending is None else self.ending(scores)


def _fit(module, constraint="auto", **params):
    params = {"sparsity": 0.7, "max_epochs": 8, "random_state": 0} | params
    clf = FairPrunedClassifier(module, constraint=constraint, **params)
    return clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)


class Focal(nn.CrossEntropyLoss):
    """A log loss by its class, and another by what it computes."""

    def forward(self, scores, label):
        return (super().forward(scores, label)) ** 2


def _net_with(*names, base=NeuralNetClassifier, **params):
    """Return a net of a class that has methods of its own."""
    own = {name: lambda self, *args, **kwargs: pytest.fail("called") for name in names}
    return type("Own", (base,), own)(Net, criterion=nn.CrossEntropyLoss, max_epochs=3, **params)


def _softmax(scores):
    return scores.softmax(1)


def _squeezed_sigmoid(scores):
    return torch.sigmoid(scores).squeeze(-1)


def _first(scores):
    return scores[:, 0]


def _all_squeezed(scores):
    return scores.squeeze()


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    return _fit(Net())


@pytest.mark.parametrize(
    ("n_outputs", "ending"),
    [
        (2, None),
        (2, _softmax),
        (1, None),
        (1, torch.flatten),
        (1, _squeezed_sigmoid),
        (1, _first),
        (1, _all_squeezed),
    ],
)
def test_outputs_of_every_form_are_understood(n_outputs, ending, tmp_path):
    ending = torch.Tensor.flatten if ending is torch.flatten else ending
    torch.manual_seed(0)
    clf = _fit(Net(n_outputs, ending))
    proba = clf.predict_proba(DATA.X)
    assert proba.shape == (len(DATA.y), 2)
    assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert clf.score(DATA.X, DATA.y) > 0.7
    assert 0.7 <= clf.sparsity_ < 0.8
    gap = gap_with_error(
        DATA.y,
        clf.predict(DATA.X),
        constraint="demographic_parity",
        sensitive_features=DATA.sensitive_features,
    )
    assert gap.value < 0.05 + 2 * gap.standard_error
    clf.save(tmp_path / "model")
    loaded = FairPrunedClassifier.load(tmp_path / "model", module=Net(n_outputs, ending))
    assert_array_equal(loaded.predict_proba(DATA.X), proba)
    plain = clf.to_torch()
    for rows in (DATA.X[:1], DATA.X[:9]):
        found = plain(torch.tensor(rows, dtype=torch.float32))
        assert_allclose(found, clf.predict_proba(rows), atol=1e-6)


def test_the_template_and_the_global_generator_are_left_alone():
    torch.manual_seed(0)
    net = Net().train()
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    first = _fit(net, max_epochs=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert_array_equal(first.predict_proba(DATA.X), _fit(net, max_epochs=3).predict_proba(DATA.X))


def test_training_starts_from_the_weights_of_the_template():
    torch.manual_seed(0)
    net = Net()
    clf = FairPrunedClassifier(
        net, sparsity=0, constraint=None, lr=1e-12, weight_decay=0, max_epochs=3, random_state=0
    ).fit(DATA.X, DATA.y)
    moved = copy.deepcopy(net).train()
    for _ in range(20):
        moved(torch.tensor(DATA.X, dtype=torch.float32))  # the batch norms' statistics move towards these
    expected = moved.eval()(torch.tensor(DATA.X, dtype=torch.float32)).softmax(1).detach().numpy()
    assert_allclose(clf.predict_proba(DATA.X), expected, atol=0.05)
    assert np.ptp(expected) > 0.2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "params", [{}, {"pos_label": 0}, {"constraint": None}, {"constraint": "equalized_odds"}]
)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_the_template_and_the_dense_network_say_the_same(params, n_outputs):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, n_outputs))
    rows, label = torch.tensor(DATA.X, dtype=torch.float32), torch.tensor(DATA.y)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        scores = net(rows) if n_outputs == 2 else nn.functional.pad(net(rows), (1, 0))
        nn.functional.cross_entropy(scores, label).backward()
        optimizer.step()
    scores = net(rows) if n_outputs == 2 else nn.functional.pad(net(rows), (1, 0))
    clf = FairPrunedClassifier(
        net, sparsity=0, lr=1e-9, weight_decay=0, max_epochs=3, random_state=0, **params
    ).fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    assert_allclose(clf.predict_uncorrected_proba(DATA.X), scores.softmax(1).detach(), atol=1e-5)


def test_a_callable_gets_columns_and_outputs_and_fresh_weights():
    asked = []

    def make(n_features, n_outputs):
        asked.append((n_features, n_outputs))
        return Net(n_outputs)

    first = _fit(make, max_epochs=3)
    assert asked == [(N_FEATURES, 4)]  # two classes by two groups
    assert_array_equal(first.predict_proba(DATA.X), _fit(make, max_epochs=3).predict_proba(DATA.X))
    other = _fit(make, max_epochs=3, random_state=1)
    assert np.abs(first.predict_proba(DATA.X) - other.predict_proba(DATA.X)).max() > 1e-3
    _fit(make, constraint=None, max_epochs=3)
    assert asked[-1] == (N_FEATURES, 2)


@pytest.mark.parametrize(
    "made",
    [zoo.PlainMLP, zoo.ResNetTabular, zoo.FTTransformer, zoo.Conv1dNetwork, zoo.DenselyConnected],
)
def test_the_small_network_is_what_the_report_says(made):
    clf = _fit(lambda n_features, n_outputs: made(n_features, n_outputs), max_epochs=3, sparsity=0.5)
    report = clf.pruning_report_
    n_parameters = sum(p.numel() for p in clf.module_.parameters())
    assert report.loc["network", "parameters_after"] == n_parameters
    total = report.loc["total"]
    assert clf.sparsity_ == 1 - total["parameters_after"] / total["parameters_before"] >= 0.5
    assert sum(int(mask.sum()) for mask in clf.masks_) == total["units_after"]
    assert (
        report["note"]
        .str.contains("outputs are, or scale, those of the network|they are the network's")
        .sum()
        == 1
    )
    assert not clf.module_.training


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_digits_with_a_group_that_is_harder_to_read():
    X, y, group = zoo.make_biased_digits(0)
    X, X_test, y, y_test, group, _ = train_test_split(
        X, y, group, test_size=0.3, random_state=0, stratify=np.char.add(group, y.astype(str))
    )
    clf = FairPrunedClassifier(
        lambda n, k: zoo.Conv2dNetwork(n, k, width=16),
        sparsity=0.7,
        constraint="error_rate_parity",
        max_epochs=15,
        random_state=0,
    ).fit(X, y, sensitive_features=group)
    assert clf.score(X_test, y_test) > 0.8
    assert (
        clf.pruning_report_.loc["total", "macs_after"] < clf.pruning_report_.loc["total", "macs_before"] / 2
    )


@pytest.mark.parametrize(
    ("criterion", "order"),
    [
        *((criterion, "joint") for criterion in ("magnitude", "fpgm", "snip", "taylor", "lottery", "random")),
        *((criterion, "joint") for criterion in ("fairgrape", "fairprune", "obs")),
        ("bilevel", "prune_then_fair"),
        ("bilevel", "fair_then_prune"),
    ],
)
def test_every_criterion_prunes_own_networks(criterion, order):
    clf = _fit(
        lambda n, k: zoo.ResNetTabular(n, k), criterion=criterion, order=order, max_epochs=4, sparsity=0.6
    )
    assert 0.6 <= clf.sparsity_ < 0.7


@pytest.mark.parametrize("hypergradient", ["closed_form", "implicit"])
def test_every_hypergradient_works_on_concatenations(hypergradient):
    clf = _fit(
        lambda n, k: zoo.DenselyConnected(n, k), hypergradient=hypergradient, max_epochs=3, sparsity=0.6
    )
    assert clf.sparsity_ >= 0.6


def test_obs_needs_linear_readers():
    with pytest.raises(ValueError, match="criterion='obs' refits the linear layers"):
        _fit(lambda n, k: zoo.Conv1dNetwork(n, k), criterion="obs")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_auto_and_degradation_and_distillation():
    clf = _fit(Net(), sparsity="auto", max_accuracy_drop=0.05, max_epochs=3)
    assert len(clf.sparsity_path_) > 2
    clf = _fit(Net(), constraint="degradation_parity", max_epochs=3)
    assert clf.dense_module_ is not None
    for teacher in ("dense", "boosting"):
        assert _fit(Net(), distill=teacher, max_epochs=3).sparsity_ >= 0.7


def _chosen(constraint, label, y, decided, dense):
    """Return what the rate of a constraint averages, and the rows of each of its events."""
    if constraint == "error_rate_parity":
        return decided != y, [np.ones(len(y), bool)]
    if constraint == "degradation_parity":
        return (dense == y).astype(float) - (decided == y), [np.ones(len(y), bool)]
    return decided == label, [y == label, y != label] if constraint == "equalized_odds" else [y == y]


# Class "c" is drawn at random: whether a row gets it is noise, which is told.
@pytest.mark.filterwarnings("ignore:The rules behind the held-out figures")
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    "constraint", ["demographic_parity", "equalized_odds", "error_rate_parity", "degradation_parity"]
)
def test_more_classes_keep_the_bound_class_by_class(constraint, stratified):
    rng = np.random.default_rng(0)
    y = np.where(rng.uniform(size=len(DATA.y)) < 0.3, "c", np.where(DATA.y == 1, "b", "a"))
    group = DATA.sensitive_features
    strata = {"control_features": rng.choice(["north", "south"], len(y))} if stratified else {}
    bound = 0.3 if stratified else 0.1  # cells of some fifty rows
    torch.manual_seed(0)
    clf = FairPrunedClassifier(
        Net(3), sparsity=0.5, constraint=constraint, difference_bound=bound, max_epochs=10, random_state=0
    ).fit(DATA.X, y, sensitive_features=group, **strata)
    decided = clf.predict(DATA.X)
    assert clf.predict_proba(DATA.X).shape == (len(y), 3)
    dense, data, gaps = None, {"sensitive_features": group, **strata}, []
    if constraint == "degradation_parity":
        scores = clf.dense_module_(torch.tensor(DATA.X, dtype=torch.float32))
        dense = clf.classes_[scores.argmax(dim=1).numpy()]
    for label in clf.classes_:
        chosen, events = _chosen(constraint, label, y, decided, dense)
        for rows in events:
            frame = MetricFrame(
                metrics=lambda y_true, y_pred: np.mean(y_pred),
                y_true=rows[rows],
                y_pred=chosen[rows],
                **{name: values[rows] for name, values in data.items()},
            )
            gaps.append(np.max(frame.difference()))
    if dense is None:
        assert_allclose(gap_with_error(y, decided, constraint=constraint, **data).value, max(gaps))
    else:
        assert_allclose(degradation_gap(y, decided, dense, **data).value, max(gaps))
    assert max(gaps) < bound + 2 * clf.validation_gap_.standard_error


def test_a_skorch_net_is_taken_over(monkeypatch):
    from skfairprune.training import phases

    seen = []
    run = phases.PhaseRunner.run

    def spy(self, phase, *args, **kwargs):
        seen.append((phase, self.optimizer, dict(self.optimizer_params), self.lr, self.batch_size))
        return run(self, phase, *args, **kwargs)

    monkeypatch.setattr(phases.PhaseRunner, "run", spy)
    net = NeuralNetClassifier(
        Net,
        module__ending=_softmax,
        module__width=16,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.05,
        batch_size=100,
        max_epochs=6,
        callbacks=[EarlyStopping(patience=2)],
    )
    clf = FairPrunedClassifier(net, sparsity=0.5, random_state=0)
    clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    assert {row[1:3] == (torch.optim.SGD, {"momentum": 0.9}) for row in seen} == {True}
    assert {row[3:] for row in seen} == {(0.05, 100)}
    assert clf.n_iter_ <= 6
    assert clf.pruning_report_.loc["hidden.0", "units_before"] == 16
    assert not net.initialized_


@pytest.mark.parametrize("params", [{}, {"sparsity": 0}, {"granularity": "weight"}])
def test_a_network_may_switch_gradients_on(params):
    class WithGradients(Net):
        def forward(self, x):
            with torch.enable_grad():
                return super().forward(x)

    torch.manual_seed(0)
    instance = Net(1)
    with_gradients = WithGradients(1)
    with_gradients.load_state_dict(instance.state_dict())
    fits = [_fit(module, max_epochs=3, **params) for module in (instance, with_gradients)]
    assert_array_equal(*(fit.predict_proba(DATA.X) for fit in fits))


@pytest.mark.parametrize("params", [{}, {"sparsity": 0}, {"granularity": "weight"}])
def test_a_forward_pass_may_take_a_gradient(params):
    """A step against the gradient of .5 |x|² by .1 gives .9 x."""

    class Stepping(Net):
        def forward(self, x):
            with torch.enable_grad():
                point = x.detach().clone().requires_grad_()
                (slope,) = torch.autograd.grad(0.5 * point.square().sum(), point)
            return super().forward(x - 0.1 * slope)

    class Scaled(Net):
        def forward(self, x):
            return super().forward(x - 0.1 * x)

    torch.manual_seed(0)
    scaled, stepping = Scaled(1), Stepping(1)
    stepping.load_state_dict(scaled.state_dict())
    fits = [_fit(module, max_epochs=3, **params) for module in (scaled, stepping)]
    assert_array_equal(*(fit.predict_proba(DATA.X) for fit in fits))


@pytest.mark.parametrize("module", [Net, functools.partial(Net, 1), Net(), None, NeuralNetClassifier])
def test_a_network_without_parameters_to_set_is_told(module):
    clf = FairPrunedClassifier(module)
    with pytest.raises(ValueError, match=r"module__width is for a skorch net.*functools.partial"):
        clf.set_params(module__width=16)
    assert clf.set_params(module=NeuralNetClassifier(Net), module__lr=0.5).module.lr == 0.5


def test_an_optimizer_that_states_its_own_rate_is_taken():
    net = NeuralNetClassifier(
        Net, optimizer=functools.partial(torch.optim.SGD, momentum=0.9), optimizer__lr=0.02, max_epochs=3
    )
    FairPrunedClassifier(net, sparsity=0.5, random_state=0).fit(DATA.X, DATA.y)
    net = net.set_params(optimizer__foo=1)
    with pytest.raises(ValueError, match=r"optimizer SGD cannot be made .*\['foo', 'lr'\]"):
        FairPrunedClassifier(net, sparsity=0.5, random_state=0).fit(DATA.X, DATA.y)


def test_the_nets_schedule_takes_the_place_of_the_own():
    rates = []

    class Note(LRScheduler):
        def on_batch_end(self, net, training, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])
            super().on_batch_end(net, training, **kwargs)

    net = NeuralNetClassifier(
        Net, lr=0.02, max_epochs=3, callbacks=[Note(torch.optim.lr_scheduler.ConstantLR, factor=1.0)]
    )
    FairPrunedClassifier(net, sparsity=0.5, random_state=0).fit(DATA.X, DATA.y)
    assert set(rates) == {0.02}


def test_nested_parameters_are_searched_in_a_pipeline():
    pipeline = make_pipeline(
        StandardScaler(),
        FairPrunedClassifier(
            NeuralNetClassifier(Net, max_epochs=3, lr=0.01, optimizer=torch.optim.Adam),
            sparsity=0.5,
            difference_bound=0.5,
            random_state=0,
        ),
    )
    assert clone(pipeline).get_params()["fairprunedclassifier__module__max_epochs"] == 3
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            pipeline, {"fairprunedclassifier__module__module__width": [8, 32]}, cv=2, error_score="raise"
        ).fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    width = search.best_params_["fairprunedclassifier__module__module__width"]
    assert search.best_estimator_[-1].pruning_report_.loc["hidden.0", "units_before"] == width


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (NeuralNetClassifier(Net, criterion=nn.MSELoss), "criterion is .*MSELoss.*log loss"),
        (NeuralNetClassifier(Net, criterion=Focal), "criterion is .*Focal.*log loss"),
        (_net_with("get_loss"), r"class Own has \['get_loss'\] of its own.*does not call"),
        (_net_with("on_batch_end", "initialize_module"), r"has \['initialize_module', 'on_batch_end'\] of"),
        (_net_with("fit", base=NeuralNet), r"class Own has \['fit'\] of its own"),
        (_net_with("get_default_callbacks", base=NeuralNetBinaryClassifier), "'get_default_callbacks'"),
        (_net_with(optimizer=torch.optim.SparseAdam), "optimizer SparseAdam cannot be .*dense gradients"),
        (NeuralNetClassifier(Net, batch_size=0), "batch_size must be an integer of at least 1; got 0"),
        (NeuralNetClassifier(Net, batch_size=None), "batch_size must be .*; got None"),
        (NeuralNetClassifier(Net, max_epochs="9"), "max_epochs must be .*; got '9'"),
        (NeuralNetClassifier(Net, max_epochs=3.5), "max_epochs must be .*; got 3.5"),
        (NeuralNetClassifier(Net, callbacks=[3]), "callbacks hold 3, which is no skorch Callback"),
        (
            NeuralNetClassifier(Net, callbacks=[EarlyStopping(monitor="valid_acc")]),
            "EarlyStopping monitors 'valid_acc'.*monitor to 'valid_loss' or 'train_loss'",
        ),
        (NeuralNetClassifier(Net, optimizer__foo=1), r"optimizer SGD cannot be made .*\['foo'\]: .*foo"),
        (NeuralNetClassifier(Net().requires_grad_(False)), "no parameter that is trained"),
        (NeuralNetClassifier(Net, iterator_train=list), "iterator_train list cannot be made"),
        (NeuralNetClassifier(Net, criterion__weight=torch.ones(2)), r"criterion__weight.*class_weight"),
        (NeuralNetClassifier(Net, callbacks=[EpochScoring("accuracy")]), "EpochScoring scores"),
        (NeuralNetClassifier(Net, callbacks=[PassthroughScoring("loss")]), "PassthroughScoring scores"),
        (NeuralNetClassifier(Net, callbacks=[InputShapeSetter]), "InputShapeSetter makes.*set the module__"),
        (NeuralNetClassifier(Net, callbacks=[TrainEndCheckpoint()]), "TrainEndCheckpoint reads or writes"),
        (NeuralNetClassifier(Net, callbacks=[LoadInitState(Checkpoint())]), "LoadInitState reads or writes"),
        (NeuralNetClassifier(Net, callbacks=[("bar", ProgressBar())]), "ProgressBar counts.*verbose=1"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(net, match):
    with pytest.raises(ValueError, match=match):
        FairPrunedClassifier(net).fit(DATA.X, DATA.y)


def test_methods_that_a_fit_has_no_part_in_stay():
    net = _net_with("predict", "predict_proba", "forward", "__repr__", "save_params", "score")
    fitted = [
        FairPrunedClassifier(one, sparsity=0.5, random_state=0).fit(DATA.X, DATA.y)
        for one in (net, _net_with())
    ]
    assert_array_equal(*(clf.predict_proba(DATA.X) for clf in fitted))


@pytest.mark.parametrize("base", [NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier])
def test_skorchs_own_classes_are_taken(base):
    recipe = take_over(base(Net, criterion=nn.BCEWithLogitsLoss, lr=0.02), torch.device("cpu"))
    assert recipe.lr == 0.02


@pytest.mark.parametrize(
    "optimizer", [torch.optim.LBFGS, torch.optim.Adagrad, functools.partial(torch.optim.Adam, fused=True)]
)
def test_an_optimizer_is_tried_on_a_step(optimizer):
    assert take_over(_net_with(optimizer=optimizer), torch.device("cpu")).optimizer is optimizer


@pytest.mark.parametrize(("module", "name"), [(functools.partial(Net, depth=3), "Net"), ("Net", "str")])
def test_a_net_whose_module_cannot_be_made_is_refused(module, name):
    with pytest.raises(TypeError, match=rf"The net's module {name} cannot be made of module__ parameters"):
        FairPrunedClassifier(NeuralNetClassifier(module, max_epochs=3)).fit(DATA.X, DATA.y)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"hidden_layer_sizes": (5,)}, r"hidden_layer_sizes=\(5,\) has no meaning with module=Net"),
        ({"prune_inputs": True}, "prune_inputs=True has no meaning"),
        ({"dropout": 0.5}, "dropout=0.5 has no meaning"),
    ],
)
def test_parameters_of_the_built_in_network_are_refused(params, match):
    with pytest.raises(InvalidParameterError, match=match):
        FairPrunedClassifier(Net(), **params).fit(DATA.X, DATA.y)


def test_a_narrower_constructor_leaves_the_defaults_to_its_base():
    class Narrow(FairPrunedClassifier):
        def __init__(self, module=None, *, sparsity=0.5, n_bins=8, max_epochs=3):
            super().__init__(module, sparsity=sparsity, n_bins=n_bins, max_epochs=max_epochs)

    assert Narrow(Net()).fit(DATA.X, DATA.y).sparsity_ >= 0.5
    with pytest.raises(InvalidParameterError, match=r"n_bins=48 has no meaning"):
        Narrow(Net(), n_bins=48).fit(DATA.X, DATA.y)


def test_parameters_that_the_net_states_are_refused():
    with pytest.raises(InvalidParameterError, match=r"lr=0.1 has no meaning .*the net states its own"):
        FairPrunedClassifier(NeuralNetClassifier(Net), lr=0.1).fit(DATA.X, DATA.y)
    net = NeuralNetClassifier(Net).initialize()
    with pytest.raises(InvalidParameterError, match=r"fitted, or initialized.*sklearn.clone"):
        FairPrunedClassifier(net).fit(DATA.X, DATA.y)


def test_a_callable_that_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module; it returned 3"):
        FairPrunedClassifier(lambda n, k: 3).fit(DATA.X, DATA.y)


def test_a_network_without_units_is_refused_unless_nothing_is_pruned():
    flat = nn.Sequential(nn.Linear(N_FEATURES, 2))
    with pytest.raises(ValueError, match=r"no unit that can be removed.*sparsity=0"):
        FairPrunedClassifier(flat).fit(DATA.X, DATA.y)
    clf = FairPrunedClassifier(flat, sparsity=0, max_epochs=5, random_state=0)
    clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    assert clf.sparsity_ == 0
    assert clf.masks_ == []
    assert clf.pruning_report_.loc["network", "parameters_after"] == 4 * (N_FEATURES + 1)


def test_all_bounds_are_served(fitted):
    clf = copy.deepcopy(fitted)
    wide, narrow = clf.set_bound(0.2).predict(DATA.X), clf.set_bound(0.01).predict(DATA.X)
    assert (wide != narrow).any()


def test_deployment_of_own_networks(fitted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    expected = fitted.predict_proba(DATA.X)
    fitted.to_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    plain = fitted.to_torch()
    assert not any("skfairprune" in type(module).__module__ for module in plain.modules())
    for n_rows in (1, 9, 1000):
        rows = DATA.X[:n_rows].astype(np.float32)
        label, proba = session.run(None, {"X": rows})
        assert_allclose(proba, expected[:n_rows], atol=1e-5)
        assert_array_equal(label, fitted.predict(rows))
        assert_allclose(plain(torch.from_numpy(rows)), expected[:n_rows], atol=1e-5)


def test_networks_of_layers_of_torch_need_no_exported_program():
    net = nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 2))
    clf = _fit(net, sparsity=0.5)
    plain = clf.to_torch()
    assert isinstance(plain, nn.Sequential)
    rows = torch.tensor(DATA.X, dtype=torch.float32)
    assert_allclose(plain(rows), clf.predict_proba(DATA.X), atol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(1),
        lambda: lambda n_features, n_outputs: Net(n_outputs),
        lambda: NeuralNetClassifier(Net, module__ending=_softmax, max_epochs=3, lr=0.01),
        lambda: nn.Sequential(nn.Linear(N_FEATURES, 16, bias=False), nn.ReLU(), nn.Linear(16, 2, bias=False)),
    ],
    ids=["instance", "callable", "skorch", "without a bias"],
)
def test_files_hold_own_networks_without_their_code(make, tmp_path):
    torch.manual_seed(0)
    template = make()
    params = {} if isinstance(template, NeuralNetClassifier) else {"max_epochs": 3}
    clf = FairPrunedClassifier(template, sparsity=0.5, random_state=0, **params)
    clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    clf.save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"was fitted with module=.*: give the same module"):
        FairPrunedClassifier.load(tmp_path / "net.safetensors")
    loaded = FairPrunedClassifier.load(tmp_path / "net.safetensors", module=template)
    assert_array_equal(loaded.predict_proba(DATA.X), clf.predict_proba(DATA.X))
    assert_array_equal(loaded.set_bound(0.2).predict(DATA.X), clf.set_bound(0.2).predict(DATA.X))
    assert loaded.module is template
    for name, module in clf.module_.named_modules():
        assert repr(module) == repr(loaded.module_.get_submodule(name)), name


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_files_refuse_a_lazy_network(fitted, tmp_path):
    fitted.save(tmp_path / "net.safetensors")
    lazy = nn.Sequential(nn.LazyLinear(16), nn.GELU(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"lazy layers without a size, .*Run it once on some rows"):
        FairPrunedClassifier.load(tmp_path / "net.safetensors", module=lazy)


def test_files_refuse_another_network(fitted, tmp_path):
    fitted.save(tmp_path / "net.safetensors")
    for other in (zoo.PlainMLP(N_FEATURES, 2), nn.Linear(N_FEATURES, 2)):
        with pytest.raises(ValueError, match="does not hold a network with the layers of module="):
            FairPrunedClassifier.load(tmp_path / "net.safetensors", module=other)
    built_in = FairPrunedClassifier(hidden_layer_sizes=(8,), sparsity=0.1, max_epochs=3).fit(DATA.X, DATA.y)
    built_in.save(tmp_path / "built_in.safetensors")
    with pytest.raises(ValueError, match="holds the built-in network: load it without module"):
        FairPrunedClassifier.load(tmp_path / "built_in.safetensors", module=Net())


def test_a_network_that_the_parameters_no_longer_ask_for_is_not_saved(fitted, tmp_path):
    path = tmp_path / "net.safetensors"
    fitted = copy.deepcopy(fitted).set_params(module=None)
    with pytest.raises(ValueError, match=r"is a network of your own, .* clf.set_params\(module=...\)"):
        fitted.save(path)
    built_in = FairPrunedClassifier(hidden_layer_sizes=(8,), sparsity=0.1, max_epochs=3).fit(DATA.X, DATA.y)
    with pytest.raises(ValueError, match=r"is the built-in network, .* clf.set_params\(module=None\)"):
        built_in.set_params(module=Net()).save(path)
    assert not path.exists()


def test_a_callable_that_returns_one_module_every_time():
    torch.manual_seed(0)
    net = Net(4)
    before = copy.deepcopy(net.state_dict())
    first = _fit(lambda n, k: net, max_epochs=3)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert_array_equal(
        first.predict_proba(DATA.X), _fit(lambda n, k: net, max_epochs=3).predict_proba(DATA.X)
    )


def test_files_refuse_a_module_that_does_something_else(tmp_path):
    def make(activation):
        return lambda n, k: nn.Sequential(nn.Linear(n, 16), activation(), nn.Linear(16, k))

    clf = _fit(make(nn.ReLU), sparsity=0.5, max_epochs=3)
    clf.save(tmp_path / "net.safetensors")
    state = torch.random.get_rng_state()
    FairPrunedClassifier.load(tmp_path / "net.safetensors", module=make(nn.ReLU))
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ValueError, match="gives other outputs than when it was saved"):
        FairPrunedClassifier.load(tmp_path / "net.safetensors", module=make(nn.Tanh))


def test_outputs_that_are_flattened_leave_as_they_should():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    clf = _fit(net, sparsity=0.5, max_epochs=3)
    rows = torch.tensor(DATA.X, dtype=torch.float32)
    assert_allclose(clf.to_torch()(rows), clf.predict_proba(DATA.X), atol=1e-6)


def test_frozen_weights_are_no_parts_of_a_weight_mask():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    net[0].requires_grad_(False)
    clf = _fit(net, granularity="weight", sparsity=0.5, max_epochs=3)
    assert torch.equal(clf.module_.network.module[0].weight, net[0].weight)
    assert len(clf.masks_) == 2


@pytest.mark.parametrize("criterion", ["lottery", "magnitude"])
@pytest.mark.parametrize("sparsity", [0, 0.3])
def test_weights_that_start_at_0_learn_unless_they_are_removed(criterion, sparsity):
    class ZeroBranch(nn.Module):
        def __init__(self, n_features, n_outputs):
            super().__init__()
            self.straight = nn.Linear(n_features, n_outputs)
            self.inner, self.branch = nn.Linear(n_features, 16), nn.Linear(16, n_outputs)
            nn.init.zeros_(self.branch.weight)

        def forward(self, x):
            return self.straight(x) + self.branch(self.inner(x).relu())

    clf = _fit(ZeroBranch, criterion=criterion, granularity="weight", sparsity=sparsity)
    mask = clf.masks_[[*clf.pruning_report_.index].index("branch")]
    learned = clf.module_.network.module.branch.weight.detach().numpy()
    assert mask.any()
    assert_array_equal(learned != 0, mask)


@pytest.mark.parametrize("hypergradient", ["closed_form", "implicit"])
def test_weights_that_are_not_trained_do_not_follow_the_gates(hypergradient, monkeypatch):
    """Where none that could follow is trained, the estimators are the first-order one, but for the biases."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    for layer in net[2:]:
        layer.requires_grad_(False)
    given = []

    def spy(method, upper, lower, gates, parameters, **others):
        found = hypergradients.hypergradient(method, upper, lower, gates, parameters, **others)
        given.append((set(parameters), found, hypergradients.first_order(upper, gates, parameters)))
        return found

    monkeypatch.setattr("skfairprune.training.net.hypergradient", spy)
    _fit(net, constraint=None, sparsity=0.5, hypergradient=hypergradient)
    names, found, first_order = given[0]
    assert names == {"network.module.0.weight", "network.module.0.bias"}
    assert torch.equal(found, first_order) == (hypergradient == "closed_form")


def test_a_spectral_norm_is_one_in_the_network_that_stays():
    """Its buffers are unit vectors. Their average is shorter than 1, and the weights too large by that."""
    spectral_norm = nn.utils.parametrizations.spectral_norm

    def make(n_features, n_outputs):
        first, second = spectral_norm(nn.Linear(n_features, 32)), spectral_norm(nn.Linear(32, 32))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(32, n_outputs))

    network = _fit(make, constraint=None, sparsity=0, max_epochs=6).module_.network.module
    for layer in (network[0], network[2]):
        lengths = [float(vector.norm()) for vector in layer.parametrizations.weight.buffers()]
        assert_allclose(lengths, [1, 1], rtol=1e-5)
        assert_allclose(torch.linalg.matrix_norm(layer.weight.detach(), 2), 1, atol=0.1)


def test_a_norm_is_clipped_for_each_network_by_itself():
    norms = []

    class Look(Callback):
        def on_batch_end(self, net, training, **kwargs):
            if training and isinstance(net.module_, CopyStack):
                for network in net.module_.networks:
                    gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None]
                    norms.append(float(torch.stack(gradients).norm()))

    net = NeuralNetClassifier(Net, max_epochs=6, callbacks=[GradientNormClipping(0.01), Look()])
    FairPrunedClassifier(net, sparsity=0.5, random_state=0).fit(DATA.X, DATA.y)
    assert len(norms) > 15
    assert_allclose(norms, 0.01, rtol=1e-3)


def test_parameters_that_are_no_real_numbers_are_refused():
    net = Net()
    net.phase = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"parameters \['phase'\] are no real numbers"):
        _fit(net)


class _OneLayerResidual(nn.Module):
    """A block whose one layer reads the units that it makes, and a column changed in place."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.first, self.block = nn.Linear(n_features, 32), nn.Linear(32, 32)
        self.last = nn.Linear(32, n_outputs)

    def forward(self, x):
        x = x.clone()
        x[:, 0] = x[:, 0].abs().log1p()
        x = torch.relu(self.first(x))
        return self.last(x + torch.relu(self.block(x)))


@pytest.mark.parametrize("criterion", ["bilevel", "obs"])
def test_a_layer_that_reads_the_units_it_makes_is_refitted(criterion):
    data = make_biased_classification(400, random_state=0)
    clf = FairPrunedClassifier(
        _OneLayerResidual, sparsity=0.5, max_epochs=4, criterion=criterion, random_state=0
    ).fit(data.X, data.y, sensitive_features=data.sensitive_features)
    network = clf.module_.network.get_submodule("module")
    assert network.block.weight.shape == (network.first.out_features,) * 2
    assert network.first.out_features < 32
    assert clf.score(data.X, data.y) > 0.7


@pytest.mark.parametrize("criterion", ["bilevel", "lottery"])
def test_a_network_that_stays_whole_trains_for_all_epochs(criterion):
    clf = _fit(
        lambda n, k: zoo.PlainMLP(n, k), criterion=criterion, sparsity=0, max_epochs=6, n_iter_no_change=None
    )
    assert clf.n_iter_ == 6
    assert set(clf.history_["phase"]) <= {"dense", "fine-tune"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_schedule_by_the_held_out_loss_follows_the_training_loss_where_nothing_is_held_out():
    seen = []

    class Note(LRScheduler):
        def on_epoch_end(self, net, **kwargs):
            seen.append((type(net).__name__, self.monitor))
            super().on_epoch_end(net, **kwargs)

    plateau = Note(torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="valid_loss")
    net = NeuralNetClassifier(Net, max_epochs=8, callbacks=[plateau])
    clf = FairPrunedClassifier(net, sparsity=0.5, constraint=None, random_state=0)
    clf.fit(DATA.X, DATA.y)
    assert {kind for kind, _ in seen} >= {"BilevelNet", "FineTuneNet"}
    assert {monitor for kind, monitor in seen if kind == "BilevelNet"} == {"train_loss"}
    assert {monitor for kind, monitor in seen if kind == "PhaseNet"} == {"valid_loss"}
    assert plateau.monitor == "valid_loss"
    net = net.set_params(callbacks=[LRScheduler("StepLR", step_size=2, monitor="valid_acc")])
    FairPrunedClassifier(net, sparsity=0.5, constraint=None).fit(DATA.X, DATA.y)  # which reads no monitor
    net = net.set_params(callbacks=[LRScheduler("ReduceLROnPlateau", monitor="valid_acc")])
    with pytest.raises(ValueError, match="LRScheduler monitors 'valid_acc', and the epochs of a fit have no"):
        FairPrunedClassifier(net).fit(DATA.X, DATA.y)


class _Counts(Net):
    """Changes with every pass in training, by what no file holds."""

    def __init__(self, *args):
        super().__init__(*args)
        self.n_passes = 0

    def forward(self, x):
        self.n_passes += self.training
        return super().forward(x / (1 + 1 / (1 + 0.01 * self.n_passes)))


class _ExtraState(Net):
    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        pass


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_that_a_file_does_not_hold_all_of_is_told(tmp_path):
    clf = FairPrunedClassifier(NeuralNetClassifier(_Counts, max_epochs=3), sparsity=0.5, random_state=0)
    clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)
    with pytest.warns(
        UserWarning, match=r"(?s)cannot read this file.*persistent buffer, or use joblib"
    ) as told:
        clf.save(tmp_path / "model.safetensors")
    assert told[0].filename == __file__
    with pytest.raises(ValueError, match="gives other outputs"):
        FairPrunedClassifier.load(tmp_path / "model.safetensors", module=NeuralNetClassifier(_Counts))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("state", [{"a": 1}, torch.ones(1)])
def test_a_network_with_a_state_that_is_no_data_is_not_saved(state, tmp_path):
    network = _ExtraState()
    network.state = state
    clf = FairPrunedClassifier(network, sparsity=0.5, max_epochs=3, constraint=None, random_state=0)
    clf.fit(DATA.X, DATA.y)
    with pytest.raises(ValueError, match="what a module's get_extra_state returns"):
        clf.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_module_that_was_changed_after_the_fit_does_not_keep_from_saving(tmp_path):
    network = _OddNames(DATA.X.shape[1], 2)
    original = copy.deepcopy(network)
    clf = FairPrunedClassifier(network, sparsity=0.5, max_epochs=3, constraint=None, random_state=0)
    expected = clf.fit(DATA.X, DATA.y).predict_proba(DATA.X)
    network.network = nn.Linear(3, 8)
    with pytest.warns(UserWarning, match="If the module was changed after fit, give load one as it was then"):
        clf.save(tmp_path / "model.safetensors")
    loaded = FairPrunedClassifier.load(tmp_path / "model.safetensors", module=original)
    assert_array_equal(loaded.predict_proba(DATA.X), expected)


class _OddNames(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.network, self.total = nn.Linear(n_features, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.out(self.total(self.network(x).relu()).relu())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_layers_that_are_called_as_a_sum_have_rows_of_their_own(granularity):
    clf = FairPrunedClassifier(_OddNames, granularity=granularity, max_epochs=3, random_state=0)
    report = clf.set_params(sparsity=0.5).fit(DATA.X, DATA.y).pruning_report_
    assert report.index.tolist() == ["network (layer)", "total (layer)", "out", "total", "network"]
    parts = report.iloc[:3]["parameters_after"].sum()
    assert report.loc["network", "parameters_after"] == parts
    assert "true zeros" not in report.loc["total (layer)", "note"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_columns_that_float32_cannot_tell_apart_are_told():
    X = np.column_stack([1.7e9 + np.arange(len(DATA.X)) % 100, DATA.X])
    clf = FairPrunedClassifier(_OddNames, sparsity=0.5, max_epochs=3, constraint=None, random_state=0)
    with pytest.warns(UserWarning, match=r"float32, which cannot tell the values of the columns 0 apart"):
        clf.fit(X, DATA.y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.set_params(dtype="float64").fit(X, DATA.y)
        clf.set_params(dtype="auto").fit(DATA.X, DATA.y)
    assert not any("float32" in str(warning.message) for warning in caught)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_row_a_batch_beside_a_batch_norm_is_told():
    network = nn.Sequential(nn.Linear(DATA.X.shape[1], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    clf = FairPrunedClassifier(network, sparsity=0.5, batch_size=1, max_epochs=3)
    with pytest.raises(ValueError, match="With batch_size=1 a batch of the dense phase has one row"):
        clf.set_params(constraint=None).fit(DATA.X[:300], DATA.y[:300])
