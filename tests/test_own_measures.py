"""Measures of one's own in a comparison: it says what they computed, and goes on with nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zoos import N, layers, make_zoo, write

import dask_svcca
from dask_svcca.errors import InvalidMeasureError, ParametersChangedError, UnknownMeasureError
from dask_svcca.measures import find_measures, register_measure, registry
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca.kernels.pairs import PairStack


def register(power: int, *, replace: bool = False) -> str:
    """Register a measure whose formula has a number in it; its version."""

    @register_measure("mean_power", description="mean power of the correlations", directions="kept", replace=replace)
    def powers(pairs: PairStack) -> np.ndarray:
        return (pairs.correlations**power).sum(axis=-1)

    return find_measures("mean_power")[0].version


@pytest.mark.parametrize("measures", [("mean_power",), ("svcca",), ("cka",)])
def test_compare__refuses_another_formula_whatever_is_asked_for(tmp_path: Path, measures: tuple[str, ...]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    first = register(2)
    before = dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "mean_power")).load()
    second = register(3, replace=True)
    assert first != second
    write(zoo, layers(4)[3:], start=3)
    state = ComparisonStore.open(tmp_path / "c").read_state()
    message = (
        f"has 'mean_power' in version '{first}', and the measure now has version '{second}': what it computes has "
        f"changed"
    )
    with pytest.raises(ParametersChangedError, match=re.escape(message)):
        dask_svcca.compare(zoo, tmp_path / "c", measures=measures)
    assert ComparisonStore.open(tmp_path / "c").read_state().versions == state.versions
    np.testing.assert_array_equal(dask_svcca.open_comparison(tmp_path / "c").mean_power, before.mean_power)
    # As it was, the comparison goes on.
    register(2, replace=True)
    found = dask_svcca.compare(zoo, tmp_path / "c", measures=measures)
    assert found.mean_power.notnull().all()


@pytest.mark.parametrize("measures", ["svcca", "cka"])
def test_compare__says_what_to_do_where_a_measure_of_the_store_is_not_registered(tmp_path: Path, measures: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    register(2)
    dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "mean_power"))
    registry._OWN.clear()
    message = r"/c' has a measure 'mean_power', which is not registered in this process. Import the module .* first"
    with pytest.raises(UnknownMeasureError, match=message):
        dask_svcca.compare(zoo, tmp_path / "c", measures=measures)
    # To look at it, nothing needs to be registered.
    assert dask_svcca.open_comparison(tmp_path / "c").mean_power.notnull().all()


def test_compare__gains_a_measure_of_ones_own(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(9))
    before = dask_svcca.compare(zoo, tmp_path / "c", precision="float64").load()
    version = register(1)
    found = dask_svcca.compare(zoo, tmp_path / "c", measures="mean_power", precision="float64").load()
    np.testing.assert_array_equal(found.svcca, before.svcca)
    np.testing.assert_allclose(found.mean_power, found.svcca, rtol=0, atol=1e-12)
    assert json.loads(found.attrs["versions"])["mean_power"] == version


# Names with spaces.


def two_models(tmp_path: Path) -> dask_svcca.Zoo:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    with zoo:
        for model, array in zip(["model one", "model two", "three"], layers(3), strict=True):
            zoo.write(model, "1", "fc", array)
    return zoo


@pytest.mark.parametrize("pairs", ["between 'model one' \"model two\"", "between model\\ one 'model two'"])
def test_compare__pairs_between_models_whose_names_have_spaces(tmp_path: Path, pairs: str) -> None:
    found = dask_svcca.compare(two_models(tmp_path), tmp_path / "c", pairs=pairs)
    done = found.pair_status == PairStatus.DONE
    assert done.sum() == 2
    assert done.sel(representation_a="model one/1/fc", representation_b="model two/1/fc")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("between 'model one model two", r"cannot be read: No closing quotation\. Close every quote"),
        ("between model one model two", "is not a selection; there are 'all', .*'between A B'"),
        ("between 'model one' 'model 2'", "no model 'model 2' for pairs=.*; there are model one, model two, three"),
    ],
)
def test_compare__pairs_that_cannot_be_read_are_refused(tmp_path: Path, pairs: str, message: str) -> None:
    zoo = two_models(tmp_path)
    with pytest.raises(ValueError, match=message):
        dask_svcca.compare(zoo, tmp_path / "c", pairs=pairs)
    assert not (tmp_path / "c").exists()


def misspelt(pairs: PairStack) -> np.ndarray:
    return pairs.correlation.sum(axis=-1)  # type: ignore[attr-defined]


def in_place(pairs: PairStack) -> np.ndarray:
    correlations = pairs.correlations
    correlations **= 2
    return correlations.sum(axis=-1)


def a_number(pairs: PairStack) -> float:
    return 0.5


def complex_sums(pairs: PairStack) -> np.ndarray:
    return pairs.correlations.sum(axis=-1) + 1j


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (misspelt, "AttributeError: 'PairStack' object has no attribute 'correlation'"),
        (in_place, "output array is read-only"),
        (a_number, "'float' object has no attribute 'reshape'"),
        (complex_sums, "Cannot cast|complex"),
    ],
)
def test_compare__refuses_a_measure_that_cannot_be_computed_before_it_is_recorded(
    tmp_path: Path, sums: Callable[[PairStack], Any], message: str
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    dask_svcca.compare(zoo, tmp_path / "c")
    before = ComparisonStore.open(tmp_path / "c").read_state()
    register_measure("wrong", description="wrong", directions="kept")(sums)
    for place in (tmp_path / "c", tmp_path / "new"):
        with pytest.raises(InvalidMeasureError, match=f"the measure 'wrong' cannot be computed: .*({message})"):
            dask_svcca.compare(zoo, place, measures=("svcca", "wrong"))
    assert not (tmp_path / "new").exists()
    assert ComparisonStore.open(tmp_path / "c").read_state().versions == before.versions
    # Mended, it is taken.
    register_measure("wrong", description="right now", directions="kept", replace=True)(
        lambda pairs: pairs.correlations.sum(axis=-1)
    )
    found = dask_svcca.compare(zoo, tmp_path / "c", measures="wrong")
    np.testing.assert_array_equal(found.wrong, found.svcca)
