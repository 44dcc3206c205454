"""The scores behind rules, and the search for the smallest network, on networks with given figures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skfairprune.pruning.budget import Chain
from skfairprune.pruning.structure import UnitStructure
from skfairprune.training.batches import Rows
from skfairprune.training.levels import Levels
from skfairprune.training.splits import split_levels
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


class _Numbered(nn.Module):
    """Decides by its own number, whatever the row."""

    def __init__(self, number):
        super().__init__()
        self.logits = 20.0 * nn.functional.one_hot(torch.tensor(number), 5)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_each_row_is_scored_by_the_copies_of_its_part():
    target = torch.arange(60) % 4
    split = split_levels(target.numpy(), 60, 0.5, 2, np.random.RandomState(0))
    levels = Levels.from_split(Rows(torch.zeros(60, 1), target, torch.ones(60), torch.arange(60)), split)
    parts = dict.fromkeys(("runner", "plan", "lagrangian", "pruner", "distill", "seed", "attribute_aware"))
    trainer = Trainer(levels=levels, rule_fold=split.rule_fold, **parts)
    network, *copies = (_Numbered(number) for number in range(5))
    scores = trainer._rule_scores(network, copies)
    own, *peers = (joint.argmax(axis=1) for joint in scores)
    assert_array_equal(own, 0)
    fold, upper = split.fold[split.rule], np.isin(split.rule, split.upper)
    assert_array_equal(np.where(upper, 1, 3), peers[0])  # copy k + 1 is blind to fold k
    assert_array_equal(np.where(upper, 2, 4), peers[1])
    assert_array_equal(np.choose(fold % 2, peers), fold + 1)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (None, False),
        ({"with_rule": False, "needs_dense_decisions": False}, False),
        ({"with_rule": True, "needs_dense_decisions": False}, True),
        # the dense network, which the rates are held against, has learned the lower rows
        ({"with_rule": True, "needs_dense_decisions": True}, False),
    ],
)
def test_which_rules_are_fitted_on_the_lower_rows_too(task, expected):
    names = ("levels", "rule_fold", "runner", "plan", "pruner", "distill", "seed", "attribute_aware")
    task = None if task is None else SimpleNamespace(**task)
    trainer = Trainer(lagrangian=SimpleNamespace(task=task), **dict.fromkeys(names))
    assert trainer._uses_every_row == expected


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
