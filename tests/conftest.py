"""Shared data and models. They are made once a session; the arrays are read-only."""

from functools import partial

import pytest
import torch

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification

torch.set_num_threads(1)


def _draw(n_samples, random_state):
    data = make_biased_classification(n_samples, base_rates=(0.6, 0.2), random_state=random_state)
    data.X.flags.writeable = data.y.flags.writeable = data.sensitive_features.flags.writeable = False
    return data


@pytest.fixture(scope="session")
def small():
    """Make a classifier that fits in a fraction of a second."""
    return partial(
        FairPrunedClassifier, hidden_layer_sizes=(16, 16), sparsity=0.5, max_epochs=6, random_state=0
    )


@pytest.fixture(scope="session")
def train():
    """Training rows; the Bayes rule's demographic parity gap on them is .4. Their number is prime."""
    return _draw(1237, 0)


@pytest.fixture(scope="session")
def fresh():
    """Rows of the same distribution that no fixture was fitted on."""
    return _draw(3000, 1)


@pytest.fixture(scope="session")
def fitted(small, train):
    """A model under demographic parity; do not fit it again."""
    return small().fit(train.X, train.y, sensitive_features=train.sensitive_features)


@pytest.fixture(scope="session")
def unconstrained(small, train):
    """A model without constraint; do not fit it again."""
    return small().fit(train.X, train.y)
