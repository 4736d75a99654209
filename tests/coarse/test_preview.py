"""A preview: estimates of all pairs that have no value, which nobody can take for values, and which values replace."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from zoos import assert_same_to_rounding, layers, make_zoo, write

import dask_svcca
from dask_svcca.errors import (
    DamagedStoreError,
    FailedRepresentationWarning,
    IncompatibleError,
    InvalidQuestionError,
    OnlyEstimatesWarning,
    ParametersChangedError,
    UnknownMeasureError,
)
from dask_svcca.plot import embedding, matrix
from dask_svcca.plot._blocks import reasons
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import ESTIMATE_VARIABLES, PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")

COUNT = 11
ESTIMATES = [variable.name for variable in ESTIMATE_VARIABLES]


@pytest.fixture
def zoo(tmp_path: Path) -> dask_svcca.Zoo:
    return make_zoo(tmp_path / "zoo.zarr", layers(COUNT))


def preview(zoo: Any, place: Path, **options: Any) -> xr.Dataset:
    return dask_svcca.compare(zoo, place, **{"measures": ("svcca", "cka"), "preview": True, **options})


def test_preview__has_estimates_and_no_value(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    result = preview(zoo, tmp_path / "c.zarr")
    assert (result.pair_status == PairStatus.ESTIMATED).all()
    known = dask_svcca.estimates(tmp_path / "c.sketches.zarr")
    np.testing.assert_allclose(result.cka_estimate, known.cka, atol=1e-5)
    np.testing.assert_allclose(result.cka_estimate_error, known.cka_error, atol=1e-4)
    np.testing.assert_array_equal(result.cka_estimate, result.cka_estimate.T)
    with xr.open_zarr(tmp_path / "c.zarr") as alone:
        # Whoever knows nothing of this package finds no number under the name of a measure.
        measures = [name for name, array in alone.data_vars.items() if array.attrs.get("sense")]
        assert {"cka", "svcca"} < set(measures)
        assert all(np.isnan(alone[name]).all() for name in measures)
        assert alone.pair_status.attrs["flag_meanings"].split()[7] == "estimated"
        assert "it is not exact" in alone.cka_estimate.attrs["comment"]


def test_preview__is_taken_for_a_value_by_no_question(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    result = preview(zoo, tmp_path / "c.zarr")
    one = {"representation": "net/step000/fc"}
    questions: list[tuple[Callable[[str], Any], Callable[[Any], bool]]] = [
        (lambda measure: dask_svcca.query(result, measure), lambda found: found.empty),
        (lambda measure: dask_svcca.query(result, measure, low=0.9), lambda found: found.empty),
        (lambda measure: dask_svcca.nearest(result, one, measure=measure), lambda found: found.empty),
        (
            lambda measure: dask_svcca.within_and_between(result, {"all": {}}, measure=measure),
            lambda f: not f.pairs.any(),
        ),
        (lambda measure: dask_svcca.model_similarity(result, measure=measure), lambda found: bool(found.missing.all())),
        (lambda measure: matrix(result, measure=measure), lambda ax: ax.images[0].get_array().count() == 0),
    ]
    for ask, has_no_value in questions:
        for measure in ("cka", "svcca"):
            said = rf"no pair asked for has a value of '{measure}' yet: \d+ of these .* its own name, 'cka_estimate'"
            with pytest.warns(OnlyEstimatesWarning, match=said) as warned:
                assert has_no_value(ask(measure))
            assert {warning.filename for warning in warned} == {__file__}
    for ask in (dask_svcca.embedding, dask_svcca.cluster, embedding):
        with pytest.raises(IncompatibleError, match=r"where=.* 121 of these pairs have an estimate of 'cka' from"):
            ask(result)
    assert set(reasons(result.pair_status.to_numpy())) == {"not computed yet"}
    for ask in (dask_svcca.model_similarity, dask_svcca.noise_ceiling, dask_svcca.judge_measures):
        with pytest.raises(UnknownMeasureError, match=r"'cka_estimate' is not a measure: .* taken by query, nearest"):
            ask(result, measure="cka_estimate")
    with pytest.raises(ValueError, match="cka_estimate"):
        dask_svcca.register_measure("cka_estimate", description="none")(lambda pairs: pairs.squared_norm)


def test_preview__has_its_estimates_asked_for_by_name(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    result = preview(zoo, tmp_path / "c.zarr")
    known = result.cka_estimate.to_numpy().astype(float)
    upper = np.triu_indices(COUNT, 1)
    found = dask_svcca.query(result, ["cka_estimate", "cka_estimate_error", "cka"])
    np.testing.assert_array_equal(found.cka_estimate, np.sort(known[upper])[::-1])
    assert (found.cka_estimate_error >= 0).all()
    assert found.cka.isna().all()
    with pytest.warns(OnlyEstimatesWarning):
        assert not {*ESTIMATES} & {*dask_svcca.query(result, "all").columns}
    label = str(result.representation_a[0].item())
    nearby = dask_svcca.nearest(result, {"representation": label}, measure="cka_estimate", top=COUNT)
    np.testing.assert_array_equal(nearby.cka_estimate, np.sort(known[0, 1:])[::-1])
    same = result.assign(cka=result.cka.copy(data=result.cka_estimate)).drop_vars(ESTIMATES)
    estimated, wanted = (
        dask_svcca.embedding(one, measure=measure) for one, measure in ((result, "cka_estimate"), (same, "cka"))
    )
    np.testing.assert_array_equal(estimated.x, wanted.x)
    assert estimated.attrs["measure"] == "cka_estimate"
    drawn = matrix(result, measure="cka_estimate").images[0].get_array()
    np.testing.assert_array_equal(np.sort(drawn.ravel()), np.sort(known.ravel()))
    assert embedding(result, measure="cka_estimate").get_title()
    with pytest.raises(UnknownMeasureError, match="cka_estimate_error"):
        dask_svcca.nearest(result, {"representation": label}, measure="cka_estimate_error")


def test_preview__is_not_mixed_with_values(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    near = dask_svcca.compare(zoo, tmp_path / "c.zarr", measures="cka", pairs="nearest 2")
    computed = int(np.triu(near.cka.notnull(), 1).sum())
    result = preview(zoo, tmp_path / "c.zarr", measures="cka")
    exact, estimated = dask_svcca.query(result, "cka"), dask_svcca.query(result, "cka_estimate")
    assert (len(exact), len(estimated)) == (computed, COUNT * (COUNT - 1) // 2 - computed)
    names = ["model_a", "checkpoint_a", "layer_a", "model_b", "checkpoint_b", "layer_b"]
    assert exact[names].merge(estimated[names]).empty
    with pytest.raises(IncompatibleError, match="pairs have no value of 'cka_estimate'"):
        dask_svcca.embedding(result, measure="cka_estimate")
    # Beyond its bounds there are values: what is asked for is not lacking.
    assert dask_svcca.query(result, "cka", low=1.1).empty


def test_preview__gives_way_to_exact_values(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    preview(zoo, tmp_path / "c.zarr")
    first = dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka"), pairs="nearest 2")
    assert set(np.unique(first.pair_status)) == {PairStatus.DONE, PairStatus.ESTIMATED}
    np.testing.assert_array_equal(np.isnan(first.cka), first.pair_status == PairStatus.ESTIMATED)
    # A second look leaves what is computed.
    again = preview(zoo, tmp_path / "c.zarr")
    np.testing.assert_array_equal(again.pair_status, first.pair_status)
    exact = dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka"))
    assert (exact.pair_status == PairStatus.DONE).all()
    whole = dask_svcca.compare(zoo, tmp_path / "fresh.zarr", measures=("svcca", "cka"))
    assert_same_to_rounding(exact.drop_vars(ESTIMATES), whole)
    away = abs(exact.cka - exact.cka_estimate)
    assert (away <= 4 * exact.cka_estimate_error + 1e-5).all()
    assert dask_svcca.verify(tmp_path / "c.zarr").ok


def test_preview__of_measures_that_are_added(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    dask_svcca.compare(zoo, tmp_path / "c.zarr", measures="svcca", pairs="nearest 2")
    result = preview(zoo, tmp_path / "c.zarr")
    assert set(np.unique(result.pair_status)) == {PairStatus.PARTIAL, PairStatus.ESTIMATED}
    assert np.isfinite(result.cka_estimate).all()
    np.testing.assert_array_equal(np.isnan(result.svcca), result.pair_status == PairStatus.ESTIMATED)
    exact = dask_svcca.compare(zoo, tmp_path / "c.zarr", measures="cka")
    assert (exact.pair_status == PairStatus.DONE).all()
    assert np.isfinite(exact.cka).all()


def test_preview__follows_a_zoo_that_changes(tmp_path: Path) -> None:
    arrays = layers(COUNT)
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(60)) as zoo:
        write(zoo, arrays[:9])
    preview(zoo, tmp_path / "c.zarr")
    with dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+") as zoo:
        zoo.write("net", "step003", "fc", arrays[10], step=3, overwrite=True)
        write(zoo, arrays[9:10], 9)
    # A run that computes a few pairs has no estimates of what it does not know.
    some = dask_svcca.compare(
        tmp_path / "zoo.zarr", tmp_path / "c.zarr", measures=("svcca", "cka"), pairs=np.eye(10) > 0
    )
    fresh = np.zeros((10, 10), dtype=bool)
    fresh[[3, 9]] = fresh[:, [3, 9]] = True
    np.testing.assert_array_equal(np.isnan(some.cka_estimate), fresh)
    wanted = np.where(fresh, PairStatus.MISSING, PairStatus.ESTIMATED)
    np.fill_diagonal(wanted, PairStatus.DONE)
    np.testing.assert_array_equal(some.pair_status, wanted)
    result = preview(tmp_path / "zoo.zarr", tmp_path / "c.zarr")
    known = dask_svcca.estimates(tmp_path / "c.sketches.zarr")
    other = ~np.eye(10, dtype=bool)
    np.testing.assert_allclose(result.cka_estimate.to_numpy()[other], known.cka.to_numpy()[other], atol=1e-5)


def test_preview__moves_with_what_is_dropped(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    before = preview(zoo, tmp_path / "c.zarr").load()
    fewer = make_zoo(tmp_path / "fewer.zarr", layers(COUNT)[:1] + layers(COUNT)[4:], 60)
    labels = [label for label in before.representation_a.to_numpy() if label in fewer.representations.index]
    result = preview(fewer, tmp_path / "c.zarr", drop_left=True, pairs=np.eye(len(fewer)) > 0)
    assert result.sizes["representation_a"] == len(fewer)
    assert len(labels) == len(fewer)


def test_preview__of_some_pairs(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    mask = np.zeros((COUNT, COUNT), dtype=bool)
    mask[2, 7] = True
    result = preview(zoo, tmp_path / "c.zarr", pairs=mask)
    np.testing.assert_array_equal(result.pair_status == PairStatus.ESTIMATED, mask | mask.T)
    np.testing.assert_array_equal(np.isfinite(result.cka_estimate), mask | mask.T)


def test_preview__what_is_not_comparable_has_no_estimate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [*(rng.normal(size=(60, side, side, 3)) for side in (4, 2)), np.ones((60, 5))]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    with pytest.warns(FailedRepresentationWarning, match="1 of 3 representations have no estimate. The first: 'net/"):
        result = preview(zoo, tmp_path / "c.zarr", measures="cka")
    np.testing.assert_array_equal(result.pair_status, np.diag([7, 7, 0]))
    np.testing.assert_array_equal(np.isfinite(result.cka_estimate), np.diag([True, True, False]))


def test_preview__refuses_what_has_no_estimate(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidQuestionError, match="a preview has estimates of 'cka' alone, and 'svcca', 'pwcca' is asked"
    ):
        preview(zoo, tmp_path / "c.zarr", measures=("svcca", "pwcca"))
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.zarr"]
    preview(zoo, tmp_path / "c.zarr")
    with pytest.raises(ParametersChangedError, match="variance"):
        preview(zoo, tmp_path / "c.zarr", variance=0.5)


def test_preview__in_memory(tmp_path: Path) -> None:
    arrays = dict(zip("abc", layers(3), strict=True))
    result = dask_svcca.compare(arrays, measures="cka", preview=True)
    assert (result.pair_status == PairStatus.ESTIMATED).all()
    assert result.cka_estimate.sel(representation_a="a", representation_b="a") == pytest.approx(1)


def test_preview__a_damaged_estimate_is_named(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    preview(zoo, tmp_path / "c.zarr")
    dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka"), pairs=np.eye(COUNT) > 0)
    file = tmp_path / "c.zarr" / "cka_estimate" / "c" / "0" / "1"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedStoreError, match="cka_estimate/c/0/1"):
        dask_svcca.open_comparison(tmp_path / "c.zarr").load()
    assert [one.key for one in dask_svcca.verify(tmp_path / "c.zarr").damage] == ["cka_estimate/c/0/1"]
    dask_svcca.verify(tmp_path / "c.zarr", repair=True)
    assert (
        dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka")).pair_status == PairStatus.DONE
    ).all()


def test_preview__pairs_without_an_estimate_are_whole(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    # Done before there was room for estimates: that these lack a chunk is no damage.
    dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka"))
    result = preview(zoo, tmp_path / "c.zarr")
    assert (result.pair_status == PairStatus.DONE).all()
    assert np.isnan(result.cka_estimate).all()
    assert dask_svcca.verify(tmp_path / "c.zarr").ok


def test_preview__what_fails_is_tried_again(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview(zoo, tmp_path / "c.zarr")
    module: Any = importlib.import_module("dask_svcca.tasks.perform")
    with monkeypatch.context() as patched:

        def failing(*_: Any) -> None:
            raise RuntimeError("injected")

        patched.setattr(module, "compute_tile", failing)
        with pytest.warns(FailedRepresentationWarning, match="injected"):
            result = dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka"))
    assert (result.pair_status == PairStatus.FAILED).all()
    assert np.isnan(result.cka).all()
    assert (
        dask_svcca.compare(zoo, tmp_path / "c.zarr", measures=("svcca", "cka")).pair_status == PairStatus.DONE
    ).all()


def test_join__takes_what_is_computed_before_what_is_estimated(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    options = {"measures": "cka"}
    first = preview(zoo, tmp_path / "a.zarr", **options)
    exact = dask_svcca.compare(zoo, tmp_path / "b.zarr", **options)
    joined = dask_svcca.join(first, exact)
    assert (joined.pair_status == PairStatus.DONE).all()
    np.testing.assert_array_equal(joined.cka, exact.cka)


def test_count_pairs__counts_estimated_ones(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    preview(zoo, tmp_path / "c.zarr")
    counts = ComparisonStore.open(tmp_path / "c.zarr").count_pairs()
    assert {status: count for status, count in counts.items() if count} == {
        PairStatus.ESTIMATED: COUNT * (COUNT + 1) // 2
    }
