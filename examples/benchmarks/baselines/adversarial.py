"""fairlearn's adversarial network on the encoding that the other networks get."""

import numpy as np
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from fairlearn.adversarial._pytorch_engine import PytorchEngine
from sklearn.base import BaseEstimator, ClassifierMixin

from baselines.encoding import Encoder

__all__ = ["AdversarialNetwork", "ProjectingEngine", "project"]


def project(own: torch.Tensor, adversary: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the gradient of the predictor's loss, less its part along the adversary's and alpha times that.

    Zhang et al., "Mitigating Unwanted Biases with Adversarial Learning" (2018), Eq. 1.
    """
    unit = adversary / adversary.norm().clamp_min(torch.finfo(adversary.dtype).eps)
    return own - (unit * own).sum() * unit - alpha * adversary


class ProjectingEngine(PytorchEngine):
    """fairlearn's engine with the projection of its paper.

    That of fairlearn 0.15 sums ``torch.inner`` of two matrices, which is the product of the sums of their
    rows, not of the matrices: it takes away up to 256 times too much here, and networks end constant or in
    NaN. Its engine for TensorFlow has the product.
    """

    def train_step(self, X: torch.Tensor, Y: torch.Tensor, A: torch.Tensor) -> tuple[float, float]:
        """Take one step of both networks; return their losses."""
        self.predictor_model.train()
        self.adversary_model.train()
        weights = list(self.predictor_model.parameters())
        predicted = self.predictor_model(X)
        loss = self.predictor_loss(predicted, Y)
        own = torch.autograd.grad(loss, weights, retain_graph=True)
        read = torch.cat((predicted, Y), dim=1) if self.base.pass_y_ else predicted
        guess = self.adversary_loss(self.adversary_model(read), A)
        self.adversary_optimizer.zero_grad()
        guess.backward(inputs=[*weights, *self.adversary_model.parameters()])
        for weight, slope in zip(weights, own, strict=True):
            assert weight.grad is not None
            weight.grad = project(slope, weight.grad, self.base.alpha)
        self.predictor_optimizer.step()
        self.adversary_optimizer.step()
        self.predictor_optimizer.zero_grad()
        return loss.item(), guess.item()


class AdversarialNetwork(ClassifierMixin, BaseEstimator):
    """A 256-256 network against a linear adversary that guesses the group (Zhang et al. 2018).

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
        self.encoder_ = Encoder().fit(X)
        self.network_ = AdversarialFairnessClassifier(
            backend=ProjectingEngine,
            predictor_model=[256, "leaky_relu", 256, "leaky_relu"],
            adversary_model=[],
            constraints=self.constraint,
            alpha=self.alpha,
            learning_rate=1e-3,
            epochs=int(epochs),
            batch_size=batch_size,
            shuffle=True,
            random_state=self.random_state,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.network_.fit(self.encoder_.transform(X), y, sensitive_features=sensitive_features)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the labels."""
        return np.asarray(self.network_.predict(self.encoder_.transform(X))).astype(int)
