"""How the constraint enters the objective: its values follow the thresholded rates on held-out rows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback

from skfairprune.constraints import Floats
from skfairprune.decision import DecisionRule
from skfairprune.training.batches import Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.net import PhaseNet, joint_proba
from skfairprune.training.objective import Objective

__all__ = ["Lagrangian", "MultiplierUpdate"]

_ASCENTS = 8  # steps of the ascent in an epoch
_STEP = 1.0  # of the ascent, in accuracy per unit of rate
_LIMIT = 5.0  # of a row's price, and of what a right decision is worth, in accuracy


@dataclass
class Lagrangian:
    r"""Makes the objective of each phase, with or without the constraint, and moves its multipliers.

    Where a decision rule will be fitted, the multipliers solve the dual on the current scores: decisions are
    priced as the rule prices them, and what is trained is the decision of that rule. Where errors have a
    price, as under error-rate parity, only those of the groups with more errors are trained at it: errors
    that others would have to make are left to the rule, which needs no more of them than are missing on
    held-out rows (on levelling down: Mittelstadt, Wachter and Russell, "The unfairness of fair machine
    learning: levelling down and strict egalitarianism by default", 2023).

    Without a rule, or where noise stops the rule short of the bound, the network has to meet the bound by
    itself, and the multipliers ascend. (On few rows a rule is a threshold or two set by chance; what is
    trained averages over all rows: docs/design_notes.md has the figures.) With
    :math:`r_{e,g}` the thresholded rates on held-out rows and :math:`[l_e, u_e]` the nearest band of the
    width that is allowed (the bound less a sampling standard error, though at least half of it),

    .. math:: \lambda_{e,g} \leftarrow \lambda_{e,g} + \eta \min_{g'} P(e, g')\,
              \big(r_{e,g} - \mathrm{clip}(r_{e,g}, l_e, u_e)\big),

    so that soft surrogates give the gradients and strict rates the multipliers (Cotter et al., "Two-player
    games for efficient non-convex constrained optimization", 2019). The step is one in the price of a single
    row, :math:`\lambda_{e,g} / P(e, g)`, of the smallest group that takes part in the event. A gap within its
    sampling error moves nothing, and prices are bounded: where they grow without end a network collapses to a
    constant. Of the last phase the epoch of most :meth:`merit` stays.

    Parameters
    ----------
    task : FairTask or None
        The constraint; None trains without.
    upper : Rows
        The rows of the thresholded rates.
    constrained : frozenset of str
        The phases under the constraint, from :class:`skfairprune.training.plan.Plan`.
    strength, temperature, surrogate
        Of the objective.
    """

    task: FairTask | None
    upper: Rows
    constrained: frozenset[str]
    strength: float
    temperature: float
    surrogate: str
    _ascends: bool = field(init=False)
    _ascended: Floats | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Leave it to the rule, if there is to be one."""
        self._ascends = self.task is not None and not self.task.with_rule

    def restart(self) -> None:
        """Forget the multipliers of the phases before: what follows is the training of another network."""
        self._ascended = None

    def measure_noise(self, joint: Floats) -> None:
        """Let the multipliers of later phases ascend if noise stops the rule short of the bound.

        Parameters
        ----------
        joint : ndarray of shape (n_upper, n_joint)
            Scores of the upper rows from weights that did not see them.
        """
        if self.task is not None and self.task.with_rule:
            self._ascends = self.task.is_limited_by_noise(joint, self.upper.position.cpu().numpy())

    def objective(self) -> Objective:
        """Return an objective without the constraint: the cross-entropy."""
        return Objective(self.strength, self.temperature, self.surrogate).to(self.upper.x.device)

    def constrain(self, objective: Objective, phase: str, n_batches: int) -> "MultiplierUpdate | None":
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
        if self.task is None or phase not in self.constrained:
            return None
        last = phase in ("fine-tune", "repair")
        if self._ascends:
            return MultiplierUpdate(self, objective, max(1, n_batches // _ASCENTS))
        return MultiplierUpdate(self, objective, None if last else n_batches)

    @property
    def priced(self) -> NDArray[np.bool_] | None:
        """The cells with a price, of shape (n_events, n_groups); None where multipliers do not ascend."""
        return None if self._ascended is None else self._ascended != 0

    def merit(self, net: PhaseNet) -> float:
        """Return the merit of the network's own decisions on the upper rows, which its weights did not see.

        Multipliers that ascend can overshoot where a network learns its rows by heart: the rates of rows
        that it has not seen then follow no price.
        """
        assert self.task is not None
        return self.task.merit(self.scores(net), self.upper.position.cpu().numpy())

    def scores(self, net: PhaseNet) -> Floats:
        """Return the joint probabilities of the upper rows from weights that did not see them."""
        net.module_.eval()
        return joint_proba(net.held_out_logits, self.upper)

    def tables(self, joint: Floats) -> tuple[Floats, Floats]:
        """Return the objective's two tables at the current scores of the upper rows (n_upper, n_joint)."""
        assert self.task is not None
        index = self.upper.position.cpu().numpy()
        if not self._ascends:
            rule = self.task.fit_rule(joint, index).rule
            weights = rule.output_weights().T
            return weights, self._level_up(rule) if self.task.constraint.prices_errors else weights
        cells = self.task.cell_weights(index)
        violation, driven = self.task.violation(joint, index)
        least = np.where(driven & (cells > 0), cells, 1.0).min(axis=1, keepdims=True)
        start = np.zeros_like(cells) if self._ascended is None else self._ascended
        # One that takes part no more may go back to 0.
        returns = ~driven & (start * violation < 0)
        multipliers = start + _STEP * least * violation * (driven | returns)
        multipliers[returns & (start * multipliers < 0)] = 0.0
        price = np.abs(multipliers / np.maximum(cells, np.finfo(float).tiny)).max()
        self._ascended = multipliers * min(1.0, _LIMIT / max(price, _LIMIT))
        values = self.task.values(self._ascended, cells)
        return self.task.unconstrained.output_weights().T, values

    def _level_up(self, rule: DecisionRule) -> Floats:
        """Return what right decisions are worth more than wrong ones by a rule, no less than without it.

        Returns
        -------
        ndarray of shape (n_joint, n_decisions)
            0 for wrong decisions; for right ones in [1, 5], in accuracy.
        """
        assert self.task is not None
        labels, n_decisions = self.task.constraint.head_labels, self.task.constraint.n_decisions
        right = np.eye(n_decisions, dtype=bool)[labels][:, None]
        worth = rule.coefficients
        wrong = np.where(right, -np.inf, worth).max(axis=2, keepdims=True)
        gain: Floats = np.where(right, np.clip(worth - wrong, 1.0, _LIMIT), 0.0)
        return gain.reshape(self.task.n_joint, n_decisions)


class MultiplierUpdate(Callback):
    """Move the multipliers of an objective before a phase, and again every so many updates of the weights.

    Parameters
    ----------
    lagrangian : Lagrangian
        Computes the objective's tables.
    objective : Objective
        Its tables are set.
    every : int or None
        The updates of the weights between two of the multipliers; None moves them once.
    """

    def __init__(self, lagrangian: Lagrangian, objective: Objective, every: int | None) -> None:
        self.lagrangian, self.objective, self.every = lagrangian, objective, every
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
        tables = self.lagrangian.tables(self.lagrangian.scores(net))
        x = self.lagrangian.upper.x
        self.objective.set_tables(*(torch.from_numpy(table).to(x) for table in tables))
