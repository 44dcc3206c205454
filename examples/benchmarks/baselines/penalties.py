"""A dense network whose loss has a fairness penalty: DiffDP, DiffEOdd, HSIC, or none.

The penalties follow the benchmark FFB (Han et al., "FFB: A Fair Fairness Benchmark for In-Processing
Group Fairness Methods", ICLR 2024): the loss is the cross-entropy plus a weight times the penalty of
the batch. Everything else is as in FairPrunedClassifier: encoding, sizes, AdamW, learning rate and its
schedule, batches, epochs and the choice of the best one, here on a held-out fifth of the rows.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork, find_knots
from skfairprune.training.schedules import one_cycle

__all__ = ["PENALTIES", "PenaltyNetwork", "diff_dp", "diff_eodd", "hsic"]

_LR, _WEIGHT_DECAY, _N_BINS = 5e-3, 0.1, 48


def _spread(score: Tensor, group: Tensor) -> Tensor:
    """Return the largest minus the smallest mean score of the groups that occur."""
    means = [score[group == g].mean() for g in group.unique()]
    return torch.stack(means).max() - torch.stack(means).min() if len(means) > 1 else score.sum() * 0


def diff_dp(score: Tensor, y: Tensor, group: Tensor) -> Tensor:
    """Difference of the groups' mean scores: with two groups FFB's DiffDP."""
    return _spread(score, group)


def diff_eodd(score: Tensor, y: Tensor, group: Tensor) -> Tensor:
    """Sum over the labels of the difference of the groups' mean scores: with two groups FFB's DiffEOdd."""
    return sum((_spread(score[y == label], group[y == label]) for label in (0, 1)), score.new_zeros(()))


def hsic(score: Tensor, y: Tensor, group: Tensor) -> Tensor:
    r"""Hilbert-Schmidt independence criterion of score and group, the labels left aside.

    .. math:: \mathrm{tr}(K H L H) / (n - 1)^2, \qquad K_{ij} = e^{-(s_i - s_j)^2}, \;
        L_{ij} = e^{-[g_i \ne g_j]}

    Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms" (2005), Eq. 9; as a
    penalty in Li et al., "Kernel dependence regularizers" (2019), and in FFB.
    """
    n = len(score)
    if n < 2:
        return score.sum() * 0
    K = torch.exp(-((score[:, None] - score[None, :]) ** 2))
    L = torch.exp(-(group[:, None] != group[None, :]).to(score.dtype))
    centred = K - K.mean(dim=0, keepdim=True)
    return (centred * (L - L.mean(dim=1, keepdim=True))).sum() / (n - 1) ** 2


#: The penalties by name.
PENALTIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "diff_dp": diff_dp,
    "diff_eodd": diff_eodd,
    "hsic": hsic,
}


class PenaltyNetwork(ClassifierMixin, BaseEstimator):
    """A multilayer perceptron trained with a fairness penalty.

    Parameters
    ----------
    penalty : str or None, default=None
        A key of PENALTIES; None is the plain dense network.
    penalty_weight : float, default=1.0
        The weight of the penalty in the loss.
    hidden_layer_sizes : tuple of int, default=(256, 256)
        The units of each hidden layer.
    max_epochs : int or "auto", default="auto"
        As in FairPrunedClassifier.
    random_state : int, default=0
        Seeds the weights, the held-out part and the batches.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels, 0 and 1.
    module_ : TabularNetwork
        The network, in eval mode.
    n_iter_ : int
        The epochs run.
    """

    def __init__(
        self,
        penalty: str | None = None,
        penalty_weight: float = 1.0,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        max_epochs: int | str = "auto",
        random_state: int = 0,
    ) -> None:
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_epochs = max_epochs
        self.random_state = random_state

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None = None,
        sensitive_features: np.ndarray | None = None,
    ) -> "PenaltyNetwork":
        """Train on encoded rows with labels 0 and 1; a penalty needs the groups."""
        X, y = np.asarray(X), np.asarray(y).astype(np.int64)
        n_rows = len(y)
        group = np.zeros(n_rows, np.int64)
        if sensitive_features is not None:
            group = np.unique(np.asarray(sensitive_features).astype(str), return_inverse=True)[1]
        weight = np.ones(n_rows) if sample_weight is None else np.asarray(sample_weight) * 1.0
        cells = 2 * group + y
        # Reweighted data may leave a cell with a single row, which cannot be shared.
        stratify = cells if np.unique(cells, return_counts=True)[1].min() > 1 else None
        parts = train_test_split(
            np.arange(n_rows), test_size=0.2, stratify=stratify, random_state=self.random_state
        )
        batch_size = min(max(n_rows // 64, 32), 512)
        epochs = self.max_epochs
        if epochs == "auto":
            epochs = min(max(20, 1000 * batch_size // n_rows), 200)
        tensors = (
            torch.tensor(X, dtype=torch.float32),
            torch.tensor(y),
            torch.tensor(group),
            torch.tensor(weight / weight.mean(), dtype=torch.float32),
        )
        learn, held_out = (tuple(tensor[part] for tensor in tensors) for part in parts)
        self.classes_ = np.array([0, 1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            knots = [find_knots(column, np.ones(n_rows), _N_BINS) for column in X.T]
            encoding = PiecewiseLinearEncoding(knots)
            network = TabularNetwork(encoding, self.hidden_layer_sizes, 2)
            self.module_ = self._train(network.float(), learn, held_out, batch_size, int(epochs))
        return self

    def _train(
        self, network: nn.Module, learn: tuple, held_out: tuple, batch_size: int, epochs: int
    ) -> nn.Module:
        """Run the epochs and return the network of the best held-out loss."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY, fused=True)
        n_steps = epochs * -(-len(learn[1]) // batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, n_steps))
        best, best_loss = copy.deepcopy(network), np.inf
        for _ in range(epochs):
            network.train()
            for batch in _batches(learn, batch_size):
                optimizer.zero_grad()
                self._loss(network, batch).backward()
                optimizer.step()
                schedule.step()
            network.eval()
            with torch.no_grad():
                loss = float(np.mean([self._loss(network, b).item() for b in _batches(held_out, 4096)]))
            if loss < best_loss:
                best, best_loss = copy.deepcopy(network), loss
        self.n_iter_ = epochs
        return best.eval()

    def _loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x, y, group, weight = batch
        logits = network(x)
        loss = (weight * nn.functional.cross_entropy(logits, y, reduction="none")).mean()
        if self.penalty is None:
            return loss
        score = torch.softmax(logits, dim=1)[:, 1]
        return loss + self.penalty_weight * PENALTIES[self.penalty](score, y, group)

    @torch.inference_mode()
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities of the labels, of shape (n_samples, 2)."""
        blocks = torch.tensor(np.asarray(X), dtype=torch.float32).split(4096)
        return torch.cat([torch.softmax(self.module_(block), dim=1) for block in blocks]).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the labels."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")


def _batches(tensors: tuple[Tensor, ...], batch_size: int) -> Iterator[Any]:
    """Yield shuffled batches."""
    for rows in torch.randperm(len(tensors[0])).split(batch_size):
        yield tuple(tensor[rows] for tensor in tensors)
