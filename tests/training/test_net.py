import copy
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import log_softmax, softmax
from skorch.callbacks import Callback

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.units import find_units
from skfairprune.training import net as nets
from skfairprune.training import replay as replay_module
from skfairprune.training.batches import Batch, Batches, Rows
from skfairprune.training.net import BilevelNet, FineTuneNet, PhaseNet, joint_proba
from skfairprune.training.objective import Objective
from skfairprune.training.replay import ReplayedGradient, can_replay
from skfairprune.training.stacks import CopyStack, NetworkStack

N_ROWS, N_JOINT, N_FOLDS = 90, 4, 3


def _network(seed=0, sizes=(7, 5), dropout=0.0, dtype=torch.float64):
    torch.manual_seed(seed)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 5), np.linspace(-1, 1, 4)])
    return TabularNetwork(encoding, sizes, N_JOINT, dropout=dropout).to(dtype)


def _rows(seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return Rows(
        torch.tensor(rng.normal(size=(N_ROWS, 2)), dtype=dtype),
        torch.tensor(rng.integers(0, N_JOINT, N_ROWS)),
        torch.tensor(rng.uniform(0.5, 1.5, N_ROWS), dtype=dtype),
        torch.arange(N_ROWS),
    )


def _objective(dtype=torch.float64):
    objective = Objective(0.5, 0.3)
    table = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.0, 1.1], [0.2, 0.7]], dtype=dtype)
    objective.set_tables(table, table + 0.1)
    return objective


def _fit(net_class, module, rows, *, n_epochs=3, batch_size=32, held_out=None, seed=0, lr=0.01, **params):
    torch.manual_seed(seed)  # dropout
    net = net_class(
        module,
        _objective(),
        held_out=held_out,
        generator=torch.Generator().manual_seed(seed),
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=0.1,
        optimizer__fused=True,
        lr=lr,
        batch_size=batch_size,
        max_epochs=n_epochs,
        callbacks__print_log=None,
        verbose=0,
        **params,
    )
    net.initialize()
    return net.partial_fit(rows)


def _state(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def _losses(logits, target, objective):
    """Compute each row's loss of weight 1, in numpy."""
    log_proba, values = log_softmax(logits.detach().numpy(), axis=1), objective.values.numpy()
    decision = softmax(np.exp(log_proba) @ objective.coefficients.numpy() / objective.temperature, axis=1)
    entropy = -log_proba[np.arange(len(target)), target]
    return entropy - objective.strength * (values[target] * decision).sum(axis=1)


@pytest.mark.parametrize("batch_size", [7, 32, 90, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_hold_every_row_once(batch_size, shuffled):
    rows = _rows().take(torch.arange(0, N_ROWS, 2))
    generator = torch.Generator().manual_seed(0) if shuffled else None
    batches = Batches(rows, batch_size, generator)
    parts = list(batches)
    sizes = [len(batch.position) for batch in parts]
    assert len(parts) == len(batches) == -(-45 // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    position = torch.cat([batch.position for batch in parts])
    assert torch.equal(position.sort().values, rows.position)
    assert torch.equal(position, rows.position) == (not shuffled or len(parts) == 1)
    for batch in parts:
        assert torch.equal(batch.x, rows.x[batch.position])
        assert torch.equal(batch.target, rows.target[batch.position])
        assert torch.equal(batch.weight, rows.weight[batch.position])


def test_phase_takes_the_optimizers_steps_on_the_objective():
    rows, network = _rows(), _network()
    expected = copy.deepcopy(network)
    net = _fit(PhaseNet, network, rows, n_epochs=4, batch_size=N_ROWS)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    losses = []
    for _ in range(4):
        losses.append(np.mean(rows.weight.numpy() * _losses(expected(rows.x), rows.target, _objective())))
        optimizer.zero_grad()
        _objective()(expected(rows.x), rows.target, rows.weight).backward()
        optimizer.step()
    assert torch.equal(_state(network), _state(expected))
    assert_allclose([row["train_loss"] for row in net.history], losses, rtol=1e-9)
    assert net.module_ is network


def test_phase_learns_from_its_rows_only():
    rows, part = _rows(), torch.arange(0, N_ROWS, 3)
    networks = _network(), _network()
    _fit(PhaseNet, networks[0], rows.take(part))
    other = rows._replace(target=rows.target.clone())
    outside = torch.ones(N_ROWS, dtype=torch.bool)
    outside[part] = False
    other.target[outside] = (other.target[outside] + 1) % N_JOINT
    _fit(PhaseNet, networks[1], other.take(part))
    assert torch.equal(*map(_state, networks))


def test_held_out_loss_is_that_of_the_eval_mode():
    rows, held_out, network = _rows(), _rows(1).take(torch.arange(40)), _network(dropout=0.3)
    net = _fit(PhaseNet, network, rows, n_epochs=2, held_out=held_out)
    network.eval()
    losses = _losses(network(held_out.x[:40]), held_out.target[:40], _objective())
    assert_allclose(net.history[-1, "valid_loss"], np.mean(held_out.weight[:40].numpy() * losses), rtol=1e-9)


def test_the_seed_decides():
    states = []
    for seed in (3, 3, 4):
        network = _network(dropout=0.2)
        _fit(PhaseNet, network, _rows(), seed=seed)
        states.append(_state(network))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(), (7, 5)])
def test_stack_gives_each_networks_outputs(sizes, dtype):
    networks = [_network(seed, sizes, dropout=0.2, dtype=dtype).eval() for seed in range(3)]
    stack, x = NetworkStack(networks).eval(), _rows(dtype=dtype).x
    logits = stack(x)
    assert logits.shape == (3, N_ROWS, N_JOINT)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for position, network in enumerate(networks):
        assert_allclose(logits[position].detach(), network(x).detach(), atol=tolerance)
        assert torch.equal(stack.unstack(position)(x), network(x))
        assert torch.equal(_state(stack.unstack(position)), _state(network))


def test_stack_copies_the_weights():
    network = _network()
    stack = NetworkStack([network] * 3)
    before = _state(network)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter[1].add_(1)
    assert torch.equal(_state(network), before)
    assert torch.equal(_state(stack.unstack(0)), before)
    assert torch.equal(_state(stack.unstack(1)), before + 1)
    unstacked = stack.unstack(2)
    assert not unstacked.training
    with torch.no_grad():
        for parameter in unstacked.parameters():
            parameter.zero_()
    assert torch.equal(_state(stack.unstack(2)), before)


def test_stacked_networks_drop_their_own_units_and_only_in_training():
    stack, x = NetworkStack([_network(dropout=0.5)] * 3), _rows().x
    one, two, _ = stack.train()(x)
    assert not torch.equal(one, two)
    logits = stack.eval()(x)
    assert torch.equal(logits, stack(x))
    assert_allclose(logits[0].detach(), logits[1].detach(), atol=1e-12)


def test_gradients_of_stacked_networks_are_separate():
    networks, rows = [_network(seed) for seed in range(2)], _rows()
    stack, objective = NetworkStack(networks), _objective()
    sum(objective(logits, rows.target, rows.weight) for logits in stack(rows.x)).backward()
    for network in networks:
        objective(network(rows.x), rows.target, rows.weight).backward()
    for index, stacked in enumerate(stack.parameters()):
        separate = torch.stack([list(n.parameters())[index].grad for n in networks])
        assert_allclose(stacked.grad, separate, atol=1e-12)


def _fold(seed=0):
    """Give 60 rows a fold, and 30 none."""
    order = np.random.default_rng(seed).permutation(N_ROWS)
    fold = np.full(N_ROWS, N_FOLDS)
    fold[order[:60]] = np.arange(60) % N_FOLDS
    return torch.tensor(fold)


def _fine_tune(rows, *, fold=None, dropout=0.0, n_networks=1 + N_FOLDS, **params):
    stack = NetworkStack([_network(dropout=dropout)] * n_networks)
    net = _fit(FineTuneNet, stack, rows, fold=_fold() if fold is None else fold, **params)
    return net, [_state(stack.unstack(k)) for k in range(n_networks)]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("blind", range(N_FOLDS))
def test_copies_do_not_learn_from_their_fold(blind, dropout):
    rows = _rows()
    inside = _fold() == blind
    changed = rows._replace(x=rows.x.clone(), target=rows.target.clone(), weight=rows.weight.clone())
    changed.target[inside] = (rows.target[inside] + 2) % N_JOINT
    changed.x[inside] *= -1
    changed.weight[inside] = 2.0
    before, after = (_fine_tune(r, dropout=dropout)[1] for r in (rows, changed))
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert same == [k == blind + 1 for k in range(1 + N_FOLDS)]


def test_every_network_learns_from_rows_outside_the_folds():
    rows = _rows()
    changed = rows._replace(target=rows.target.clone())
    changed.target[_fold() == N_FOLDS] = 0
    before, after = _fine_tune(rows)[1], _fine_tune(changed)[1]
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_copies_learn_as_if_alone_without_their_fold():
    """Each is trained like one network on rows whose weight is 0 in its fold."""
    rows, fold = _rows(), _fold()
    _, states = _fine_tune(rows)
    for position, state in enumerate(states):
        network = _network()
        _fit(PhaseNet, network, rows._replace(weight=rows.weight * (fold != position - 1)))
        assert_allclose(state, _state(network), atol=1e-9)


def test_no_network_learns_from_held_out_rows():
    """X_val: one network and no copies; the rows of fold -1 are those of its held-out loss."""
    rows, fold = _rows(), torch.tensor([0] * 60 + [-1] * 30)
    train, held_out = rows.take(torch.arange(60)), rows.take(torch.arange(60, N_ROWS))
    net, (state,) = _fine_tune(train, fold=fold, held_out=held_out, n_networks=1)
    network = _network()
    _fit(PhaseNet, network, train)
    assert_allclose(state, _state(network), atol=1e-9)
    losses = _losses(net.module_.unstack(0)(rows.x), rows.target, _objective())[60:]
    expected = np.mean(rows.weight[60:].numpy() * losses)
    assert_allclose(net.history[-1, "valid_loss"], expected, rtol=1e-9)


def test_held_out_loss_of_the_copies_is_out_of_fold():
    rows, fold = _rows(), _fold()
    upper = torch.nonzero(fold < N_FOLDS).squeeze(1)
    net, _ = _fine_tune(rows, held_out=rows.take(upper), dropout=0.2)
    copies = [net.module_.unstack(1 + k) for k in range(N_FOLDS)]
    losses = [_losses(network(rows.x), rows.target, _objective()) for network in copies]
    expected = [rows.weight[i].item() * losses[fold[i]][i] for i in upper.tolist()]
    assert_allclose(net.history[-1, "valid_loss"], np.mean(expected), rtol=1e-9)


def _bilevel(rows, upper, *, gate_lr, upper_objective=None, **params):
    network = _network()
    layers = find_units(network)
    chain = Chain(network.encoding.n_outputs, (7, 5), N_JOINT)
    rng = np.random.default_rng(5)
    gates = BudgetedGates(chain, [torch.tensor(rng.normal(size=n)) for n in (7, 5)])
    net = _fit(
        BilevelNet,
        GatedNetwork(network, layers),
        rows,
        gates=gates,
        upper=upper,
        gate_lr=gate_lr,
        schedule=lambda progress: (100 - 50 * progress, 1 - 0.7 * progress),
        n_steps=params.pop("n_steps", 9),
        upper_objective=upper_objective or _objective(),
        **params,
    )
    return net, network, gates


def _other_labels(rows):
    return rows._replace(x=-rows.x, target=(rows.target + 1) % N_JOINT)


def test_weights_see_the_upper_rows_through_the_gates_only():
    lower, upper = _rows(), _rows(1)
    states = {
        gate_lr: [_state(_bilevel(lower, u, gate_lr=gate_lr)[1]) for u in (upper, _other_labels(upper))]
        for gate_lr in (0.0, 0.1)
    }
    assert torch.equal(*states[0.0])
    assert not torch.equal(*states[0.1])


def test_gates_see_the_lower_rows_through_the_weights_only():
    lower, upper = _rows(), _rows(1)
    scores = {
        lr: [_bilevel(r, upper, gate_lr=0.1, lr=lr)[2].scores.detach() for r in (lower, _other_labels(lower))]
        for lr in (0.0, 0.01)
    }
    assert torch.equal(*scores[0.0])
    assert not torch.equal(*scores[0.01])


def test_gradient_of_the_scores_is_that_of_the_upper_loss():
    lower, upper = _rows(), _rows(1)
    net, _, gates = _bilevel(lower, upper, gate_lr=0.0, n_epochs=1, batch_size=N_ROWS, n_steps=2)
    found, step = gates.scores.grad.clone(), 1e-6

    @torch.no_grad()
    def upper_loss():
        logits = net.module_(upper.x, gates())  # at the weights after the lower step
        return np.mean(upper.weight.numpy() * _losses(logits, upper.target, _objective()))

    expected = []
    for unit in range(len(found)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.scores[unit] += sign * step
                values.append(upper_loss())
                gates.scores[unit] -= sign * step
        expected.append((values[0] - values[1]) / (2 * step))
    assert np.abs(expected).max() > 1e-3
    assert_allclose(found, expected, atol=1e-8)


def test_lower_step_is_taken_at_the_current_gates():
    lower, upper = _rows(), _rows(1)
    network = _network()
    _, trained, gates = _bilevel(lower, upper, gate_lr=0.0, n_epochs=1, batch_size=N_ROWS, n_steps=2)
    gated = GatedNetwork(network, find_units(network))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    _objective()(gated(lower.x, gates().detach()), lower.target, lower.weight).backward()
    optimizer.step()
    assert_allclose(_state(trained), _state(network), atol=1e-12)


def test_budget_and_temperature_follow_the_schedule_to_its_end():
    net, _, gates = _bilevel(_rows(), _rows(1), gate_lr=0.1)  # 3 epochs of 3 batches
    assert net.step_ == 9
    assert (gates.budget, gates.temperature) == (50.0, pytest.approx(0.3))
    found = np.split(gates().detach().numpy(), [7])
    widths = [net.module_.network.encoding.n_outputs, *(f.sum() for f in found), N_JOINT]
    assert_allclose(sum((a + 1) * b for a, b in pairwise(widths)), 50, rtol=1e-6)


def test_held_out_logits_are_those_under_the_current_gates():
    rows = _rows()
    net, _, gates = _bilevel(rows, _rows(1), gate_lr=0.1)
    batch = next(iter(Batches(rows, 50)))
    assert torch.equal(net.held_out_logits(batch), net.module_(batch.x, gates().detach()))
    upper = torch.nonzero(_fold() < N_FOLDS).squeeze(1)
    batch = next(iter(Batches(rows.take(upper), 50)))
    tuned, _ = _fine_tune(rows)
    number = _fold()[batch.position] + 1
    assert torch.equal(tuned.held_out_logits(batch), tuned.module_.each(batch.x, number))
    plain = _fit(PhaseNet, _network(), rows)
    assert torch.equal(plain.held_out_logits(batch), plain.module_(batch.x))


def test_each_level_has_its_objective():
    rows, upper = _rows(), _rows(1)
    plain = Objective()
    both, gates_only = (
        _bilevel(rows, upper, gate_lr=0.1, upper_objective=objective) for objective in (None, plain)
    )
    assert not torch.allclose(both[2].scores, gates_only[2].scores)
    # With fixed gates the weights do not see the upper objective.
    both, gates_only = (
        _bilevel(rows, upper, gate_lr=0.0, upper_objective=objective) for objective in (None, plain)
    )
    assert torch.equal(_state(both[1]), _state(gates_only[1]))


def test_joint_proba_is_the_softmax_in_the_rows_order():
    rows = _rows().take(torch.tensor([5, 3, 40, 7]))
    network = _network()
    expected = torch.softmax(network(rows.x[rows.position]), dim=1)
    assert_allclose(joint_proba(lambda batch: network(batch.x), rows), expected.detach(), rtol=1e-12)


# The heap of a process that has run before may have room for what is to be seen here.
_GROWTH = """
import psutil, torch
from skfairprune.training.batches import Rows
from skfairprune.training.net import joint_proba

torch.set_num_threads(1)
n, process, seen = 200_000, psutil.Process(), []
network = torch.nn.Sequential(torch.nn.Linear(4, 1200), torch.nn.ReLU(), torch.nn.Linear(1200, 4))
rows = Rows(torch.rand(n, 4), torch.zeros(n, dtype=torch.long), torch.ones(n), torch.arange(n))

def logits(batch):
    seen.append(process.memory_info().rss)
    return network(batch.x)

joint_proba(logits, rows)
print((max(seen) - seen[2]) / 2**20)
"""


def test_joint_proba_of_many_rows_fills_the_memory_of_a_batch_and_of_its_outputs():
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # MiB; with the outputs of all batches kept one by one 700


def test_upper_loss_can_be_learnt_by_gates_alone():
    """With fixed weights and budget, steps on the scores lower the upper level's loss."""
    upper = _rows(1)
    net, _, gates = _bilevel(_rows(), upper, gate_lr=0.05, lr=0.0, n_epochs=30, batch_size=N_ROWS, n_steps=30)
    start = BudgetedGates(gates.layout, gates.scores.detach().split(gates.sizes))
    rng = np.random.default_rng(5)
    with torch.no_grad():
        start.scores.copy_(torch.tensor(np.concatenate([rng.normal(size=n) for n in (7, 5)])))
    start.budget, start.temperature = gates.budget, gates.temperature
    losses = [
        float(_objective()(net.module_(upper.x, g().detach()), upper.target, upper.weight).detach())
        for g in (start, gates)
    ]
    assert losses[1] < losses[0] - 1e-3


@pytest.fixture
def recordings(monkeypatch):
    """Record steps as if there were a GPU: what is computed again takes the place of what was."""
    made = []

    def record(compute):
        tensors = compute()
        made.append(tensors)

        def replay():
            for held, tensor in zip(tensors, compute(), strict=True):
                held.copy_(tensor)

        return replay, tensors

    monkeypatch.setattr(replay_module, "record", record)
    monkeypatch.setattr(nets, "can_replay", lambda module: True)
    return made


class _MoveTables(Callback):
    """Move the tables before each batch."""

    def on_batch_begin(self, net, training=False, **kwargs):
        objective = net.criterion_
        objective.set_tables(objective.coefficients + 0.01, objective.values * 1.02)


@pytest.mark.parametrize("batch_size", [7, 32, N_ROWS])
def test_a_phase_of_replayed_steps_is_the_same(recordings, batch_size, monkeypatch):
    def fit():
        network, rows = _network(), _rows()
        net = _fit(PhaseNet, network, rows, batch_size=batch_size, callbacks=[_MoveTables()])
        assert all(torch.equal(*pair) for pair in zip(rows, _rows(), strict=True))
        return _state(network), [row["train_loss"] for row in net.history]

    replayed = fit()
    assert len(recordings) == len({len(batch.x) for batch in Batches(_rows(), batch_size)})
    monkeypatch.setattr(nets, "can_replay", lambda module: False)
    expected = fit()
    assert torch.equal(replayed[0], expected[0])
    assert replayed[1] == expected[1]


@pytest.mark.parametrize("soft", [False, True])
def test_a_fine_tuning_of_replayed_steps_is_the_same(recordings, soft, monkeypatch):
    soft_target = torch.rand(1 + N_FOLDS, N_ROWS, N_JOINT, dtype=torch.float64).softmax(2) if soft else None
    _, replayed = _fine_tune(_rows(), soft_target=soft_target)
    assert len(recordings) == 1
    monkeypatch.setattr(nets, "can_replay", lambda module: False)
    _, expected = _fine_tune(_rows(), soft_target=soft_target)
    assert all(torch.equal(*pair) for pair in zip(replayed, expected, strict=True))


def test_a_loss_stays_when_the_step_is_replayed(recordings):
    rows, network, objective = _rows(), _network(), _objective()

    def of_batch(batch):
        return objective(network(batch.x), batch.target, batch.weight)

    gradient = ReplayedGradient(network, of_batch)
    batches = [Batch(*(tensor[part] for tensor in rows)) for part in torch.arange(N_ROWS).split(30)]
    losses = [gradient(batch) for batch in batches]
    assert len(recordings) == 1
    assert losses == [of_batch(batch) for batch in batches]


def test_only_a_gpus_steps_are_replayed():
    network = _network()
    assert not any(map(can_replay, (network, NetworkStack([network]), CopyStack([network]))))
