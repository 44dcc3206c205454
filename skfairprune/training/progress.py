"""A progress bar over the epochs of all phases."""

from typing import Any

from skorch.callbacks import Callback
from tqdm.auto import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Advance one bar by an epoch at a time, across phases.

    Parameters
    ----------
    n_epochs : int or None
        The epochs planned, over all phases; None if that is not known.
    """

    def __init__(self, n_epochs: int | None) -> None:
        self.bar = tqdm(total=n_epochs, unit="epoch")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Advance and show the loss."""
        self.bar.set_postfix_str(f"loss {net.history[-1, 'train_loss']:.3f}", refresh=False)
        self.bar.update()

    def start(self, phase: str) -> None:
        """Name the phase."""
        self.bar.set_description(phase)
