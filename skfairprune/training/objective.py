"""The training objective of both levels: cross-entropy plus the constraint's Lagrangian."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["SURROGATES", "Objective"]


def _sigmoid(score: Tensor) -> Tensor:
    return torch.softmax(score, dim=1)


def _ramp(score: Tensor) -> Tensor:
    """Project scores on the probability simplex: the sparsemax of Martins and Astudillo (2016), Alg. 1."""
    score = score - score.amax(dim=1, keepdim=True)  # of scores far above 1 the cumulative sums lose the 1
    ordered = score.sort(dim=1, descending=True).values
    # Cumulative sums as a product, since cumsum has no deterministic form on a GPU.
    excess = ordered @ ordered.new_ones(2 * ordered.shape[1:]).triu() - 1
    number = torch.arange(1, score.shape[1] + 1, device=score.device, dtype=score.dtype)
    n_support = (number * ordered > excess).sum(dim=1, keepdim=True)
    threshold = excess.gather(1, n_support - 1) / n_support
    return (score - threshold).clamp(min=0)


def _linear(score: Tensor) -> Tensor:
    return score


#: The surrogates of the indicator by name: soft decisions from scores of shape (n_samples, n_decisions).
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": _sigmoid, "ramp": _ramp, "linear": _linear}


class Objective(nn.Module):
    r"""Weighted joint cross-entropy plus a smooth surrogate of the decision's Lagrangian.

    Let :math:`V_{t,d}` be the value of the decision :math:`d` on a row of joint class :math:`t` under the
    multipliers. The Lagrangian of the 0-1 loss and the constraint is, up to a constant and a factor,
    :math:`-E[V_{t,h(x)}]`. Its surrogate replaces the indicator of each decision by a smooth function
    :math:`u_d` of the scores that decide,

    .. math:: \ell(x, t) = -\log q_t(x) - \alpha \sum_d V_{t,d}\, u_d\big(s(x) / T\big), \qquad
              s_d(x) = \sum_t C_{t,d}\, q_t(x),

    so that weights and gates move the decisions that the multipliers price, and the multipliers
    themselves come from thresholded rates only. :math:`u` is the paper's surrogate of the indicator
    (Dai et al., Eq. 7-8), which it does not name. Under a decision rule :math:`C` is the rule's last layer
    (see :mod:`skfairprune.decision`), and so is :math:`V`, but where errors have a price (see
    :class:`skfairprune.training.lagrangian.Lagrangian`); a network without one decides by its most probable
    label.

    Parameters
    ----------
    strength : float
        :math:`\alpha`, at least 0.
    temperature : float
        :math:`T` > 0, in units of the score.
    surrogate : {"sigmoid", "ramp", "linear"}
        :math:`u`: "sigmoid" is the softmax (of two decisions, the sigmoid of the scores' difference), which
        never quite saturates; "ramp" the sparsemax (of two, linear and clipped to [0, 1]), which is flat
        away from the threshold; "linear" the scores themselves, which do not saturate: rows far
        from the threshold pull as much as rows near it.
    """

    coefficients: Tensor | None
    values: Tensor | None

    def __init__(self, strength: float = 0.0, temperature: float = 0.1, surrogate: str = "sigmoid") -> None:
        super().__init__()
        self.strength, self.temperature, self.surrogate = strength, temperature, surrogate
        self.register_buffer("coefficients", None)
        self.register_buffer("values", None)

    def set_tables(self, coefficients: Tensor, values: Tensor) -> None:
        """Set :math:`C` and :math:`V`, of shape (n_joint, n_decisions); before, it is the cross-entropy.

        Later tables are copied to where the first ones are, which a recorded step goes on to read.
        """
        if self.coefficients is None or self.values is None:
            self.coefficients, self.values = coefficients.clone(), values.clone()
        else:
            self.coefficients.copy_(coefficients)
            self.values.copy_(values)

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor, soft_target: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss over rows.

        Parameters
        ----------
        logits : Tensor of shape (n_samples, n_joint)
            The network's outputs.
        target : Tensor of shape (n_samples,) of long
            Joint classes.
        weight : Tensor of shape (n_samples,)
            Weights of mean about 1.
        soft_target : Tensor of shape (n_samples, n_joint), default=None
            Distributions in place of the joint classes in the cross-entropy.
        """
        log_proba = torch.log_softmax(logits, dim=1)
        if soft_target is None:
            loss = -log_proba.gather(1, target[:, None]).squeeze(1)
        else:
            loss = -(soft_target * log_proba).sum(dim=1)
        if self.coefficients is not None and self.values is not None and self.strength > 0:
            score = log_proba.exp() @ self.coefficients / self.temperature
            decision = SURROGATES[self.surrogate](score)
            loss = loss - self.strength * (self.values[target] * decision).sum(dim=1)
        return (weight * loss).mean()
