"""What every way of capturing shares: patterns of names, names of axes, lists in messages."""

from __future__ import annotations

from dask_svcca.capture._common import dims_of, listing, select


def test_select__order_and_repetition() -> None:
    names = ["a", "b.c", "b.d", "e,f"]
    assert select(names, None) == names
    assert select(names, "b.*,a") == ["a", "b.c", "b.d"]
    assert select(names, ["e,f", "a"]) == ["a", "e,f"]
    assert select(names, "B.*") == []


def test_dims_of__unnamed() -> None:
    assert dims_of((2, 3, 4, 5, 6), None) is None
    assert dims_of((2, 3, 4, 5, 6, 7), 1) is None
    assert dims_of((2,), None) == ("example", "neuron")


def test_listing__nothing_hidden_silently() -> None:
    assert listing(map(str, range(9)), limit=8) == "'0', '1', '2', '3', '4', '5', '6', '7' and 1 more"
