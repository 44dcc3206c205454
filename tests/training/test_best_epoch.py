import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from skfairprune.training.batches import Rows
from skfairprune.training.objective import Objective
from skfairprune.training.phases import PhaseRunner

N_BATCHES, N_EPOCHS = 4, 5


class Tied(nn.Module):
    """A layer used under two names, batch norms, infinite buffers, and buffers that are replaced."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("least", torch.full((3,), torch.inf))
        self.register_buffer("last", torch.zeros(1, 3), persistent=False)

    def forward(self, x):
        if self.training:
            self.last = x
            self.least = torch.minimum(self.least, x.amin(dim=0))
            self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0)
        x = x - self.mean
        hidden = torch.softmax(self.norm(self.again(torch.relu(self.first(x)))) + self.mask, dim=1)
        return self.head(hidden)


class Record(Callback):
    """Keep the weights after each step, those that each epoch is judged by, and the held-out losses."""

    def on_train_begin(self, net, **kwargs):
        self.steps, self.judged, self.losses = [], [], []

    def on_batch_end(self, net, training=False, **kwargs):
        (self.steps if training else self.judged).append(_tensors(net.module_))

    def on_epoch_end(self, net, **kwargs):
        self.losses.append(net.history[-1]["valid_loss"])


def _tensors(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    target = (x[:, 0] + torch.randn(40, generator=generator) > 0).long()
    every = Rows(x, target, torch.ones(40), torch.arange(40))
    return every.take(torch.arange(20)), every.take(torch.arange(20, 40))


def train(rows, averages, lr=0.3):
    """Run a phase; return its network, the record and the history."""
    torch.manual_seed(0)
    network, record = Tied(), Record()
    generator = torch.Generator().manual_seed(0)
    runner = PhaseRunner(5, lr, None, averages, generator, torch.optim.SGD, callbacks=())
    runner.run("dense", network, Objective(), rows[0], N_EPOCHS, rows[1], callback=record)
    return network, record, runner.history


def test_epochs_are_judged_by_the_average_and_the_best_one_stays(rows):
    network, record, history = train(rows, True)
    average, judged = None, []
    for step, weights in enumerate(record.steps, start=1):
        share = max(1 / step, 1 / N_BATCHES)
        weights = {name: tensor.double().numpy() for name, tensor in weights.items()}
        average = weights if average is None else average
        with np.errstate(invalid="ignore"):
            average = {name: average[name] + share * (weights[name] - average[name]) for name in weights}
        # Buffers that are no statistics of a norm need not have a mean.
        average |= {name: weights[name] for name in ("mask", "mean", "least")}
        if step % N_BATCHES == 0:
            judged.append(average)
    assert len(judged) == N_EPOCHS
    for epoch, expected in enumerate(judged):
        for name, tensor in record.judged[epoch].items():
            if tensor.is_floating_point():
                np.testing.assert_allclose(tensor, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    best = int(np.argmin(record.losses))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            np.testing.assert_array_equal(tensor, record.judged[best][name], err_msg=name)
    x, target = (tensor[rows[1].position] for tensor in rows[1][:2])
    loss = Objective()(network(x), target, torch.ones(20))
    assert loss.item() == pytest.approx(min(row["valid_loss"] for row in history), rel=1e-5)


def test_the_training_itself_is_the_same(rows):
    with_average, without = (train(rows, averages)[1] for averages in (True, False))
    for one, other in zip(with_average.steps, without.steps, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_held_out_rows_the_last_weights_stay(rows):
    torch.manual_seed(0)
    network, record = Tied(), Record()
    record.on_epoch_end = lambda net, **kwargs: None
    runner = PhaseRunner(5, 0.3, None, True, torch.Generator().manual_seed(0), torch.optim.SGD)
    runner.run("dense", network, Objective(), rows[0], 2, None, callback=record)
    assert all(torch.equal(tensor, record.steps[-1][name]) for name, tensor in network.state_dict().items())


def test_an_early_stop_goes_back_to_the_best_average(rows):
    torch.manual_seed(0)
    network, record = Tied(), Record()
    generator = torch.Generator().manual_seed(0)
    runner = PhaseRunner(5, 3.0, 1, True, generator, torch.optim.SGD)
    runner.run("dense", network, Objective(), rows[0], 30, rows[1], callback=record)
    assert len(record.losses) < 30
    best = record.judged[int(np.argmin(record.losses))]
    assert all(torch.equal(tensor, best[name]) for name, tensor in network.named_parameters())


def test_the_epoch_in_which_a_callback_ends_the_phase_counts(rows):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    network, record = Tied(), Record()
    generator, callbacks = torch.Generator().manual_seed(0), [("stop", Stop())]
    runner = PhaseRunner(5, 0.3, None, True, generator, torch.optim.SGD, callbacks=callbacks)
    runner.run("dense", network, Objective(), rows[0], 30, rows[0], callback=record)
    assert len(record.judged) == 3
    assert [row["valid_loss"] for row in runner.history] == sorted(
        (row["valid_loss"] for row in runner.history), reverse=True
    )
    assert all(torch.equal(tensor, record.judged[2][name]) for name, tensor in network.named_parameters())


def test_where_no_epoch_has_a_merit_the_last_average_stays(rows):
    torch.manual_seed(0)
    network, record, judged = Tied(), Record(), []
    record.on_epoch_end = lambda net, **kwargs: None
    generator = torch.Generator().manual_seed(0)
    runner = PhaseRunner(5, 0.3, None, True, generator, torch.optim.SGD)

    def merit(net):
        judged.append(_tensors(net.module_))
        return -np.inf

    runner.run("fine-tune", network, Objective(), rows[0], 3, callback=record, merit=merit)
    assert not torch.equal(record.steps[-1]["head.weight"], judged[-1]["head.weight"])
    assert all(torch.equal(tensor, judged[-1][name]) for name, tensor in network.named_parameters())


@pytest.mark.parametrize("averages", [True, False])
def test_by_a_merit_of_its_own_the_best_epoch_stays(rows, averages):
    _, reference, _ = train(rows, False)
    judged, order = [], [0.1, 0.5, float("nan"), 0.3, 0.5]

    def merit(net):
        judged.append(_tensors(net.module_))
        return order[len(judged) - 1]

    torch.manual_seed(0)
    network, record = Tied(), Record()
    record.on_epoch_end = lambda net, **kwargs: None
    generator = torch.Generator().manual_seed(0)
    runner = PhaseRunner(5, 0.3, None, averages, generator, torch.optim.SGD)
    runner.run("fine-tune", network, Objective(), rows[0], N_EPOCHS, callback=record, merit=merit)
    for step, expected in zip(record.steps, reference.steps, strict=True):
        assert all(torch.equal(step[name], expected[name]) for name in step)
    assert len(judged) == N_EPOCHS
    first = [step["head.weight"].double() for step in record.steps[:N_BATCHES]]
    expected = torch.stack(first).mean(dim=0) if averages else first[-1]
    torch.testing.assert_close(judged[0]["head.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, judged[1][name]) for name, tensor in network.state_dict().items())
