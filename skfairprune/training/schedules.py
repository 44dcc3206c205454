"""How the learning rate, the removal and the gates' temperature move within a phase."""

import math
from collections.abc import Callable

__all__ = ["REMOVALS", "GateSchedule", "one_cycle"]

_WARM_UP, _FIRST_RATE, _LAST_RATE = 0.2, 0.04, 1e-4


def cubic(progress: float) -> float:
    """Return the share of the removal that is done, fast at first.

    Zhu and Gupta, "To prune, or not to prune" (2017), Eq. 1.
    """
    return 1 - (1 - progress) ** 3


def one_shot(progress: float) -> float:
    """Return the share of the removal that is done: all of it from the first step on."""
    return 1.0


#: The named schedules of the removal: functions of the progress in (0, 1].
REMOVALS: dict[str, Callable[[float], float]] = {"cubic": cubic, "one_shot": one_shot}


class GateSchedule:
    """The removal's share and the gates' temperature at a moment of the bilevel phase.

    Parameters
    ----------
    removal : callable
        Takes the progress in (0, 1], returns the share of the removal that is done, in [0, 1]; 1 at the
        end.
    temperatures : tuple of float
        The temperature at the phase's start and end; it falls geometrically.
    """

    def __init__(self, removal: Callable[[float], float], temperatures: tuple[float, float]) -> None:
        self.removal, self.temperatures = removal, temperatures

    def __call__(self, progress: float) -> tuple[float, float]:
        """Return the share and the temperature at a progress in (0, 1].

        Raises
        ------
        ValueError
            If the share is not a number in [0, 1].
        """
        first, last = self.temperatures
        returned = self.removal(progress)
        try:
            share = float(returned)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise ValueError(
                f"sparsity_schedule must return the share of the removal that is done, in [0, 1]; at the "
                f"progress {progress:.3f} it returned {returned!r}."
            )
        return share, first * (last / first) ** progress


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
