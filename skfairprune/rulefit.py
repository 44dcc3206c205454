"""The fit of the decision rule: multipliers whose observed, thresholded gap keeps clear of the bound.

How sampling error enters the gap that is aimed at is told in :mod:`skfairprune.noise`; within a twentieth of
a standard error the target is met.

Where errors have a price, as under error-rate parity, a group whose errors have to rise to those of another
is left with next to no gain from being decided right. Any decision on its rows is then as good as another,
the noise of the scores takes its pick, and on other rows it picks otherwise. So the priced utility leans
towards one decision, the rarest label: the errors are then those of a lower threshold for it, and carry over
(docs/design_notes.md has the figures).

Under equalized odds both kinds of errors of a group may have to rise, and no lean serves both. There the
bound of the targets is raised until all but a few rows are decided by what they are. If the rule that comes
of it is above the bound that was asked for, the odds move instead: errors on the label that all rows could
get without any gap (the safe label) are dearer, by the least factor under which the targets leave few rows
to noise, as if that label had so much larger odds (Elkan, "The foundations of cost-sensitive learning", 2001,
theorem 2). Rates of fewer other decisions are nearer to each other, and the price is accuracy, not the bound.

To shrink the observed rates themselves, towards those that the scores imply, was tried and left out: on
unseen rows it kept bounds no better, and worse where scores are not calibrated.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.decision import DecisionRule
from skfairprune.gaps import Gap
from skfairprune.multipliers import DualProblem
from skfairprune.noise import Noise
from skfairprune.scored import ScoredRows, decision_shares

__all__ = ["LEAN", "RuleFit", "RuleProblem"]

# What deciding for the rarest label adds to the utility that is priced, where an error has utility 1. Gaps on
# unseen rows are alike from .05 to .2; with .5 accuracy is lost.
LEAN = 0.2
# What a gap above the target costs in accuracy, when rules are compared. Where noise leaves only wild rules
# within the target, one that is near it is better.
_PRICE = 5.0
# What a rule may be less accurate than one decision for all rows that keeps the bound. What it is beyond that
# costs as an excess does.
_LEAST = 0.02
# Rounds of solving and measuring, and those without a better rule after which noise is all that moves; it is
# seen sooner from a rule under a bound near by.
_MAX_ROUNDS, _PATIENCE, _PATIENCE_NEAR = 20, 5, 2
_MAX_HALVINGS = 10
_ROUNDING = 1e-9
# A row where no label makes one decision worth so much more than another, in accuracy, is left to noise; so
# many rows may be. Halvings of the way to the bound that the unconstrained rule keeps, where more are.
_STAKE, _MOST_BY_NOISE, _MAX_RAISES = 0.1, 0.01, 5
# Where odds move: the stake (figures are alike from .3 to .9), the largest odds, halvings of the way there,
# and how often they may move, since the rates that are observed then may ask for more.
_STAKE_OF_ODDS, _MOST_ODDS, _ODDS_HALVINGS, _MAX_MOVES = 0.5, 8.0, 6, 2
# Shares of the target to aim at where the rounds end above it.
_SHARPER = (0.5, 0.0)


@dataclass(frozen=True)
class RuleFit:
    """A fitted rule and what it reached on the rows it was fitted on.

    Attributes
    ----------
    rule : DecisionRule
        The rule.
    multipliers : ndarray of shape (n_events, n_groups)
        The multipliers behind it.
    rate_shift : ndarray of shape (n_events, n_groups)
        What was added to the rates that the scores imply.
    event_gaps : list of Gap
        The thresholded gap on the rows, in each event.
    accuracy : float
        The (class-weighted) accuracy on the rows.
    constant : bool
        Whether all rows get the same decision.
    raised : bool
        Whether it aims higher than it was asked to, since that would leave too many rows to noise.
    beside : ndarray of shape (2, n_events), default=None
        Where groups take no part in the rule, the gap of all groups, and that which they may have: of the
        unconstrained rule, and its standard error.
    odds : float
        How many times as much an error on the safe label, which all rows could get without any gap, costs: in
        [1, 8].
    """

    rule: DecisionRule
    multipliers: Floats
    rate_shift: Floats
    event_gaps: list[Gap]
    accuracy: float
    constant: bool
    raised: bool = False
    odds: float = 1.0
    beside: Floats | None = None

    def excess(self, limit: Floats | float) -> float:
        """Return by how much the gap of the worst event is above the limit, one for all or for each.

        Groups that take no part may keep a gap that they have, and not get a larger one.
        """
        above = np.array([gap.value for gap in self.event_gaps]) - limit
        if self.beside is not None:
            above = np.fmax(above, self.beside[0] - np.maximum(self.beside[1], limit))
        return float(np.nan_to_num(above, nan=-np.inf).max())


class RuleProblem:
    """The rows, ready for the fit of rules under any bound.

    Parameters
    ----------
    rows : ScoredRows
        Rows that the network's weights did not see, or with copies that fine-tuning did not show them.
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under the constraint.
    class_weight : ndarray of shape (n_decisions,)
        The class weights the network was trained with. They count in the accuracy, not in the rates.
    whole : RuleProblem, default=None
        The problem that these rows are a part of: it states utilities that lean, noise and safe label.
    """

    def __init__(
        self,
        rows: ScoredRows,
        constraint: Constraint,
        included: NDArray[np.bool_],
        class_weight: Floats,
        whole: "RuleProblem | None" = None,
    ) -> None:
        labels = constraint.head_labels
        # The network was trained on tilted classes: its scores are tilted back before rates are read.
        self.tilt = class_weight[labels] / class_weight.mean()
        untilted = rows.proba / self.tilt[:, None]
        untilted /= untilted.sum(axis=(1, 2), keepdims=True)
        gain = np.eye(constraint.n_decisions)[labels] * self.tilt[:, None]
        true_rows = ScoredRows(untilted, rows.kind, rows.group, rows.weight)
        self.rows, self.constraint, self.class_weight = rows, constraint, class_weight
        self.priced: Constraint = _leaning(constraint, rows) if whole is None else whole.priced
        self.dual = DualProblem(true_rows, self.priced, included, gain)
        self.reported = self.included = self.dual.included
        self.allowed: Floats | None = None
        self.label = constraint.labels[rows.kind]
        correct = class_weight[self.label] * rows.weight
        self.value = correct / correct.sum()
        self.unconstrained = self._measure_unconstrained()
        self.noise: Noise = self._measure_noise() if whole is None else whole.noise
        if np.any(self.included & ~self.noise.driven):
            free = self.unconstrained.event_gaps
            self.dual = DualProblem(true_rows, self.priced, self.included & self.noise.driven, gain)
            self.included = self.dual.included
            self.allowed = np.array([gap.value + gap.standard_error for gap in free])
            self.unconstrained = self._measure_unconstrained()
        self.constants = self._measure_constants()
        self.safe: int | None = self._find_safe() if whole is None else whole.safe

    def part(self, rows: NDArray) -> "RuleProblem":
        """Return the problem on the rows of that index or mask, with the prices and targets of this one.

        On a part another label could be the rarest, and targets further from the bound, and its rules would
        not be those that they stand for.
        """
        part = self.rows.take(rows)
        return RuleProblem(part, self.constraint, self.reported, self.class_weight, self)

    def evaluate(self, multipliers: Floats, shift: Floats, odds: float = 1.0) -> tuple[RuleFit, Floats]:
        """Return the rule of these multipliers and its observed less its implied rates."""
        dual = self._at(odds)
        fit, rates = self._judge(dual.coefficients(multipliers), multipliers, shift, odds)
        implied = dual.rates(dual.margins(multipliers))
        return fit, np.where(self.included, rates - implied, 0.0)

    def _measure_unconstrained(self) -> RuleFit:
        """Return the rule without multipliers."""
        zeros = np.zeros(self.included.shape)
        return self._judge(self.dual.coefficients(zeros), zeros, zeros)[0]

    def _judge(
        self, coefficients: Floats, multipliers: Floats, shift: Floats, odds: float = 1.0
    ) -> tuple[RuleFit, Floats]:
        """Return the rule of these coefficients and its observed rates."""
        rule = DecisionRule(coefficients / self.tilt[:, None, None])
        decisions = self.rows.decisions(rule)
        shares = decision_shares(decisions, self.rows.blind, self.constraint.n_decisions)
        counts = self.rows.counts(self.constraint, shares)
        beside = None
        if self.allowed is not None:
            gaps = counts.event_gaps(self.constraint, self.reported)
            beside = np.array([[gap.value for gap in gaps], self.allowed])
        fit = RuleFit(
            rule,
            multipliers,
            shift,
            counts.event_gaps(self.constraint, self.included),
            float(self.value @ shares[np.arange(len(shares)), self.label]),
            bool(np.ptp(decisions[0]) == 0),
            odds=odds,
            beside=beside,
        )
        return fit, counts.rates(self.constraint)

    def _at(self, odds: float) -> DualProblem:
        """Return the dual in which errors on the safe label are so much dearer."""
        if odds == 1:
            return self.dual
        safe = self.constraint.head_labels == self.safe
        return self.dual.with_gain(self.dual.gain * np.where(safe, odds, 1.0)[:, None])

    def _measure_constants(self) -> list[tuple[float, Floats]]:
        """Return the accuracy, and the gap of each event, of each decision if all rows get it."""
        found = []
        for decision in range(self.constraint.n_decisions):
            shares = np.zeros((len(self.label), self.constraint.n_decisions))
            shares[:, decision] = 1
            gaps = self.rows.counts(self.constraint, shares).event_gaps(self.constraint, self.included)
            accuracy = float(self.value @ (self.label == decision))
            found.append((accuracy, np.nan_to_num([gap.value for gap in gaps])))
        return found

    def _find_safe(self) -> int | None:
        """Return the commonest of the labels that all rows could get without any gap, if there is one."""
        share = np.bincount(self.label, self.rows.weight, minlength=self.constraint.n_decisions)
        within = [d for d, (_, gaps) in enumerate(self.constants) if gaps.max() <= _ROUNDING]
        return max(within, key=lambda d: share[d], default=None)

    def _floor(self, bound: float) -> float:
        """Return about the accuracy of one decision for all rows within the bound; else minus infinity."""
        within = [accuracy for accuracy, gaps in self.constants if np.all(gaps <= bound)]
        return max(within, default=-math.inf) - _LEAST

    def _measure_noise(self) -> Noise:
        """Measure the noise of the unconstrained rates."""
        counts = self.rows.counts(self.constraint, self.rows.decide(self.unconstrained.rule))
        rates, errors = counts.rates(self.constraint), counts.standard_errors(self.constraint)
        return Noise.of(rates, errors, counts.effective_rows(self.constraint), self.included)

    @property
    def tolerance(self) -> float:
        """How near the target a gap has to come."""
        return 0.05 * float(self.noise.error.max(initial=0.0))

    def fit(
        self,
        bound: float,
        near: RuleFit | None = None,
        multipliers: Floats | None = None,
        move: bool = True,
    ) -> RuleFit:
        """Fit the most accurate rule whose thresholded gap on the rows keeps clear of the bound.

        The dual is solved on the scores; then the observed, thresholded rates replace what the scores
        imply, and it is solved again, until both agree. A solution that leaves too many rows to noise gives
        way to that of the least larger bound that does not, and where that misses this bound, the odds of the
        safe label move. Of all the rules met on the way the one of most accuracy, less a price on its excess,
        is taken; a rule that decides alike for all rows only if no other is within the bound.

        Parameters
        ----------
        bound : float
            The largest gap allowed, in [0, 1].
        near : RuleFit, default=None
            The rule under a bound near it, to start from.
        multipliers : ndarray of shape (n_events, n_groups), default=None
            Multipliers near the solution, to start from without ``near``.
        move : bool, default=True
            Whether odds may move from those of ``near``, or from 1.

        Returns
        -------
        RuleFit
        """
        if self.unconstrained.excess(self.noise.target(bound)) <= _ROUNDING:
            return self.unconstrained
        shift, patience, odds = np.zeros(self.included.shape), _PATIENCE, 1.0
        if near is not None:
            multipliers, shift, patience, odds = near.multipliers, near.rate_shift, _PATIENCE_NEAR, near.odds
        found = self._approach(bound, odds, multipliers, shift, patience)
        best = self.select(found, bound)
        for _ in range(_MAX_MOVES if move and self.safe is not None else 0):
            # Raised all the way, it is the unconstrained rule.
            gave_up = best is self.unconstrained and any(
                fit.raised and not fit.multipliers.any() for fit in found
            )
            if not (best.raised or gave_up) or best.excess(bound) <= 0:
                break
            start = best
            for odds in self._larger_odds(bound, start):
                found += self._approach(bound, odds, start.multipliers, start.rate_shift, _PATIENCE)
            best = self.select(found, bound)
            if best is start:
                break
        return best

    def _approach(
        self, bound: float, odds: float, multipliers: Floats | None, shift: Floats, patience: int
    ) -> list[RuleFit]:
        """Return the rules that are met on the way to the target, the unconstrained one first."""
        target, tolerance, floor = self.noise.target(bound), self.tolerance, self._floor(bound)
        candidates, best, stale = [self.unconstrained], self.unconstrained, 0

        def merit(fit: RuleFit) -> float:
            return _merit(fit, target + tolerance, floor)

        for _ in range(_MAX_ROUNDS):
            multipliers, raised = self._solve(bound, 1.0, shift, multipliers, odds)
            fit, difference = self.evaluate(multipliers, shift, odds)
            fit = replace(fit, raised=raised)
            candidates.append(fit)
            if merit(fit) > merit(best):
                best, stale = fit, 0
            else:
                stale += 1
            crossed = len(candidates) > 2 and fit.excess(target) * candidates[-2].excess(target) < 0
            if crossed or abs(fit.excess(target)) <= tolerance or stale >= patience:
                break
            shift = difference
        # Where a small change of the multipliers moves many decisions, as under error-rate parity, rounds go
        # to and fro over the target or never reach it: a rule below it is sought, and those between tried.
        pairs = [(candidates[-2], candidates[-1])] if crossed else []
        if min(fit.excess(target) for fit in candidates) > tolerance:
            for share in _SHARPER:
                multipliers, raised = self._solve(bound, share, best.rate_shift, best.multipliers, odds)
                fit, _ = self.evaluate(multipliers, best.rate_shift, odds)
                fit = replace(fit, raised=raised)
                candidates.append(fit)
                if fit.excess(target) < 0:
                    pairs = [(best, fit)]
                    break
        for one, other in pairs:
            candidates += self._bisect(one, other, target, tolerance)
        return candidates

    def meets(self, fit: RuleFit, bound: float) -> bool:
        """Tell whether a rule is as near the target as it has to come, or below it."""
        return fit.excess(self.noise.target(bound)) <= self.tolerance + _ROUNDING

    def is_behind(self, fit: RuleFit, other: RuleFit) -> bool:
        """Tell whether a rule is clearly less accurate than another on the rows."""
        return fit.accuracy < other.accuracy - _LEAST

    def merit(self, fit: RuleFit, bound: float) -> float:
        """Return the accuracy less the price of what is not clear of the bound.

        It is minus infinity if all rows are decided alike.
        """
        return -math.inf if fit.constant else _merit(fit, self.noise.clear(bound), self._floor(bound))

    def select(self, fits: list[RuleFit], bound: float) -> RuleFit:
        """Return the rule of most merit under a bound."""
        return _select(fits, self.noise.target(bound) + self.tolerance, bound, self._floor(bound))

    def _solve(
        self, bound: float, share: float, shift: Floats, start: Floats | None, odds: float
    ) -> tuple[Floats, bool]:
        """Return the multipliers for a share of a bound's target, and whether a larger bound was taken."""
        dual = self._at(odds)
        multipliers = dual.solve(share * self.noise.target(bound), shift, start)
        if not _leaves_to_noise(dual, multipliers):
            return multipliers, False
        low, high, multipliers = bound, max(bound, self.noise.least_bound), np.zeros(self.included.shape)
        for _ in range(_MAX_RAISES):
            middle = (low + high) / 2
            raised = dual.solve(share * self.noise.target(middle), shift, start)
            if _leaves_to_noise(dual, raised):
                low = middle
            else:
                high, multipliers = middle, raised
        return multipliers, True

    def _larger_odds(self, bound: float, fit: RuleFit) -> list[float]:
        """Return about the least odds, from a rule's on, at which the target leaves few rows to noise.

        Where none do, some up to the largest are returned.
        """
        low, high = math.log(fit.odds), math.log(_MOST_ODDS)
        some = np.exp(np.linspace(low, high, 4)[1:]).tolist()
        for _ in range(_ODDS_HALVINGS):
            middle = (low + high) / 2
            dual = self._at(math.exp(middle))
            multipliers = dual.solve(self.noise.target(bound), fit.rate_shift, fit.multipliers)
            if _leaves_to_noise(dual, multipliers, _STAKE_OF_ODDS):
                low = middle
            else:
                high = middle
        return [math.exp(high)] if math.exp(high) < _MOST_ODDS else some

    def _bisect(self, one: RuleFit, other: RuleFit, target: Floats, tolerance: float) -> list[RuleFit]:
        """Return rules between two on either side of the target, ever nearer to it."""
        met: list[RuleFit] = []
        for _ in range(_MAX_HALVINGS):
            middle, _ = self.evaluate(
                (one.multipliers + other.multipliers) / 2,
                (one.rate_shift + other.rate_shift) / 2,
                other.odds,
            )
            middle = replace(middle, raised=one.raised or other.raised)
            met.append(middle)
            excess = middle.excess(target)
            if abs(excess) <= tolerance:
                break
            if excess * one.excess(target) > 0:
                one = middle
            else:
                other = middle
        return met


def _leaves_to_noise(dual: DualProblem, multipliers: Floats, stake: float = _STAKE) -> bool:
    """Tell whether too many rows have no label that makes one decision worth that much more than another."""
    return bool(dual.weight @ (dual.stakes(multipliers) < stake) > _MOST_BY_NOISE)


def _leaning(constraint: Constraint, rows: ScoredRows) -> Constraint:
    """Return the constraint with a higher utility, and so price, of every decision for the rarest label.

    The rates that it implies differ from the true ones; the fit's rounds correct for that as for any error of
    the scores. Constraints that price decisions whatever the label are left as they are.
    """
    if not constraint.prices_errors:
        return constraint
    share = np.bincount(constraint.labels[rows.kind], rows.weight, minlength=constraint.n_decisions)
    utilities = constraint.utilities.copy()
    utilities[:, :, share.argmin()] += LEAN
    return replace(constraint, utilities=utilities)


def _merit(fit: RuleFit, target: Floats, floor: float) -> float:
    """Return the accuracy less the price of the excess over the target.

    So is priced by how much it is less accurate than ``floor``, see :meth:`RuleProblem._floor`.
    """
    behind = max(floor - fit.accuracy, 0.0)
    return fit.accuracy - _PRICE * (max(fit.excess(target), 0.0) + behind)


def _select(candidates: list[RuleFit], target: Floats, bound: float, floor: float) -> RuleFit:
    """Return the rule of most merit.

    A rule that decides alike for all rows has no gap; it is taken only if no other is within the bound.
    """

    def merit(fit: RuleFit) -> float:
        return _merit(fit, target, floor)

    varying = [fit for fit in candidates if not fit.constant]
    constant = [fit for fit in candidates if fit.constant and fit.excess(bound) <= 0]
    if constant and not any(fit.excess(bound) <= 0 for fit in varying):
        return max(constant, key=merit)
    return max(varying or candidates, key=merit)
