import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.training.batches import Rows
from skfairprune.training.net import PhaseNet
from skfairprune.training.objective import Objective
from skfairprune.training.phases import PhaseRunner


@pytest.mark.parametrize("at", ["on_batch_begin", "on_batch_end", "on_epoch_begin"])
def test_an_interrupt_within_an_epoch_is_the_users(at):
    class Stop(Callback):
        pass

    def interrupt(self, net, **kwargs):
        raise KeyboardInterrupt

    setattr(Stop, at, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _run([("stop", Stop())])


def test_an_interrupt_of_the_packages_own_callbacks_is_the_users():
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(callback=Stop())


def test_a_callback_ends_a_phase_at_the_end_of_an_epoch():
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    assert len(_run([("stop", Stop())])) == 2


def _run(callbacks=(), callback=None, objective=None, n_epochs=5, n_iter_no_change=None):
    rows = Rows(torch.randn(20, 3), torch.arange(20) % 2, torch.ones(20), torch.arange(20))
    generator = torch.Generator()
    runner = PhaseRunner(5, 0.1, n_iter_no_change, False, generator, torch.optim.SGD, callbacks=callbacks)
    objective = Objective() if objective is None else objective
    runner.run("dense", nn.Linear(3, 2), objective, rows, n_epochs, rows, callback=callback)
    return runner.history


def test_patience_ends_where_a_loss_below_0_gets_slowly_worse():
    """By skorch's own threshold, relative to such a loss, each of these epochs is better than the last."""

    class Worsening(nn.Module):
        n_judged = 0

        def forward(self, logits, target, weight):
            if not torch.is_grad_enabled():
                self.n_judged += 1
                return torch.tensor(-0.5 + 2e-5 * self.n_judged)
            return logits.square().mean()

    assert len(_run(objective=Worsening(), n_epochs=9, n_iter_no_change=2)) == 3


@pytest.mark.parametrize("number", [3, 20])
def test_an_interrupted_fit_leaves_nothing(number, monkeypatch):
    step, calls = PhaseNet.train_step_single, []

    def interrupt(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == number:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    data = make_biased_classification(600, random_state=0)
    clf = FairPrunedClassifier(hidden_layer_sizes=(8,), sparsity=0.5, max_epochs=8, random_state=0)
    monkeypatch.setattr(PhaseNet, "train_step_single", interrupt)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(data.X, data.y, sensitive_features=data.sensitive_features)
    assert len(calls) == number
    assert not hasattr(clf, "module_")
    assert not clf.__sklearn_is_fitted__()
