"""Measures by name, and one's own under theirs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import bench_measures
import measure_oracles as oracle
import numpy as np
import pytest
from measured import BUILT_IN, DERIVED, REFERENCES, compared, make_zoo, related

import dask_svcca
from dask_svcca.connections import connect
from dask_svcca.errors import InvalidMeasureError, MeasureExistsError, UnknownMeasureError
from dask_svcca.measures import (
    find_measures,
    register_measure,
    with_companions,
)
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.kernels.pairs import PairStack


pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


# By name.


def test_find_measures__all_are_all_but_the_references() -> None:
    names = {measure.name for measure in find_measures("all")}
    assert names >= set(BUILT_IN)
    assert not names & set(REFERENCES)
    assert {measure.name for measure in with_companions(find_measures(BUILT_IN))} == {*BUILT_IN, *REFERENCES}


def test_measures__describe_themselves() -> None:
    found = compared(*related(30, 3, 2))
    for name in (*BUILT_IN, *REFERENCES, *DERIVED):
        attributes = found[name].attrs
        assert attributes["sense"] in {"similarity", "distance", "reference"}
        assert len(attributes["long_name"]) > 20
        assert attributes["reference"]
        assert attributes["valid_range"][0] in {0, -1, -np.inf}
        assert attributes["sense"] == "reference" or "translation" in attributes["invariant_to"]


def test_find_measures__what_is_derived_is_asked_for_by_its_measure() -> None:
    with pytest.raises(UnknownMeasureError, match="'p_cka' is not a measure by itself: it comes with 'cka', from "):
        find_measures("svcca, p_cka")
    with pytest.raises(MeasureExistsError, match="there is a measure 'p_cka' in dask-svcca already"):
        register_measure("p_cka", description="mine")
    register_measure("mine", description="mine", companions=("p_cka",), p_value="p_cka")(
        lambda pairs: pairs.correlations.sum(axis=-1)
    )
    found = compared(*related(30, 3, 2), measures="mine")
    assert found.p_cka.attrs["derived_from"] == json.dumps(["cka", "null_cka", "null_cka_sd"])


def test_compare__parameters_stand_side_by_side() -> None:
    layers = related(80, 6, 5)
    names = (
        "gulp(lambda=1)",
        "gulp",
        "gulp(lambda=1e-4)",
        "partial_procrustes(alpha=1)",
        "partial_procrustes(alpha=0.0)",
    )
    found = compared(*layers, measures=(*names, "procrustes", "cca"), variance=None, precision="float64")
    x, y = (layer - layer.mean(axis=0) for layer in layers)
    for name, lam in (("gulp(lambda=1)", 1), ("gulp", 0.01), ("gulp(lambda=0.0001)", 1e-4)):
        assert float(found[name][0, 1]) == pytest.approx(oracle.gulp(x, y, lam), rel=1e-9)
    np.testing.assert_allclose(found["partial_procrustes(alpha=1)"], found.procrustes, rtol=1e-10)
    # Whitened, it is the sum of the correlations over the geometric mean of the ranks.
    assert float(found["partial_procrustes(alpha=0)"][0, 1]) == pytest.approx(float(found.cca[0, 1]) * 5 / np.sqrt(30))
    again = ("gulp(lambda=1)", "cca")
    assert [measure.name for measure in find_measures((*again, *again))] == list(again)


def test_compare__a_measure_has_one_name() -> None:
    spellings = ("gulp(lambda=0.10)", "gulp( lambda = 1e-1 )", "gulp(lambda=1e-2)", "gulp", "mutual_knn(k=10)")
    found = compared(*related(80, 6, 5), measures=(*spellings, "rsa(compare=spearman,distance=euclidean)"))
    rsa = "rsa(distance=euclidean, compare=spearman)"
    assert parameters_of(found)["measures"] == ["gulp(lambda=0.1)", "gulp", "mutual_knn", rsa]
    for name in ("rsa( compare='spearman', distance=euclidean)", rsa):
        assert rsa in dask_svcca.query(found, measure=name)
    assert "gulp" in dask_svcca.query(found, measure="gulp(lambda=0.01)")
    with pytest.raises(UnknownMeasureError, match=r"no measure 'gulp\(lambda=0.2\)' in this comparison"):
        dask_svcca.query(found, measure="gulp(lambda=0.2)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svca", "no measure 'svca'; there are .*cka, .*gulp\\(lambda=...\\), .*svcca, .*or 'all'"),
        ("gulp(alpha=1)", "gulp takes one number, lambda=...; got 'gulp\\(alpha=1\\)'"),
        ("gulp(lambda='x')", "gulp takes one number"),
        ("gulp(lambda=x)", "gulp takes one number"),
        ("gulp(lambda=0)", "gulp's lambda is above 0, a share of the variance; got 0.0"),
        ("gulp(lambda=1e999)", "gulp's lambda is above 0"),
        ("partial_procrustes(alpha=1.5)", "alpha is from 0 .* to 1 .*; got 1.5"),
        ("cka(lambda=1)", "no measure 'cka\\(lambda=1\\)'"),
        ("cca_heldout(folds=5)", r"It is asked of chosen pairs of a comparison: dask_svcca.cca_heldout\("),
        ("gulp(lambda=1", "no measure"),
    ],
)
def test_find_measures__says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(UnknownMeasureError, match=message):
        find_measures(("svcca", name))


# One's own.


@pytest.fixture
def max_correlation() -> str:
    """A measure that only this process knows of."""
    name = "max_correlation"

    @register_measure(
        name,
        description="largest canonical correlation",
        directions="kept",
        value=lambda sums, _a, _b, _pairs: sums[..., 0],
        invariances=("translation",),
    )
    def largest(pairs: PairStack) -> np.ndarray:
        return pairs.correlations[:, 0]

    return name


def test_register_measure__is_compared_by(max_correlation: str) -> None:
    x, y = related(60, 6, 5)
    found = compared(x, y, measures=("svcca", max_correlation), keep="correlations", precision="float64")
    np.testing.assert_allclose(found[max_correlation], found.correlations.max("component"), rtol=0, atol=1e-6)
    assert found[max_correlation].attrs["sense"] == "similarity"
    assert max_correlation in {measure.name for measure in find_measures("all")}


def test_register_measure__workers_need_not_know_it(max_correlation: str, tmp_path: Path) -> None:
    layers = related(60, 6, 5, 4)
    expected = compared(*layers, measures=max_correlation)
    zoo = make_zoo(layers, tmp_path / "zoo.zarr")
    with connect(workers=1, memory="1GiB") as client:
        known = client.run(
            lambda: "max_correlation" in __import__("dask_svcca.measures.registry").measures.registry._OWN
        )
        assert not any(known.values())
        found = dask_svcca.compare(zoo, tmp_path / "comparison.zarr", measures=max_correlation, client=client).load()
    np.testing.assert_array_equal(found[max_correlation], expected[max_correlation])


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["svcca", "gulp", "null_cka"])
def test_register_measure__does_not_replace_ours(name: str, replace: bool) -> None:
    with pytest.raises(MeasureExistsError, match=f"there is a measure '{name}' in dask-svcca already"):
        register_measure(name, description="mine", replace=replace)


@pytest.mark.parametrize("name", ["1st", "my measure", "a/b", ""])
def test_register_measure__needs_a_name(name: str) -> None:
    with pytest.raises(InvalidMeasureError, match="is not a valid name for a measure"):
        register_measure(name, description="mine")


@pytest.mark.parametrize("name", ["pair_status", "correlations", "svcca_by_frequency", "rank_a", "frequency_y"])
def test_register_measure__does_not_hide_what_else_is_stored(name: str) -> None:
    with pytest.raises(InvalidMeasureError, match=f"{name!r} is the name of another variable of a comparison"):
        register_measure(name, description="mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "kept"}, "measure 'mine' has an unknown option 'direction'; there are calibrated, companions, "),
        ({"version": "2"}, "has an unknown option 'version'"),
        ({"directions": "keep"}, "directions='keep' of measure 'mine' is not valid; there are 'kept', 'all'"),
        ({"saturates": "a"}, "saturates='a' of measure 'mine' is not valid; there are 'never', 'either', 'b'"),
        ({"role": "metric"}, "role='metric'"),
        ({"needs": ("loading",)}, "needs=\\('loading',\\) of measure 'mine' is not valid; there are 'spectrum', "),
        ({"needs": "spectra"}, "needs='spectra'"),
        ({"null": "null_cka"}, "null='null_cka' of measure 'mine' is none of its companions; add it"),
        ({"p_value": "p_cka"}, "p_value='p_cka' of measure 'mine' is none of its companions; add it"),
        ({"companions": ("null_mine",)}, "'mine' has a companion that is not registered: no measure 'null_mine'"),
    ],
)
def test_register_measure__says_which_option_is_not_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidMeasureError, match=message):
        register_measure("mine", description="mine", **options)


def test_register_measure__all_is_not_a_name() -> None:
    with pytest.raises(InvalidMeasureError, match="'all' stands for all measures"):
        register_measure("all", description="mine")


def test_register_measure__another_of_that_name_asks_for_replace() -> None:
    def register(which: int, **options: Any) -> None:
        register_measure("mine", **options)(lambda pairs: pairs.correlations[:, which])

    register(0, description="first")
    first = find_measures("mine")
    register(0, description="reworded")
    assert find_measures("mine")[0].description == "reworded"
    for options in ({"which": 1}, {"which": 0, "symmetric": False}):
        with pytest.raises(MeasureExistsError, match=r"a measure 'mine' already, .*replace=True"):
            register(description="another", **options)
    assert find_measures("mine")[0].version == first[0].version
    register(1, description="another", replace=True)
    (found,) = find_measures("mine")
    assert found.description == "another"
    assert found.version != first[0].version


def test_companions__are_shared_and_a_variable_names_its_own() -> None:
    register_measure("null_mine", description="a reference of my own", role="reference")(
        lambda pairs: np.ones(len(pairs.coupling))
    )
    for name in ("mine", "mine_too"):
        register_measure(name, description="mine", companions=("null_mine", "spurious_cca"), null="null_mine")(
            lambda pairs: pairs.correlations.sum(axis=-1)
        )
    found = compared(*related(30, 3, 2), measures=("mine", "mine_too", "svcca"))
    assert json.loads(found.null_mine.attrs["companions"]) == []
    for name in ("mine", "mine_too"):
        assert json.loads(found[name].attrs["companions"]) == ["null_mine", "spurious_cca"]
        assert found[name].attrs["null"] == "null_mine"
    assert found.svcca.attrs["null"] == "null_svcca"
    assert json.loads(found.svcca.attrs["companions"]) == [
        "null_svcca",
        "null_svcca_sd",
        "p_svcca",
        "calibrated_svcca",
        "significant",
        "spurious",
        "leverage_overlap",
        "null_leverage_overlap",
    ]
    wanted = find_measures(("mine", "mine_too"))
    names = [measure.name for measure in with_companions(wanted)]
    assert names == ["mine", "mine_too", "null_mine", "spurious_cca"]


@pytest.mark.parametrize("name", ["mutual_knn(k=5,k=6)", "rsa(distance=euclidean, distance=euclidean)"])
def test_find_measures__a_parameter_is_given_once(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match="gives a parameter twice"):
        find_measures(name)


def test_measures__all_have_a_row_of_the_benchmark() -> None:
    assert set(bench_measures.names()) == set(bench_measures.FORMULAS)
