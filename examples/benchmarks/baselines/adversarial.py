"""fairlearn's adversarial network on the encoding that the other networks get."""

import numpy as np
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from skfairprune.modules import PiecewiseLinearEncoding, find_knots

__all__ = ["AdversarialNetwork"]


class AdversarialNetwork(ClassifierMixin, BaseEstimator):
    """A 256-256 network against a linear adversary that guesses the group (Zhang et al. 2018).

    fairlearn divides by the norm of the adversary's gradient, and a network that has become constant gives
    0/0: at fairlearn's learning rate of .001 that happened in every fit, at 3e-4, taken here, in few.

    Parameters
    ----------
    constraint : str
        "demographic_parity" or "equalized_odds".
    alpha : float
        The adversary's weight.
    max_epochs : int or "auto", default="auto"
        As in FairPrunedClassifier.
    random_state : int, default=0
        The seed.
    """

    def __init__(
        self, constraint: str, alpha: float, max_epochs: int | str = "auto", random_state: int = 0
    ) -> None:
        self.constraint = constraint
        self.alpha = alpha
        self.max_epochs = max_epochs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray, sensitive_features: np.ndarray) -> "AdversarialNetwork":
        """Train on encoded rows with labels 0 and 1."""
        self.classes_ = np.array([0, 1])
        batch_size = min(max(len(y) // 64, 32), 512)
        epochs = self.max_epochs
        if epochs == "auto":
            epochs = min(max(20, 1000 * batch_size // len(y)), 200)
        knots = [find_knots(column, np.ones(len(y)), 48) for column in X.T]
        self.encoding_ = PiecewiseLinearEncoding(knots)
        self.network_ = AdversarialFairnessClassifier(
            backend="torch",
            predictor_model=[256, "leaky_relu", 256, "leaky_relu"],
            adversary_model=[],
            constraints=self.constraint,
            alpha=self.alpha,
            learning_rate=3e-4,
            epochs=int(epochs),
            batch_size=batch_size,
            shuffle=True,
            random_state=self.random_state,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.network_.fit(self._encode(X), y, sensitive_features=sensitive_features)
        return self

    def _encode(self, X: np.ndarray) -> np.ndarray:
        return self.encoding_(torch.tensor(np.asarray(X), dtype=torch.float32)).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the labels."""
        return np.asarray(self.network_.predict(self._encode(X))).astype(int)
