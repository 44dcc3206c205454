"""What the command lines share: counts and names are checked before anything is loaded or fitted."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable

__all__ = ["at_least", "check_names", "n_jobs"]


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number, ``least`` or larger."""

    def number(text: str) -> int:
        if int(text) < least:
            raise ArgumentTypeError(f"got {text}; it must be at least {least}")
        return int(text)

    return number


def n_jobs(text: str) -> int:
    """Read a number of processes; joblib counts negative ones down from all cores."""
    if int(text) == 0:
        raise ArgumentTypeError("got 0; it must be at least 1, or -1 for all cores")
    return int(text)


def check_names(parser: ArgumentParser, given: Iterable[str], known: Iterable[str]) -> None:
    """End with an error if a name is not known."""
    known = list(known)
    if unknown := [name for name in given if name not in known]:
        parser.error(f"unknown: {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, known))}")
