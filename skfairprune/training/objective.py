"""The training objective of both levels: cross-entropy plus the constraint's Lagrangian."""

import torch
from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(nn.Module):
    r"""Weighted joint cross-entropy plus a smooth surrogate of the decision's Lagrangian.

    With the rule's coefficients :math:`c` in [-1, 1] (see :mod:`skfairprune.decision`) the Lagrangian of
    the 0-1 loss and the constraint is, up to a constant, :math:`-E[c_{y,g}\, h(x)]`. Its surrogate replaces
    the decision :math:`h = 1[s(x) > 0]` by a sigmoid of the score,

    .. math:: \ell(x, y, g) = -\log q_{y,g}(x)
              - \alpha\, c_{y,g}\, \sigma\big(s(x) / T\big), \qquad s(x) = \sum_{y,g} c_{y,g}\, q_{y,g}(x),

    so that weights and gates move the decisions that the multipliers price, and the multipliers
    themselves come from thresholded rates only.

    Parameters
    ----------
    strength : float
        :math:`\alpha`, at least 0.
    temperature : float
        :math:`T`, in units of the score.
    """

    costs: Tensor | None

    def __init__(self, strength: float = 0.0, surrogate: str = "sigmoid", temperature: float = 0.1) -> None:
        super().__init__()
        self.strength, self.temperature = strength, temperature
        self.register_buffer("costs", None)

    def set_costs(self, coefficients: Tensor, costs: Tensor) -> None:
        self.costs = costs

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the mean loss over rows of logits (n_samples, n_joint), weights of mean about 1."""
        log_proba = torch.log_softmax(logits, dim=1)
        loss = -log_proba.gather(1, target[:, None]).squeeze(1)
        if self.costs is not None and self.strength > 0:
            decision = torch.sigmoid(log_proba.exp() @ self.costs / self.temperature)
            loss = loss - self.strength * self.costs[target] * decision
        return (weight * loss).mean()
