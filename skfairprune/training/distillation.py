"""Soft targets of the fine-tuning: the joint probabilities of a teacher, mixed with the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), at temperature 1:

.. math:: p_i = (1 - w)\\, \\mathrm{onehot}(t_i) + w\\, \\mathrm{teacher}(x_i), \\qquad
          -\\sum_t p_{i,t} \\log q_t(x_i) \\; \\text{in place of} \\; -\\log q_{t_i}(x_i).

The copies of the fine-tuning, each blind to a fold, give the honest scores of a fit. So their teachers must
be blind to that fold, too: a teacher that knew its labels would hand them on.
"""

from collections.abc import Sequence
from itertools import combinations, permutations

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

    The blind folds of the four copies are the blocks. A model of two of them teaches each of the other two,
    to the copy that is blind to the fourth; the final network takes the mean over the copies. Without copies
    two halves of the lower rows teach each other.
    """
    x, target = levels.final.x.cpu().numpy(), levels.final.target.cpu().numpy()
    weight = levels.final.weight.double().cpu().numpy()

    def teach(parts: Sequence[NDArray[np.intp]], block: NDArray[np.intp]) -> Floats:
        index = np.concatenate(parts)
        # Of a single class there is nothing to boost.
        counts = np.unique(target[index], return_counts=True)[1]
        teacher: ClassifierMixin = DummyClassifier()
        if len(counts) > 1:  # a class of one row cannot be split for early stopping
            stopping = "auto" if counts.min() > 1 else False
            teacher = HistGradientBoostingClassifier(random_state=seed, early_stopping=stopping)
        teacher.fit(x[index], target[index], sample_weight=weight[index])
        table = np.zeros((len(block), n_joint))
        table[:, teacher.classes_] = teacher.predict_proba(x[block])
        return table

    tables = np.zeros((1 + levels.n_folds, len(x), n_joint))
    if not levels.n_folds:
        for one, other in permutations(_halves(levels, target, seed)):
            tables[0][one] = teach([other], one)
        return tables
    fold = levels.fold.cpu().numpy()
    blocks = [np.flatnonzero(fold == k) for k in range(levels.n_folds)]
    for pair in combinations(range(len(blocks)), 2):
        others = [k for k in range(len(blocks)) if k not in pair]
        both = np.concatenate([blocks[k] for k in pair])
        parts = np.split(teach([blocks[k] for k in others], both), [len(blocks[pair[0]])])
        for taught, blind, part in zip(pair, pair[::-1], parts, strict=True):
            tables[1 + blind][blocks[taught]] = part
            tables[0][blocks[taught]] += part / (len(blocks) - 1)
    return tables


def _halves(levels: Levels, target: NDArray[np.intp], seed: int) -> list[NDArray[np.intp]]:
    """Return the positions of two halves of the lower rows, every joint class dealt evenly."""
    shuffled = np.random.RandomState(seed).permutation(levels.lower.position.cpu().numpy())
    dealt = shuffled[np.argsort(target[shuffled], kind="stable")]
    return [np.sort(dealt[start::2]) for start in (0, 1)]
