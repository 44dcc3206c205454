"""The search for the smallest network, on networks whose held-out figures are given."""

from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from skfairprune.pruning.budget import Chain
from skfairprune.pruning.structure import UnitStructure
from skfairprune.training.trainer import Outcome, Trainer, _Judged

CHAIN = Chain(10, (8, 8), 2, "parameters", False)


def _judged(accuracy, varied):
    correct = np.zeros(1000)
    correct[: round(1000 * accuracy)] = 1 / 1000
    return _Judged(Outcome(nn.Identity(), [np.ones(8, bool)] * 2, varied == 0), correct, varied)


def _search(monkeypatch, found, max_accuracy_drop=0.01):
    """Search among two sizes, on a machine that finds first the dense network, then those of ``found``."""
    judged = iter([_judged(0.9, 0.2), *found])
    pruned = SimpleNamespace(network=nn.Identity(), masks=[np.arange(8) < 3] * 2)
    parts = dict.fromkeys(("levels", "rule_fold", "plan", "distill", "seed", "attribute_aware"))
    trainer = Trainer(
        **parts,
        runner=SimpleNamespace(trial=None),
        lagrangian=SimpleNamespace(task=None, restart=lambda: None),
        pruner=SimpleNamespace(prune=lambda *args: pruned),
    )
    monkeypatch.setattr(trainer, "_train_dense", lambda network, n_joint: network)
    monkeypatch.setattr(trainer, "_finish", lambda network, masks, structure: next(judged))
    return trainer.fit_smallest(nn.Identity(), UnitStructure((), CHAIN), [100], max_accuracy_drop)


@pytest.mark.parametrize(
    ("accuracy", "varied", "within"),
    [
        (0.895, 0.15, True),
        (0.91, 0.1, True),
        (0.885, 0.2, False),  # the drop is too large
        (0.9, 0.09, False),  # as accurate, but it decides nearly alike for all
        (0.9, 0.0, False),
    ],
)
def test_a_smaller_network_is_within_drop_and_variation(monkeypatch, accuracy, varied, within):
    outcome, trials = _search(monkeypatch, [_judged(accuracy, varied)])
    assert [trial.within for trial in trials] == [True, within]
    assert outcome.constant == (varied == 0 and within)
    assert trials[1].accuracy == pytest.approx(accuracy)


def test_the_error_of_the_drop_is_that_of_paired_rows(monkeypatch):
    _, trials = _search(monkeypatch, [_judged(0.87, 0.2)])
    assert trials[0].drop_error == 0
    # 30 of 1,000 rows are decided correctly by one of the two only
    assert trials[1].drop_error == pytest.approx(np.sqrt(0.03 * 0.97 / 1000))
