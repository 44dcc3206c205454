"""How epochs are shared among the phases, and how rate, budget and temperature move in them."""

import math
from typing import NamedTuple

__all__ = ["Epochs", "anneal", "one_cycle", "share_epochs"]

_DENSE, _BILEVEL = 0.25, 0.1
_WARM_UP, _FIRST_RATE, _LAST_RATE = 0.2, 0.04, 1e-4
_FIRST_TEMPERATURE, _LAST_TEMPERATURE = 1.0, 0.05


class Epochs(NamedTuple):
    """The epochs of the dense phase, the bilevel phase and the fine-tuning."""

    dense: int
    bilevel: int
    fine_tune: int

    @property
    def total(self) -> int:
        """All epochs."""
        return sum(self)


def share_epochs(max_epochs: int) -> Epochs:
    """Share the epochs among the phases, each getting at least one.

    Parameters
    ----------
    max_epochs : int
        The epochs of all phases together, at least 3.

    Examples
    --------
    >>> from skfairprune.training.schedules import share_epochs
    >>> share_epochs(20)
    Epochs(dense=5, bilevel=2, fine_tune=13)
    """
    dense = max(1, int(_DENSE * max_epochs))
    bilevel = max(1, round(_BILEVEL * max_epochs + 1e-9))
    return Epochs(dense, bilevel, max_epochs - dense - bilevel)


def anneal(progress: float, full: float, budget: float) -> tuple[float, float]:
    """Return the budget of parameters and the gates' temperature at a moment of the bilevel phase.

    The budget falls along a cubic (Zhu and Gupta, "To prune, or not to prune", 2017), the temperature
    geometrically.

    Parameters
    ----------
    progress : float
        The share of the phase that is over, in (0, 1].
    full, budget : float
        The parameters at the phase's start and end.
    """
    temperature = _FIRST_TEMPERATURE * (_LAST_TEMPERATURE / _FIRST_TEMPERATURE) ** progress
    return budget + (full - budget) * (1 - progress) ** 3, temperature


def one_cycle(step: int, n_steps: int) -> float:
    """Return the learning rate at a step of a phase, as a share of its peak.

    It rises along half a cosine for a fifth of the steps and falls along another to almost nothing
    (Smith and Topin, "Super-convergence", 2019).

    Parameters
    ----------
    step : int
        The steps taken so far, at least 0.
    n_steps : int
        The steps of the phase, at least 1.
    """
    warm_up = _WARM_UP * n_steps
    if step < warm_up:
        low, progress = _FIRST_RATE, 1 - step / warm_up
    else:
        low, progress = _LAST_RATE, min((step - warm_up) / (n_steps - warm_up), 1.0)
    return low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2
