"""Data to learn fairness on: synthetic data with a known optimum, and the public benchmarks."""

from skfairprune.datasets._benchmarks import load_benchmark
from skfairprune.datasets._preprocessing import make_preprocessor, source_columns
from skfairprune.datasets._synthetic import BiasedDistribution, make_biased_classification

__all__ = [
    "BiasedDistribution",
    "load_benchmark",
    "make_biased_classification",
    "make_preprocessor",
    "source_columns",
]
