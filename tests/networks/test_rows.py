"""Rows on which a network fails."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.networks.rows import logits_by_batch
from tests.networks import zoo

DATA = make_biased_classification(600, base_rates=(0.6, 0.2), random_state=0)


def _with_codes(n_rows=600):
    """Return rows whose first two columns are codes below 3 and below 5."""
    codes = np.arange(n_rows)[:, None] % (3, 5)
    return np.hstack([codes, DATA.X[:n_rows]])


def _fit(X=None, module=zoo.EmbeddingNetwork, **params):
    X = _with_codes() if X is None else X
    clf = FairPrunedClassifier(module, sparsity=0.5, max_epochs=3, random_state=0)
    return clf.fit(X, DATA.y, **params)


@pytest.mark.parametrize("code", [5, -1])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_uncorrected_proba"])
def test_a_code_that_no_embedding_has_is_told(code, method):
    clf, rows = _fit(), _with_codes()
    rows = np.vstack([rows] * 10)
    rows[5003, 1] = code
    told = (
        rf"fails on row 5003 of X, which is outside .* \(column 1 is {code}, and 0 to 4 there\): IndexError.*"
        r"OrdinalEncoder\(handle_unknown="
    )
    with pytest.raises(ValueError, match=told):
        getattr(clf, method)(rows)
    assert_array_equal(getattr(clf, method)(rows[:600]), getattr(clf, method)(_with_codes()))


def test_the_name_of_the_column_is_told():
    frame = pd.DataFrame(_with_codes(), columns=["job", "town", *(f"x{i}" for i in range(DATA.X.shape[1]))])
    clf = _fit(frame)
    frame.loc[7, "job"] = 3
    with pytest.raises(ValueError, match=r"row 7 of X, .*column 'job' is 3, and 0 to 2 there"):
        clf.predict(frame)


def test_fit_looks_at_held_out_rows_before_training():
    X_val = _with_codes(200)
    X_val[11, 0] = 4
    with pytest.raises(ValueError, match=r"row 11 of X_val, .*column 0 is 4, and 0 to 2 there"):
        _fit(X_val=X_val, y_val=DATA.y[:200])


def test_fit_looks_at_every_training_row_before_training():
    X = _with_codes()
    X[-1, 0] = 4
    with pytest.raises(
        ValueError, match=r"row 599 of X \(rows of weight 0 are not counted\), .*column 0 is 4"
    ):
        _fit(X)


def test_a_network_that_fails_where_columns_are_combined_otherwise_is_told_before_training():
    class Difference(nn.Module):
        def __init__(self, n_features_in, n_outputs):
            super().__init__()
            self.embedding = nn.Embedding(3, 4)
            self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, n_outputs)

        def forward(self, x):
            codes = (x[:, 1] - x[:, 0]).long()
            return self.head(torch.relu(self.hidden(self.embedding(codes))))

    first = np.arange(600) % 7
    X = np.column_stack([first, first + np.arange(600) % 3])
    with pytest.raises(ValueError, match=r"row \d of the values of X in another order .*: IndexError"):
        _fit(X, Difference)


def test_outputs_that_overflow_are_told():
    class Steep(nn.Sequential):
        def forward(self, x):
            return super().forward(torch.exp(x))

    clf = _fit(DATA.X, lambda n, k: Steep(nn.Linear(n, 8), nn.ReLU(), nn.Linear(8, k)))
    rows = DATA.X.copy()
    rows[2, 0] = 1000.0
    with pytest.raises(ValueError, match=r"NaN outputs for row 2 of X, which is outside .*column 0 is 1000"):
        clf.predict(rows)


def test_an_error_that_is_no_rows_is_left_alone():
    class Small(nn.Module):
        def forward(self, x):
            if len(x) > 4:
                raise MemoryError("too large")
            return x

    with pytest.raises(MemoryError, match="too large"):
        list(logits_by_batch(Small(), DATA.X, torch.float32))
