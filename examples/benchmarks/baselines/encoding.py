"""The piecewise-linear encoding of the networks, for models outside the estimator."""

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from skfairprune.modules import PiecewiseLinearEncoding, find_knots

__all__ = ["Encoder"]

_N_BINS = 48


class Encoder(TransformerMixin, BaseEstimator):
    """What FairPrunedClassifier puts before its first layer, at its defaults."""

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> "Encoder":
        """Find the knots of each column."""
        knots = [find_knots(column, np.ones(len(X)), _N_BINS) for column in X.T]
        self.encoding_ = PiecewiseLinearEncoding(knots)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the encoded rows, of shape (n_samples, bins of all columns)."""
        return self.encoding_(torch.tensor(np.asarray(X, dtype=np.float64))).numpy()
