"""Axes: what they are called, and the order they are stored in, whatever the order they come in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.dims import (
    DEFAULT_DIMS,
    NEURONS,
    SPATIAL,
    agree_dims,
    arrange_dims,
    canonical_dims,
    check_names,
    dims_of,
    example_axis,
)
from dask_svcca.errors import InvalidActivationsError


@given(
    between=st.sets(st.sampled_from(SPATIAL)) | st.just({"token"}),
    last=st.sampled_from(NEURONS),
    data=st.data(),
)
def test_canonical_dims__do_not_depend_on_the_order_they_come_in(between: set[str], last: str, data: Any) -> None:
    dims = data.draw(st.permutations(["example", *sorted(between), last]))
    found = canonical_dims(dims, range(1, len(dims) + 1), "net/1/fc")
    assert sorted(found) == sorted(dims)
    assert (found[0], found[-1]) == ("example", last)
    assert [dim for dim in found if dim in SPATIAL] == [dim for dim in SPATIAL if dim in between]
    assert canonical_dims(found, range(len(found)), "net/1/fc") == found


@pytest.mark.parametrize("axes", DEFAULT_DIMS)
def test_canonical_dims__by_default_are_canonical(axes: int) -> None:
    found = canonical_dims(None, (10,) * axes, "net/1/fc")
    assert found == DEFAULT_DIMS[axes] == canonical_dims(found, (10,) * axes, "net/1/fc")


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (None, (5,), r"activations of 'net/1/fc' have 1 axis; .* x\[:, None\]"),
        (None, (5, 1, 2, 3, 4), r"have 5 axes; .* dims=\('example', 'channel', 'depth', 'height', 'width'\), or with"),
        (None, (5, 3, 8, 8), r"have 4 axes; .* dims=\('example', 'channel', 'height', 'width'\), or with"),
        (None, (5, 8, 8, 3), "have 4 axes; say what they are with dims="),
        ("example,neuron", (5, 2), "dims is a sequence of names, one an axis; got the text 'example,neuron'"),
        (("example", "head", "token", "channel"), (5, 2, 3, 4), r"an axis 'head'; names are .* heads of attention"),
        (("example", "time", "neuron"), (5, 2, 3), "an axis 'time'; names are 'example', 'neuron', 'channel', 'depth'"),
        (("example", "token", "height", "channel"), (5, 2, 3, 4), "'token' beside a spatial axis; a layer has one"),
        (("example", "neuron"), (5, 2, 3), r"dims=\('example', 'neuron'\) do not describe the 3 axes of 'net/1/fc'"),
        (("sample", "neuron"), (5, 2), "one 'example' and one 'neuron' or 'channel'"),
        (("example", "feature"), (5, 2), "do not describe"),
        (("example", "neuron", "channel"), (5, 2, 2), "do not describe"),
        (("example", "width", "width", "channel"), (5, 2, 2, 2), "name each once"),
    ],
)
def test_canonical_dims__refuses_what_does_not_describe_the_axes(dims: Any, shape: Any, message: str) -> None:
    with pytest.raises(InvalidActivationsError, match=message):
        canonical_dims(dims, shape, "net/1/fc")


@pytest.mark.parametrize(
    ("dims", "spatial", "expected"),
    [
        (("example",), SPATIAL, ("example",)),
        (("neuron", "example"), SPATIAL, ("example", "neuron")),
        # Any name will do for the neurons, where there is no other.
        (("feature", "example"), SPATIAL, ("example", "feature")),
        (("x", "y", "example", "feature"), SPATIAL, ("example", "x", "y", "feature")),
        (("x", "y", "example", "feature"), ("y", "x"), ("example", "y", "x", "feature")),
        (("channel", "example", "width", "height"), SPATIAL, ("example", "height", "width", "channel")),
        (("channel", "example", "width", "height"), ("width", "height"), ("example", "width", "height", "channel")),
    ],
)
def test_arrange_dims(dims: Any, spatial: Any, expected: Any) -> None:
    assert arrange_dims(dims, spatial) == expected


@pytest.mark.parametrize(
    ("names", "dims", "expected"),
    [
        (None, None, None),
        (None, ("example", "neuron"), ("example", "neuron")),
        (("neuron", "example"), None, ("neuron", "example")),
        (("image", "unit"), None, None),
        (("image", "channel"), None, None),
        (("image", "unit"), ("neuron", "example"), ("neuron", "example")),
        (("channel", "unit"), ("channel", "example"), ("channel", "example")),
    ],
)
def test_agree_dims__takes_names_and_what_is_said(names: Any, dims: Any, expected: Any) -> None:
    assert agree_dims(names, dims, 2, "x") == expected


@pytest.mark.parametrize(
    ("names", "dims"),
    [
        (("neuron", "image"), None),
        (("neuron", "example"), ("example", "neuron")),
        (("token", "image"), None),
    ],
)
def test_agree_dims__refuses_names_that_say_otherwise(names: Any, dims: Any) -> None:
    with pytest.raises(InvalidActivationsError, match=rf"x has axes \('{names[0]}', .*, which are taken as .* is not"):
        agree_dims(names, dims, 2, "x")


@pytest.mark.parametrize("dims", [None, ("sample", "neuron"), ("example", "neuron")])
def test_example_axis__is_the_first_unless_said_otherwise(dims: Any) -> None:
    assert example_axis(dims) == 0
    assert example_axis(("token", "neuron", "example")) == 2


@pytest.mark.parametrize(
    ("shape", "channel_axis", "expected"),
    [
        ((2,), None, ("example", "neuron")),
        ((2, 3), None, ("example", "neuron")),
        ((2, 3, 4), None, ("example", "token", "neuron")),
        ((2, 3, 4), 2, ("example", "width", "channel")),
        ((2, 3, 4, 5), None, None),
        ((2, 3, 4, 5), 3, ("example", "height", "width", "channel")),
        ((2, 3, 4, 5, 6), 1, ("example", "channel", "depth", "height", "width")),
        ((2, 3, 1, 1, 1, 1), 1, ("example", "neuron")),
        ((2, 3, 4, 5, 6), None, None),
        ((2, 3, 4, 5, 6, 7), 1, None),
    ],
)
def test_dims_of__a_batch_of_a_network(shape: Any, channel_axis: int | None, expected: Any) -> None:
    assert dims_of(shape, channel_axis) == expected


def test_check_names__refuses_text() -> None:
    check_names(["example", "neuron"])
    with pytest.raises(InvalidActivationsError, match="dims is a sequence of names, one an axis; got the text"):
        check_names("neuron")
