import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skfairprune._cells import cover_cells, require_held_out_cells
from skfairprune.constraints import CONSTRAINTS, get_constraint


def _rows(counts):
    """Return labels and groups with counts[label][group] rows, in mixed order."""
    counts = np.asarray(counts)
    code = np.random.default_rng(0).permutation(np.repeat(np.arange(counts.size), counts.ravel()))
    return code // counts.shape[1], code % counts.shape[1]


def _cover(name, counts, min_cell_size=30, labels="abcdef"):
    y, group = _rows(counts)
    constraint = get_constraint(name)
    return cover_cells(constraint, constraint.kinds(y), group, labels[: len(counts[0])], min_cell_size)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_large_cells_are_all_covered_silently(name):
    cells = _cover(name, [[30, 31, 500], [30, 40, 50]])
    assert_array_equal(cells.recode, [0, 1, 2])
    assert cells.included.shape == (get_constraint(name).n_events, 3)
    assert cells.included.all()
    assert cells.labels == ["a", "b", "c"]


@pytest.mark.parametrize(("size", "covered"), [(29, False), (30, True)])
def test_the_least_size_is_enough(size, covered):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cells = _cover("true_positive_rate_parity", [[99, 99, 99], [50, 50, size]])
    assert len(caught) == (not covered)
    assert cells.included[0, 2] == covered


def test_one_warning_names_every_small_cell_and_its_count():
    counts = [[50, 7, 50, 50], [50, 50, 12, 0]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cells = _cover("equalized_odds", counts)
    (warning,) = caught
    message = str(warning.message)
    assert warning.category is UserWarning
    assert message.startswith("3 cell(s) have fewer than min_cell_size=30 samples")
    for part in ("(y=0) 'b' with 7", "(y=1) 'c' with 12", "(y=1) 'd' with 0", "equalized_odds"):
        assert part in message
    assert "'a'" not in message
    # every group has a covered cell: none is pooled
    assert_array_equal(cells.recode, range(4))
    assert_array_equal(cells.included, [[True, False, True, True], [True, True, False, False]])
    assert cells.labels == list("abcd")


def test_groups_of_all_rows_need_no_event_in_the_message():
    with pytest.warns(UserWarning, match=r"^1 cell\(s\).*demographic_parity: 'b' with 29\."):
        _cover("demographic_parity", [[40, 20, 40], [40, 9, 40]])


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_groups_without_a_covered_cell_are_pooled(name):
    with pytest.warns(UserWarning, match="are left out"):
        cells = _cover(name, [[50, 3, 50, 4, 50], [50, 2, 50, 5, 50]])
    assert_array_equal(cells.recode, [0, 3, 1, 3, 2])
    n_events = get_constraint(name).n_events
    assert_array_equal(cells.included, [[True, True, True, False]] * n_events)
    assert cells.labels == ["a", "c", "e"]


def test_a_group_covered_in_one_event_keeps_its_code():
    with pytest.warns(UserWarning, match=r"\(y=1\) 'b' with 1, \(y=1\) 'd' with 2"):
        cells = _cover("equalized_odds", [[50, 50, 50, 2], [50, 1, 50, 2]])
    assert_array_equal(cells.recode, [0, 1, 2, 3])
    assert_array_equal(cells.included, [[True, True, True, False], [True, False, True, False]])
    assert cells.labels == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        (
            "demographic_parity",
            [[50], [50]],
            "in the event 'all' only 1 of the 1 groups .* the only one is 'a'",
        ),
        (
            "demographic_parity",
            [[50, 10], [50, 10]],
            "only 1 of the 2 groups .* too small: 'b' with 20",
        ),
        (
            "true_positive_rate_parity",
            [[50, 50], [9, 8]],
            r"in the event 'y=1' only 0 of the 2 groups .*\(y=1\) 'a' with 9, \(y=1\) 'b' with 8",
        ),
        (
            "equalized_odds",
            [[50, 50, 50], [50, 5, 6]],
            r"in the event 'y=1' only 1 of the 3 groups .*\(y=1\) 'b' with 5, \(y=1\) 'c' with 6",
        ),
        ("equalized_odds", [[50, 5], [50, 50]], r"in the event 'y=0' only 1 of .*\(y=0\) 'b' with 5"),
    ],
)
def test_an_event_needs_two_groups(name, counts, message):
    with pytest.raises(ValueError, match=f"^{name} compares groups.*{message}"):
        _cover(name, counts)


def test_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="merge small ones, lower min_cell_size, or pass constraint=None"):
        _cover("demographic_parity", [[50, 10], [50, 10]])


def test_labels_of_several_columns():
    with pytest.warns(UserWarning, match=r"\('x', 2\) with 4"):
        cells = _cover(
            "demographic_parity", [[50, 2, 50], [50, 2, 50]], labels=[("x", 1), ("x", 2), ("y", 1)]
        )
    assert cells.labels == [("x", 1), ("y", 1)]


def _stratified(name, counts, n_classes=2, labels="abcdef"):
    """Cover counts[stratum][label][group]."""
    counts = np.asarray(counts)
    code = np.random.default_rng(0).permutation(np.repeat(np.arange(counts.size), counts.ravel()))
    stratum, y, group = np.unravel_index(code, counts.shape)
    constraint = get_constraint(name, n_classes).stratified(["st", "nd", "rd"][: len(counts)])
    kind = constraint.kinds(y, stratum)
    return constraint, kind, group, cover_cells(constraint, kind, group, labels[: counts.shape[2]], 30)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_strata_with_large_cells_are_covered_silently(name):
    _, _, _, cells = _stratified(name, [[[30, 40], [50, 30]], [[30, 31], [32, 33]]])
    assert cells.included.all()


def test_cells_are_named_with_their_stratum():
    counts = [[[50, 50, 50], [50, 50, 50]], [[50, 50, 9], [50, 50, 50]]]
    with pytest.warns(UserWarning, match=r"^1 cell\(s\) .*: \(y=0 \| 'nd'\) 'c' with 9\. The bound says"):
        cells = _stratified("equalized_odds", counts)[-1]
    expected = np.ones((4, 3), bool)
    expected[2, 2] = False
    assert_array_equal(cells.included, expected)


def test_a_stratum_of_one_large_group_leaves_the_constraint():
    counts = [[[50, 50], [50, 50]], [[50, 3], [50, 4]]]
    with pytest.warns(
        UserWarning, match=r"\(all \| 'nd'\) 'b' with 7\. The events \"all \| 'nd'\" have fewer"
    ):
        cells = _stratified("demographic_parity", counts)[-1]
    assert_array_equal(cells.included, [[True, True], [False, False]])


def test_a_group_that_is_large_only_where_it_is_alone_is_pooled():
    counts = [[[50, 50, 1], [50, 50, 1]], [[1, 3, 50], [1, 4, 50]]]
    with pytest.warns(UserWarning, match="left out"):
        cells = _stratified("demographic_parity", counts)[-1]
    assert_array_equal(cells.recode, [0, 1, 2])
    assert_array_equal(cells.included, [[True, True, False], [False, False, False]])
    assert cells.labels == ["a", "b"]


def test_no_stratum_to_compare_in_is_an_error():
    with pytest.raises(ValueError, match=r"in every stratum at most 1 of the 2 groups .* too small: .*'st'"):
        _stratified("demographic_parity", [[[50, 3], [50, 4]], [[5, 50], [5, 50]]])


def test_one_vs_rest_events_name_a_small_cell_once():
    counts = [[[50, 50, 9], [50, 50, 9], [50, 50, 9]]]
    y, group = _rows(counts[0])
    with pytest.warns(UserWarning, match=r"^1 cell\(s\) .*demographic_parity: 'c' with 27\. The bound"):
        cells = cover_cells(get_constraint("demographic_parity", 3), y, group, "abc", 30)
    assert_array_equal(cells.included, [[True, True, False]] * 3)


@pytest.mark.parametrize("missing", [False, True])
def test_held_out_rows_need_every_covered_cell(missing):
    counts = [[[50, 50], [50, 50]], [[40, 40], [40, 40]]]
    constraint, kind, group, cells = _stratified("equalized_odds", counts)
    stays = ~((kind == 3) & (group == 1)) if missing else np.ones(len(kind), bool)
    arguments = (constraint, kind[stays], group[stays], cells.included, "ab", "The held-out part")
    if not missing:
        require_held_out_cells(*arguments)
        return
    with pytest.raises(
        ValueError, match=r"has 320 rows, and none in the event \"y=1 \| 'nd'\" of the group 'b'"
    ):
        require_held_out_cells(*arguments)


ADVICE = {
    "ages": (list(range(25)), True),
    "codes as strings": (list("abcdefghijklmnopqrstuvwxy"), False),
    "ages and sex": ([(float(k), sex) for k in range(21) for sex in "fm"], True),
    "few numbers and many names": ([(k, name) for k in range(2) for name in "abcdefghijkl"], False),
}


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize(("labels", "advised"), ADVICE.values(), ids=ADVICE)
def test_numbers_that_were_not_made_to_be_groups_need_bands(labels, advised, small):
    counts = [[50] * (len(labels) - small) + [5] * small] * 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _cover("demographic_parity", counts, labels=labels)
    told = " ".join(str(warning.message) for warning in caught)
    assert len(caught) == (advised or small > 0)
    assert ("need bands" in told) == advised
    assert ("3 cell(s)" in told) == (small > 0)
