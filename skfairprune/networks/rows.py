"""Rows through a network, a batch at a time, and what is said of a row that it fails on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from skfairprune._reproducible import plain_modes
from skfairprune.networks.trial import trial_of

__all__ = ["N_MIXED", "check_rows", "logits_by_batch", "mix_rows"]

# Rows at once: the encoding of so many stays in the cache; of wide rows so many as hold no more numbers.
_BATCH_ROWS, _BATCH_NUMBERS = 4096, 2**20
#: The rows of :func:`mix_rows`.
N_MIXED = 9
_ADVICE = (
    "Give it numbers that its forward pass takes. A category that is not in the training rows needs a code "
    "that an embedding has: OrdinalEncoder(handle_unknown='use_encoded_value', unknown_value=-1, "
    "encoded_missing_value=-1) before the network, and in it self.embedding(x[:, 0].long() + 1), with one "
    "row for what is unknown."
)


def logits_by_batch(
    network: nn.Module,
    rows: Any,
    dtype: torch.dtype,
    known: NDArray[np.floating] | None = None,
    names: Sequence[Any] | None = None,
    source: str = "X",
) -> Iterator[Tensor]:
    """Yield the logits of rows.

    Parameters
    ----------
    network : nn.Module
        The network, on the CPU.
    rows : {ndarray, CSR matrix} of shape (n_samples, n_features)
        The rows; sparse ones are made dense a batch at a time.
    dtype : torch.dtype
        Of the network.
    known : ndarray of shape (n_known, n_features), default=None
        Rows that it runs on, with the lowest and the highest number of each column there.
    names : sequence of length n_features, default=None
        The columns' names.
    source : str, default="X"
        Where the rows come from.

    Yields
    ------
    Tensor of shape (n_batch, n_joint)

    Raises
    ------
    ValueError
        If the network raises an error on a row, or its logits are not finite there.
    """
    n_rows = min(_BATCH_ROWS, max(_BATCH_NUMBERS // max(rows.shape[1], 1), 1))
    for start in range(0, rows.shape[0], n_rows):
        block = rows[start : start + n_rows]
        block = block.toarray() if sparse.issparse(block) else block
        batch = torch.tensor(block, dtype=dtype, device="cpu")
        try:
            with plain_modes(), torch.no_grad():  # in inference mode no forward pass could take a gradient
                logits = network(batch).detach()
        except Exception as error:  # of the user's own forward pass
            position = _first_failure(network, batch)
            if position is None:  # such as too little memory
                raise
            where = _describe(block[position], start + position, known, names, source)
            raise ValueError(
                f"The network fails on {where}: {type(error).__name__}: {error} {_ADVICE}"
            ) from error
        if known is not None and not logits.isfinite().all():
            position = int((~logits.isfinite()).any(dim=1).nonzero()[0])
            where = _describe(block[position], start + position, known, names, source)
            raise ValueError(f"The network gives infinite or NaN outputs for {where}. Scale the columns.")
        yield logits


def check_rows(
    network: nn.Module,
    rows: NDArray[np.floating],
    n_train: int,
    probe: Tensor,
    names: Sequence[Any],
) -> None:
    """Refuse rows on which a network fails, before it is trained.

    Parameters
    ----------
    network : nn.Module
        The network, which stays as it is.
    rows : ndarray of shape (n_total, n_features)
        The training rows, then the held-out rows.
    n_train : int
        The number of training rows.
    probe : Tensor of shape (n_samples, n_features)
        Rows that it runs on.
    names : sequence of length n_features
        The columns' names.

    Raises
    ------
    ValueError
        As in :func:`logits_by_batch`, and if the network raises an error on mixed rows (:func:`mix_rows`).
    """
    trial, train, held_out = trial_of(network), rows[:n_train], rows[n_train:]
    parts = (
        (train, probe.numpy(), "X (rows of weight 0 are not counted)"),
        (held_out, train, "X_val"),
    )
    for part, known, source in parts:
        for _ in logits_by_batch(trial, part, probe.dtype, known, names, source):
            pass
    mixed = "the values of X in another order in each column, such as exports and files are tried with"
    for _ in logits_by_batch(trial, mix_rows(train), probe.dtype, source=mixed):
        pass


def mix_rows(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return quantiles of each column, in another order in each: values of the rows, otherwise combined.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The rows.

    Returns
    -------
    ndarray of shape (9, n_features)
    """
    values = np.quantile(X, np.linspace(0, 1, N_MIXED), axis=0, method="nearest")
    return np.column_stack([np.roll(column, number) for number, column in enumerate(values.T)])


def _first_failure(network: nn.Module, batch: Tensor) -> int | None:
    """Return the position of the first row that the network fails on; None if it fails on no row alone."""
    low, high = 0, len(batch)
    while high - low > 1:
        middle = (low + high) // 2
        if _fails(network, batch[low:middle]):
            high = middle
        elif _fails(network, batch[middle:high]):
            low = middle
        else:
            return None
    return low


def _fails(network: nn.Module, batch: Tensor) -> bool:
    try:
        with plain_modes(), torch.no_grad():
            network(batch)
    except Exception:  # of the user's own forward pass
        return True
    return False


def _describe(
    row: NDArray[np.floating],
    position: int,
    known: NDArray[np.floating] | None,
    names: Sequence[Any] | None,
    source: str,
) -> str:
    """Name a row, and where it is outside of the known ones."""
    told = f"row {position} of {source}"
    if known is None or names is None:
        return told
    lowest, highest = known.min(axis=0), known.max(axis=0)
    outside = [
        f"column {names[column]!r} is {row[column]:g}, and {lowest[column]:g} to {highest[column]:g} there"
        for column in np.flatnonzero((row < lowest) | (row > highest)).tolist()
    ]
    return f"{told}, which is outside of the rows it ran on ({'; '.join(outside)})" if outside else told
