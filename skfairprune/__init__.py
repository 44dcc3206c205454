"""Fair structured pruning of PyTorch networks as a scikit-learn classifier."""

from skfairprune._classifier import FairPrunedClassifier

__version__ = "0.1.0.dev0"

__all__ = ["FairPrunedClassifier", "__version__"]
