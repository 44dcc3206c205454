import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.training import distillation as module
from skfairprune.training.batches import Rows
from skfairprune.training.distillation import TEACHERS, soft_targets
from skfairprune.training.levels import Levels
from skfairprune.training.objective import Objective
from skfairprune.training.splits import split_levels

N_ROWS, N_JOINT = 400, 4


def _levels(target, n_held_out=0):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(N_ROWS, 3)), dtype=torch.float64)
    rows = Rows(x, torch.as_tensor(target), torch.ones(N_ROWS).double(), torch.arange(N_ROWS))
    strata = np.random.default_rng(1).integers(0, N_JOINT, N_ROWS)  # the same split whatever the labels
    split = split_levels(strata, N_ROWS - n_held_out, 0.5, 2, np.random.RandomState(0))
    return Levels.from_split(rows, split)


def _target(seed=0):
    return np.random.default_rng(seed).integers(0, N_JOINT, N_ROWS)


def _network():
    torch.manual_seed(0)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 5)] * 3)
    return TabularNetwork(encoding, (8,), N_JOINT).double().eval()


def _teach(levels, teacher="boosting"):
    return soft_targets(teacher, _network(), levels, N_JOINT, 0)


@pytest.mark.parametrize("n_held_out", [0, 100])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_targets_are_distributions_that_keep_a_share_of_the_label(teacher, n_held_out):
    target = _target()
    levels = _levels(target, n_held_out)
    soft = _teach(levels, teacher)
    assert soft.shape == (1 + levels.n_folds, N_ROWS, N_JOINT)
    assert_allclose(soft.sum(dim=2), 1)
    assert soft[:, np.arange(N_ROWS), target].min() >= 0.3 - 1e-12
    learns = np.zeros(N_ROWS, bool)
    learns[levels.final.position.numpy()] = True
    if teacher == "boosting":
        assert_allclose(soft[0][~learns], np.eye(N_JOINT)[target][~learns])
    assert np.all(soft[0].numpy()[learns].max(axis=1) < 1)


def test_a_copys_teacher_is_blind_to_its_fold():
    target = _target()
    levels = _levels(target)
    fold = levels.fold.numpy()
    soft = _teach(levels)
    for k in range(levels.n_folds):
        changed = target.copy()
        changed[fold == k] = (changed[fold == k] + 1) % N_JOINT
        other = _teach(_levels(changed))
        seen = fold != k
        assert torch.equal(other[1 + k][seen], soft[1 + k][seen])
        assert not torch.equal(other[0][seen], soft[0][seen])


@pytest.mark.parametrize("n_held_out", [0, 100])
def test_no_row_is_taught_by_a_model_that_saw_it(n_held_out, monkeypatch):
    levels, taught = _levels(_target(), n_held_out), []

    class Spy:
        def __init__(self, random_state, early_stopping):
            self.classes_ = np.arange(N_JOINT)

        def fit(self, x, y, sample_weight):
            self.seen = set(x[:, 0])
            assert len(x) == len(y) == len(sample_weight)
            return self

        def predict_proba(self, x):
            taught.extend(x[:, 0])
            assert not self.seen & set(x[:, 0])
            return np.full((len(x), N_JOINT), 1 / N_JOINT)

    monkeypatch.setattr(module, "HistGradientBoostingClassifier", Spy)
    soft = _teach(levels)
    assert set(taught) == set(levels.final.x[levels.final.position, 0].numpy())
    assert_allclose(soft[0][levels.final.position].min(dim=1).values, 0.7 / N_JOINT)


def test_the_dense_teacher_is_the_dense_network():
    target = _target()
    levels = _levels(target)
    soft = _teach(levels, "dense")
    with torch.no_grad():
        proba = torch.softmax(_network()(levels.final.x), dim=1)
    hard = torch.eye(N_JOINT).double()[torch.as_tensor(target)]
    assert_allclose(soft, (0.3 * hard + 0.7 * proba).expand(5, -1, -1))


def test_hard_labels_as_soft_targets_give_the_same_loss():
    rng = np.random.default_rng(0)
    logits, target = torch.tensor(rng.normal(size=(30, N_JOINT))), torch.tensor(_target()[:30])
    weight = torch.tensor(rng.uniform(size=30))
    soft = torch.eye(N_JOINT).double()[target]
    assert_allclose(Objective()(logits, target, weight, soft), Objective()(logits, target, weight))
