import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from skfairprune.deployment.codec import decode, encode
from skfairprune.gaps import Gap


def _round(value):
    tensors = {}
    return decode(json.loads(json.dumps(encode(value, "it", tensors), allow_nan=False)), tensors)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -7,
        10**30,
        0.1,
        math.inf,
        "ü\udc80\0",
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.str_("a"),
        ("a", 1, (2.5, None)),
        [1, "2", (3,)],
        {1: "a", ("b", True): None, 2.5: [1]},
        torch.device("cuda:3"),
        Gap(0.25, np.float64(0.125), 1, 0, 2),
    ],
)
def test_a_value_comes_back_with_its_type(value):
    found = _round(value)
    assert found == value
    assert type(found) is type(value)


def test_nan_comes_back():
    assert math.isnan(_round(math.nan))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.array([True, False]),
        np.array(3, dtype=np.int16),
        np.empty((0, 2), dtype=np.float32),
        np.array(["a", "longer"], dtype="<U9"),
        np.array(["a", 2, (3, "b"), None], dtype=object),
        np.array([1, 2**64 - 1], dtype=np.uint64),
    ],
)
def test_an_array_comes_back_with_its_type_and_shape(array):
    found = _round(array)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_a_width_that_no_item_has_asks_for_no_memory():
    with pytest.raises(ValueError, match="<U400000000' is not the type of these labels"):
        decode({"column": ["<U400000000", ["a", "b"]]}, {})


def test_a_table_comes_back():
    frame = pd.DataFrame(
        {
            "number": [1.5, np.nan],
            "count": np.array([1, 2], dtype=np.int32),
            "there": [True, False],
            "text": ["a", None],
            "widths": [(1, 2), (3, 4)],
        }
    )
    named = frame.set_axis(pd.Index(["x", "y"], name="event"))
    for table in (frame, frame.rename_axis("trial"), named, named.rename_axis(columns="group"), frame[[]]):
        assert_frame_equal(_round(table), table, check_index_type="exact", check_column_type="exact")


@pytest.mark.parametrize(
    "value",
    [
        math.sqrt,
        pd.Timestamp("2020-01-01"),
        np.random.RandomState(0),
        pd.Series(["a", "b"], dtype="category"),
        np.array(["2020"], dtype="datetime64[Y]"),
        {"a": {1, 2}},
        torch.nn.Linear(1, 1),
        1j,
    ],
)
def test_what_is_not_data_is_refused(value):
    with pytest.raises(TypeError, match=r"^it"):
        encode(value, "it", {})


@pytest.mark.parametrize(
    "content",
    [
        {"reduce": ["os.system", ["true"]]},
        {"record": ["Popen", {"args": "true"}]},
        {"record": ["system", {}]},
        {"scalar": ["O", 1]},
        {"column": ["V8", []]},
        {"array": "absent"},
        {"tuple": [1], "list": [1]},
        {},
    ],
)
def test_content_of_other_kinds_is_refused(content):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(content, {})
