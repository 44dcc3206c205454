import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.deployment.torch_network import plain_network
from skfairprune.modules import ACTIVATIONS, DecisionNetwork, PiecewiseLinearEncoding, TabularNetwork

# Narrow bins far from 0, as of a year or an amount, beside wide ones and a column of two values.
KNOTS = [np.array([1990.0, 1990.5, 2003.0]), np.array([0.0, 3103.0, 3104.0, 99999.0]), np.array([0.0, 1.0])]


def _rows(n_samples, dtype=torch.float32):
    rng = np.random.default_rng(0)
    columns = [
        rng.uniform(1985, 2010, n_samples),
        rng.uniform(3000, 3200, n_samples),
        rng.integers(0, 2, n_samples),
    ]
    return torch.tensor(np.column_stack(columns), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_plain_network_gives_the_same_probabilities(activation, dtype):
    torch.manual_seed(0)
    inner = TabularNetwork(PiecewiseLinearEncoding(KNOTS), (7, 5), 4, activation, dropout=0.5)
    network = DecisionNetwork(inner.to(dtype), torch.rand(3, 4, dtype=dtype)).eval().requires_grad_(False)
    rows = _rows(500, dtype)
    encoded = nn.Sequential(*plain_network(network, rows)[:3])(rows)
    assert_allclose(encoded, inner.encoding(rows), atol=1e-6 if dtype == torch.float32 else 1e-14)
    assert_allclose(plain_network(network, rows)(rows), network(rows), atol=1e-6)


def test_the_plain_network_of_pruned_inputs_reads_the_bins_that_stayed(small, train, fresh):
    clf = small(prune_inputs=True, sparsity=0.8, difference_bound=0.2, random_state=2)
    clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    plain = clf.to_torch()
    assert plain[0].out_features == clf.module_.network.encoding.n_outputs
    assert_allclose(plain(torch.tensor(fresh.X, dtype=torch.float32)), clf.predict_proba(fresh.X), atol=1e-6)


def test_the_plain_network_keeps_the_bound_it_was_made_under(fitted, fresh):
    rows = torch.tensor(fresh.X, dtype=torch.float32)
    before, bound = fitted.to_torch(), fitted.bound_
    try:
        fitted.set_bound(1.0)
        other = fitted.predict_proba(fresh.X)
        assert_allclose(fitted.to_torch()(rows), other, atol=1e-6)
    finally:
        fitted.set_bound(bound)
    assert_allclose(before(rows), fitted.predict_proba(fresh.X), atol=1e-6)
    assert np.abs(before(rows).numpy() - other).max() > 1e-3


def test_the_plain_network_loads_where_the_package_cannot_be_imported(fitted, fresh, tmp_path):
    torch.save(fitted.to_torch(), tmp_path / "network.pt")
    rows = torch.tensor(fresh.X[:100], dtype=torch.float32)
    torch.save(rows, tmp_path / "rows.pt")
    script = (
        "import sys; sys.modules['skfairprune'] = None\n"
        "import torch\n"
        "network = torch.load('network.pt', weights_only=False)\n"
        "assert all(type(m).__module__.startswith('torch.nn.') for m in network.modules())\n"
        "torch.save(network(torch.load('rows.pt')), 'proba.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    assert_allclose(torch.load(tmp_path / "proba.pt"), fitted.predict_proba(fresh.X[:100]), atol=1e-6)


class _Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


def test_a_network_that_cannot_be_exported_is_a_clear_error():
    network = DecisionNetwork(_Branching(3, 2), torch.eye(2))
    with pytest.raises(ValueError, match=r"torch\.export cannot export the network for any number of rows"):
        plain_network(network, torch.randn(2, 3))


@pytest.mark.parametrize("forward", [lambda x: torch.cdist(x, torch.eye(3)), lambda x: torch.cat(x.split(7))])
def test_a_program_with_a_limit_of_rows_is_refused(forward):
    class Limited(nn.Linear):
        def forward(self, x):
            return super().forward(forward(x))

    network = DecisionNetwork(Limited(3, 2), torch.eye(2)).eval().requires_grad_(False)
    with pytest.raises(ValueError, match=r"any number of rows\. .*Guard failed: x\.size\(\)\[0\]"):
        plain_network(network, torch.randn(9, 3))


def test_an_unfitted_estimator_is_a_clear_error():
    with pytest.raises(NotFittedError):
        FairPrunedClassifier().to_torch()


def test_a_bin_too_narrow_to_be_divided_by_is_a_clear_error():
    encoding = PiecewiseLinearEncoding([np.array([0.0, 2e-39, 1.0])]).float()
    network = DecisionNetwork(TabularNetwork(encoding, (3,), 4).float(), torch.eye(4)).eval()
    rows = torch.linspace(-1, 2, 9)[:, None]
    assert network(rows).isfinite().all()
    with pytest.raises(ValueError, match=r"bin so narrow \(2e-39\).* Scale the column .* to_onnx"):
        plain_network(network, rows)
