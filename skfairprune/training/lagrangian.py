"""How the constraint enters the objective: its costs follow the thresholded rates on held-out rows."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from skorch.callbacks import Callback

from skfairprune.constraints import Floats
from skfairprune.training.batches import Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.net import joint_proba
from skfairprune.training.objective import Objective

__all__ = ["AscentCosts", "CostUpdate", "Lagrangian", "RuleCosts"]

_ASCENTS = 8  # steps of the ascent in an epoch


class Costs(Protocol):
    """Turns scores of the upper rows into the objective's two tables."""

    def __call__(self, joint: Floats, index: Any) -> tuple[Floats, Floats]:
        """Return the decision's coefficients and the Lagrangian's gains, both (n_joint, n_decisions)."""


class RuleCosts:
    """Costs for a network whose decisions the fitted rule will make.

    The multipliers solve the dual on the current scores: decisions are priced as the rule prices them, and
    what is trained is the decision of that rule.

    Parameters
    ----------
    task : FairTask
        The constraint.
    """

    def __init__(self, task: FairTask) -> None:
        self.task = task

    def __call__(self, joint: Floats, index: Any) -> tuple[Floats, Floats]:
        """Solve the dual anew."""
        gains = self.task.fit_rule(joint, index).rule.scaled()
        return gains, gains


class AscentCosts:
    r"""Costs for a network that decides by itself, without a rule: multipliers by projected ascent.

    With :math:`r_{e,g}` the thresholded rates on held-out rows and :math:`\epsilon_e` the target (the bound
    less a sampling standard error), each event's rates are compared with the nearest band of that width,
    and what lies outside drives the multipliers,

    .. math:: \mu_{e,g} \leftarrow \mathrm{clip}\big(\mu_{e,g} + \eta\,(r_{e,g} - \mathrm{clip}(r_{e,g},
              l_e, l_e + \epsilon_e))\big), \qquad \lambda_{e,g} = P(e, g)\, \mu_{e,g},

    so that soft surrogates give the gradients and strict rates the multipliers (Cotter et al., "Two-player
    games for efficient non-convex constrained optimization", 2019). A gap within its sampling error
    moves nothing, and the multipliers are bounded: where they grow without end the network collapses to
    a constant.

    Parameters
    ----------
    task : FairTask
        The constraint.
    step : float
        :math:`\eta`, in accuracy per unit of rate.
    limit : float
        The largest :math:`|\mu|`.
    """

    def __init__(self, task: FairTask, step: float = 1.0, limit: float = 5.0) -> None:
        self.task, self.step, self.limit = task, step, limit
        self.multipliers: Floats | None = None

    def __call__(self, joint: Floats, index: Any) -> tuple[Floats, Floats]:
        """Take one step of the multipliers."""
        violation = self.task.violation(joint, index)
        start = 0.0 if self.multipliers is None else self.multipliers
        self.multipliers = (start + self.step * violation).clip(-self.limit, self.limit)
        return self.task.plain_gains(), self.task.gains(self.multipliers, index)


class CostUpdate(Callback):
    """Set an objective's costs before a phase, and again every so many updates of the weights.

    Parameters
    ----------
    objective : Objective
        Its costs are set.
    costs : Costs
        Computes them.
    upper : Rows
        The rows of the thresholded rates.
    every : int or None
        The updates of the weights between two of the costs; None sets them once.
    """

    def __init__(self, objective: Objective, costs: Costs, upper: Rows, every: int | None) -> None:
        self.objective, self.costs, self.upper, self.every = objective, costs, upper, every
        self.n_batches = 0

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Update before the phase."""
        self._update(net)

    def on_batch_begin(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Update after so many batches."""
        if training:
            if self.every is not None and self.n_batches and self.n_batches % self.every == 0:
                self._update(net)
            self.n_batches += 1

    def _update(self, net: Any) -> None:
        net.module_.eval()
        joint = joint_proba(net.held_out_logits, self.upper)
        found = self.costs(joint, self.upper.position.cpu().numpy())
        self.objective.set_costs(*(torch.from_numpy(table).to(self.upper.x) for table in found))


@dataclass
class Lagrangian:
    """Makes the objective of each phase, with or without the constraint.

    Parameters
    ----------
    task : FairTask or None
        The constraint; None trains without.
    upper : Rows
        The rows of the thresholded rates.
    constrained : frozenset of str
        The phases under the constraint, from :class:`skfairprune.training.plan.Plan`.
    with_rule : bool
        Whether a decision rule will be fitted. If not, the network has to meet the bound by itself.
    strength, surrogate, temperature
        Of the objective.
    """

    task: FairTask | None
    upper: Rows
    constrained: frozenset[str]
    with_rule: bool
    strength: float
    surrogate: str
    temperature: float

    def __post_init__(self) -> None:
        self.costs: Costs | None = None
        if self.task is not None:
            self.costs = RuleCosts(self.task) if self.with_rule else AscentCosts(self.task)

    def objective(self) -> Objective:
        """Return an objective without costs: the cross-entropy."""
        return Objective(self.strength, self.surrogate, self.temperature).to(self.upper.x.device)

    def constrain(self, objective: Objective, phase: str, n_batches: int) -> CostUpdate | None:
        """Return the callback that puts the constraint into an objective, if the phase carries it.

        Parameters
        ----------
        objective : Objective
            The objective.
        phase : str
            A name in ``constrained``.
        n_batches : int
            The updates of an epoch of the phase.
        """
        if self.costs is None or phase not in self.constrained:
            return None
        if not self.with_rule:
            every = max(1, n_batches // _ASCENTS)
        else:
            every = None if phase in ("fine-tune", "repair") else n_batches
        return CostUpdate(objective, self.costs, self.upper, every)
