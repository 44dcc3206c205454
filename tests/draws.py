"""Scored rows of known laws that several tests draw."""

import numpy as np

from skfairprune.scored import ScoredRows


def easier_group(n_samples, doubt, seed):
    """Draw rows of which one group is easier to decide, with scores that all but know the group.

    ``doubt`` is about the probability that they give the other group.
    """
    rng = np.random.RandomState(seed)
    group = (rng.rand(n_samples) < 0.3).astype(np.intp)
    base, apart = np.where(group, 0.15, 0.35), np.where(group, 2.2, 1.0)
    label = (rng.rand(n_samples) < base).astype(np.intp)
    x = rng.normal(0, 1, n_samples) + apart * (label - 0.5)
    score = 1 / (1 + np.exp(-(np.log(base / (1 - base)) + apart * x + rng.normal(0, 0.3, n_samples))))
    other = (doubt * np.exp(rng.normal(0, 1, n_samples))).clip(0, 1)
    member = np.where(group, 1 - other, other)
    proba = np.stack([1 - score, score], 1)[:, :, None] * np.stack([1 - member, member], 1)[:, None]
    return ScoredRows(proba, label, group, np.ones(n_samples))
