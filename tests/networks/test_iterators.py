"""Skorch nets with iterators of their own: the batches that they make, and what is refused."""

import functools

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.metrics import recall_score
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler, default_collate

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.networks.recipe import take_over
from skfairprune.training.batches import Batches, Rows
from skfairprune.training.iterated import OwnIterator

DATA = make_biased_classification(1500, base_rates=(0.3, 0.1), random_state=0)
CPU = torch.device("cpu")


class Net(nn.Sequential):
    def __init__(self, width=12):
        super().__init__(nn.Linear(DATA.X.shape[1], width), nn.ReLU(), nn.Linear(width, 2))


class Noting(DataLoader):
    """A loader that notes the labels of its batches."""

    seen: list = []

    def __iter__(self):
        for x, y in super().__iter__():
            Noting.seen.append((x.clone(), y.clone()))
            yield x, y


class Balanced(DataLoader):
    """As many rows of each class, as users write it for skorch."""

    def __init__(self, dataset, batch_size):
        weight = 1 / np.bincount(dataset.y)[dataset.y]
        super().__init__(dataset, batch_size, sampler=WeightedRandomSampler(weight, len(dataset)))


def _net(iterator=DataLoader, **params):
    params = {"max_epochs": 6, "lr": 0.02, "optimizer": torch.optim.Adam, "batch_size": 100} | params
    return NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, iterator_train=iterator, **params)


def _fit(net, y=DATA.y, **params):
    clf = FairPrunedClassifier(net, sparsity=0.4, random_state=0, **params)
    return clf.fit(DATA.X, y, sensitive_features=DATA.sensitive_features)


def _rows(n=60):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(90, 3)), dtype=torch.float32)
    label = rng.integers(0, 2, 90)
    target = torch.tensor(label * 2 + rng.integers(0, 2, 90))
    position = torch.tensor(rng.permutation(90)[:n])
    return Rows(x, target, torch.rand(90, generator=torch.Generator().manual_seed(0)), position), label


def test_a_loader_in_order_gives_the_batches_of_slices():
    rows, label = _rows()
    found = list(OwnIterator(DataLoader, {}, label).batches(rows, 20))
    expected = list(Batches(rows, 20))
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


def test_rows_that_come_twice_or_never_keep_what_is_theirs():
    rows, label = _rows()

    class Picked(DataLoader):
        def __init__(self, dataset, batch_size):
            super().__init__(dataset, batch_size, sampler=[5, -1, 5, 0, 7])

    (batch,) = OwnIterator(Picked, {}, label).batches(rows, 20)
    position = rows.position[[5, 59, 5, 0, 7]]
    assert_array_equal(batch.position, position)
    for mine, theirs in zip(batch[:3], rows[:3], strict=True):
        assert_array_equal(mine, theirs[position])


@pytest.mark.parametrize("labels", [("no", "yes"), (0, 1)])
def test_the_iterator_makes_the_batches_of_every_phase(labels):
    Noting.seen = []
    y = np.array(labels)[DATA.y]
    clf = _fit(_net(Noting, iterator_train__drop_last=True, iterator_train__shuffle=True), y)
    history = clf.history_
    assert len(Noting.seen) == history["updates"].sum()
    assert {len(label) for _, label in Noting.seen} == {100}
    rows = {row.tobytes(): label for row, label in zip(DATA.X.astype(np.float32), DATA.y, strict=True)}
    for x, label in Noting.seen:
        assert_array_equal([rows[row.tobytes()] for row in x.numpy()], label)
    assert history["phase"].nunique() == 3


def test_a_fit_with_an_iterator_repeats_itself():
    first, second = (_fit(_net(Balanced)) for _ in range(2))
    assert_array_equal(first.predict_proba(DATA.X), second.predict_proba(DATA.X))


def test_balanced_batches_find_more_of_the_rare_class():
    plain, balanced = (_fit(_net(make), constraint=None) for make in (DataLoader, Balanced))
    recalls = [recall_score(DATA.y, clf.predict(DATA.X)) for clf in (plain, balanced)]
    assert recalls[1] > recalls[0] + 0.1


def test_rows_may_be_changed_on_the_way():
    def turn(batch):
        x, y = default_collate(batch)
        return -x, y

    accuracies = [
        _fit(_net(iterator_train__collate_fn=collate), constraint=None).score(DATA.X, DATA.y)
        for collate in (default_collate, turn)
    ]
    assert accuracies[1] < accuracies[0] - 0.1


def test_parameters_of_the_iterator_are_searched():
    clf = FairPrunedClassifier(_net(Noting))
    clf.set_params(module__iterator_train__drop_last=True, module__iterator_train__batch_size=300)
    recipe = take_over(clone(clf).module, CPU)
    assert (recipe.iterator, recipe.iterator_params) == (Noting, {"drop_last": True})
    assert recipe.batch_size == 300


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"iterator_train__shuffle": True},
        {"iterator_train__pin_memory": False},
        {"iterator_valid__batch_size": 9},
    ],
)
def test_a_plain_loader_is_slices_of_shuffled_rows(params):
    assert take_over(_net(**params), CPU).iterator is None


def test_all_rows_may_be_one_batch():
    rows, label = _rows()
    (batch,) = OwnIterator(DataLoader, {"drop_last": True}, label).batches(rows, -1)
    assert len(batch.x) == 60


def test_labels_may_be_columns():
    rows, label = _rows()
    net = OwnIterator(DataLoader, {"collate_fn": _to_columns}, label)
    assert_array_equal(next(iter(net.batches(rows, 7))).position, rows.position[:7])


def _to_columns(batch):
    x, y = default_collate(batch)
    return x, y[:, None].double()


class Shuffled(DataLoader):
    """Shuffles by numpy's global generator."""

    def __iter__(self):
        order = np.random.permutation(len(self.dataset))  # noqa: NPY002 (as users do)
        for rows in np.array_split(order, len(self)):
            yield default_collate([self.dataset[i] for i in rows])


@pytest.mark.parametrize(
    "net",
    [
        _net(Shuffled),
        _net(iterator_train__generator=torch.Generator().manual_seed(3), iterator_train__shuffle=True),
    ],
)
def test_generators_of_the_iterator_start_where_they_did(net):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (_fit(net) for _ in range(2))
    assert_array_equal(first.predict_proba(DATA.X), second.predict_proba(DATA.X))
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_batch_of_one_row_and_a_batch_norm_is_an_error_that_says_so():
    module = nn.Sequential(nn.Linear(DATA.X.shape[1], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    net = NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, max_epochs=6, batch_size=107, iterator_train__shuffle=False
    )  # 750 rows of the dense phase are seven batches and a row
    with pytest.raises(ValueError, match=r"DataLoader gave a batch of one row in the \w+ phase.*drop_last"):
        _fit(net)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"dataset": functools.partial(Dataset, length=5)}, "dataset is Dataset"),
        ({"compile": True}, "compile is"),
    ],
)
def test_what_has_no_part_in_a_fit_is_refused(params, match):
    with pytest.raises(ValueError, match=match):
        take_over(_net(**params), CPU)


def test_a_loader_that_is_told_not_to_shuffle_keeps_the_order():
    recipe = take_over(_net(iterator_train__shuffle=False), CPU)
    assert (recipe.iterator, recipe.iterator_params) == (DataLoader, {"shuffle": False})


class _Given:
    """An iterator that gives what a function makes of a data set."""

    def __init__(self, give, dataset, batch_size, length=1):
        self.give, self.dataset, self.length = give, dataset, length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.give(self.dataset))


def _pair(data, order=(0, 1, 2), labels=(0, 1, 2)):
    items = [data[i] for i in order]
    return [(torch.tensor(np.array([x for x, _ in items])), torch.tensor([data.y[i] for i in labels]))]


def _twice(data):
    yield from _pair(data)
    yield from _pair(data)


def _other_targets(data):
    data.y[:] = 1 - data.y
    return _pair(data)


def _other_labels(data):
    return _pair(data, labels=[int(np.argmax(data.y != data.y[i])) for i in range(3)])


def _turned(data):
    ones = np.flatnonzero(data.y)[:2]
    return [(x[[1, 0]], y) for x, y in _pair(data, ones, ones)]


def _mixed_labels(data):
    one = int(data.y.argmax())
    return [(x, 0.5 * y) for x, y in _pair(data, [one] * 2, [one] * 2)]


@pytest.mark.parametrize(
    ("give", "match"),
    [
        (
            lambda data: [tuple(map(torch.tensor, (data.X[:9], data.y[:9])))],
            r"shape \(9, 3\).*0 rows.*one by",
        ),
        (lambda data: _pair(data) + _pair(data), r"labels of shape \(3,\) for 6 rows.*no sooner"),
        (_twice, "gave 2 batches where its length is 1"),
        (lambda data: [], "gave 0 batches where its length is 1"),
        (lambda data: [_pair(data)[0][0]], "something else than a pair"),
        (lambda data: _pair(data, labels=(0, 1, 2, 2)), r"labels of shape \(4,\)"),
        (_other_labels, "another order, or with other labels"),
        (_mixed_labels, "another order, or with other labels"),
        (
            lambda data: [(x[[1, 0]], y) for x, y in _pair(data, *[np.flatnonzero(data.y)[:2]] * 2)],
            "other order",
        ),
        (_other_targets, "other labels"),
        (lambda data: [({"x": x}, y) for x, y in _pair(data)], "types dict and Tensor, no tensors"),
        (lambda data: [(x, None) for x, _ in _pair(data)], "types Tensor and NoneType, no tensors"),
        (lambda data: [(x, ["a"] * 3) for x, _ in _pair(data)], "types Tensor and list, no tensors"),
        (lambda data: [(x * np.nan, y) for x, y in _pair(data)], "inputs that are not finite"),
        (lambda data: [(torch.zeros(0, 3), torch.zeros(0))], "a batch of no rows"),
        (lambda data: [data[0:3]], "TypeError: rows are read one by one, by a whole number; got slice"),
        (lambda data: [data[[1, 2]]], "TypeError: rows are read one by one.* got list"),
        (lambda data: [(x[:, :2], y) for x, y in _pair(data)], r"inputs of shape \(3, 2\)"),
        (lambda data: data[1_000_000], "failed: IndexError"),
        (lambda data: 1 / 0, "failed: ZeroDivisionError"),
    ],
)
def test_batches_that_are_not_of_the_rows_are_refused(give, match):
    rows, label = _rows()
    with pytest.raises(ValueError, match=f"iterator_train _Given .*{match}"):
        list(OwnIterator(functools.partial(_Given, give), {}, label).batches(rows, 20))


@pytest.mark.parametrize(
    ("make", "params", "match"),
    [
        (list, {}, "list cannot be made with the 60 rows of a phase: TypeError"),
        (lambda data, batch_size: iter(()), {}, "cannot be made .* no len.*has to have a length"),
        (DataLoader, {"drop_last": True}, "has no batch of the 60 rows.*drop_last"),
        (DataLoader, {"foo": 1}, r"cannot be made .*foo.*parameters \['foo'\]"),
    ],
)
def test_an_iterator_that_cannot_be_made_is_refused(make, params, match):
    rows, label = _rows()
    with pytest.raises(ValueError, match=match):
        OwnIterator(make, params, label).batches(rows, 100)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"iterator_train__sampler": [1, 2]}, r"iterator_train has \['sampler'\].*each phase"),
        ({"iterator_train__num_workers": 2}, "num_workers=2.*Remove it"),
        ({"iterator_valid": Noting}, "iterator_valid is Noting.*evaluated as they are"),
        ({"iterator_valid__collate_fn": default_collate}, r"iterator_valid is DataLoader .*\['collate_fn'\]"),
    ],
)
def test_what_an_iterator_cannot_be_told_is_refused(params, match):
    with pytest.raises(ValueError, match=match):
        take_over(_net(**params), CPU)


def test_an_error_of_the_iterator_ends_the_fit_with_its_name():
    def torn(data, batch_size):
        return _Given(lambda data: [(torch.tensor(data.X), torch.tensor(data.y))], data, batch_size)

    with pytest.raises(ValueError, match=r"iterator_train .*torn gave inputs of shape"):
        _fit(_net(torn))
