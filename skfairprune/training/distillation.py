"""Soft targets of the fine-tuning: the joint probabilities of a teacher, mixed with the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), at temperature 1:

.. math:: p_i = (1 - w)\\, \\mathrm{onehot}(t_i) + w\\, \\mathrm{teacher}(x_i), \\qquad
          -\\sum_t p_{i,t} \\log q_t(x_i) \\; \\text{in place of} \\; -\\log q_{t_i}(x_i).

The copies of the fine-tuning, each blind to a fold, give the honest scores of a fit. So their teachers must
be blind to that fold, too: a teacher that knew its labels would hand them on.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from skfairprune.constraints import Floats
from skfairprune.training.levels import Levels
from skfairprune.training.net import joint_proba

__all__ = ["TEACHERS", "soft_targets"]

#: The teachers by name.
TEACHERS = ("dense", "boosting")

_MIX = 0.7  # the teacher's share in the targets


def soft_targets(teacher: str, network: nn.Module, levels: Levels, n_joint: int, seed: int) -> Tensor:
    """Return the targets of the fine-tuning, for the final network and for each of its copies.

    Parameters
    ----------
    teacher : {"dense", "boosting"}
        The dense network after its phase, which has seen no upper row; or gradient boosting, which has
        seen neither the row it speaks of nor the fold that a copy is blind to.
    network : nn.Module
        The dense network.
    levels : Levels
        The rows.
    n_joint : int
        The number of joint classes.
    seed : int
        Of the boosting and its blocks.

    Returns
    -------
    Tensor of shape (1 + n_folds, n_total, n_joint)
        Distributions over the joint classes. Rows that a network does not learn from keep their labels.
    """
    rows, n_networks = levels.upper, 1 + levels.n_folds
    hard = torch.nn.functional.one_hot(rows.target, n_joint).to(rows.x.dtype)
    if teacher == "dense":
        every = rows.take(torch.arange(len(rows.x), device=rows.x.device))
        proba = torch.from_numpy(joint_proba(lambda batch: network(batch.x), every)).to(hard)
        return ((1 - _MIX) * hard + _MIX * proba).expand(n_networks, -1, -1)
    tables = torch.from_numpy(_boosting_tables(levels, n_joint, seed)).to(hard)
    taught = tables.sum(dim=2, keepdim=True) > 0
    return torch.where(taught, (1 - _MIX) * hard + _MIX * tables, hard)


def _boosting_tables(levels: Levels, n_joint: int, seed: int) -> Floats:
    """Return the teacher's probabilities for each network; zeros on rows it does not learn from.

    The rows that learn are dealt to blocks: two halves of the lower part, and the upper folds. A block's
    probabilities come from a model of two other blocks; for a copy neither of them its blind fold. The final
    network takes the mean over the copies' models of blocks that are in all of them.
    """
    x, target = levels.final.x.cpu().numpy(), levels.final.target.cpu().numpy()
    weight = levels.final.weight.double().cpu().numpy()
    blocks = _blocks(levels, target, seed)
    lower, upper = blocks[:2], blocks[2:]

    def model(parts: tuple[int, ...]) -> ClassifierMixin:
        index = np.concatenate([blocks[part] for part in parts])
        # Of a single class there is nothing to boost.
        several = np.ptp(target[index]) > 0
        teacher = HistGradientBoostingClassifier(random_state=seed) if several else DummyClassifier()
        return teacher.fit(x[index], target[index], sample_weight=weight[index])

    def teach(table: Floats, block: NDArray[np.intp], teacher: ClassifierMixin) -> None:
        table[block[:, None], teacher.classes_[None, :]] = teacher.predict_proba(x[block])

    tables = np.zeros((1 + len(upper), len(x), n_joint))
    if not upper:
        for number in (0, 1):
            teach(tables[0], lower[number], model((1 - number,)))
        return tables
    of_lower = model((0, 1))
    for fold, block in enumerate(upper):
        for blind in range(len(upper)):
            if blind != fold:
                teach(tables[1 + blind], block, of_lower)
        teach(tables[0], block, of_lower)
        # A copy that is not blind to this fold learns the lower halves from it and the other half.
        for number in (0, 1):
            teacher = model((1 - number, 2 + fold))
            part = np.zeros_like(tables[0])
            teach(part, lower[number], teacher)
            tables[0] += part / len(upper)
            for blind in range(len(upper)):
                if blind != fold:
                    tables[1 + blind] += part / (len(upper) - 1)
    return tables


def _blocks(levels: Levels, target: NDArray[np.intp], seed: int) -> list[NDArray[np.intp]]:
    """Return the positions of two lower halves, every joint class dealt evenly, and of the upper folds."""
    fold = levels.fold.cpu().numpy()
    lower = levels.lower.position.cpu().numpy()
    shuffled = np.random.RandomState(seed).permutation(lower)
    dealt = shuffled[np.argsort(target[shuffled], kind="stable")]
    halves = [np.sort(dealt[start::2]) for start in (0, 1)]
    return [*halves, *(np.flatnonzero(fold == k) for k in range(levels.n_folds))]
