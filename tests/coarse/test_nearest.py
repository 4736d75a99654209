"""``pairs="nearest N"``: each layer with itself and its likeliest partners, by sketches of the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import LocalStore, MemoryStore
from zoos import N, layers, make_zoo, write

import dask_svcca
from dask_svcca.coarse.estimated import Estimated
from dask_svcca.coarse.guidance import Guidance
from dask_svcca.coarse.sketched import place_beside
from dask_svcca.errors import (
    FailedRepresentationWarning,
    InvalidJobError,
    ParametersChangedError,
    StoreFormatError,
)
from dask_svcca.jobs.schema import parse_job
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.selection import Selection, select_pairs
from dask_svcca.sketches.opened import opened
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")

COUNT = 14


def expected(sketches: Any, count: int) -> np.ndarray:
    """Pairs by the matrix of all estimates, layer by layer."""
    cka = dask_svcca.estimates(sketches).cka.to_numpy().astype(float)
    chosen = np.eye(len(cka), dtype=bool)
    for row, values in enumerate(cka):
        others = [other for other in np.argsort(-values) if other != row and not np.isnan(values[other])]
        chosen[row, others[:count]] = True
    return chosen | chosen.T


def compared(result: xr.Dataset) -> np.ndarray:
    return result.pair_status.to_numpy() != PairStatus.MISSING


def test_nearest__are_the_partners_of_the_highest_estimates(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(COUNT))
    result = dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 3")
    chosen = expected(tmp_path / "c.sketches.zarr", 3)
    assert 3 * COUNT < chosen.sum() < COUNT**2
    np.testing.assert_array_equal(compared(result), chosen)
    whole = dask_svcca.compare(zoo)
    np.testing.assert_allclose(result.svcca, whole.svcca.where(chosen), atol=1e-12)
    # Again, and with more partners than there are.
    again = dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 3")
    np.testing.assert_array_equal(compared(again), chosen)
    assert compared(dask_svcca.compare(zoo, pairs="nearest 1000")).all()


def test_nearest__are_the_same_in_stripes_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = layers(COUNT)
    sketches = dask_svcca.sketch(make_zoo(MemoryStore(), arrays))
    labels = [str(label) for label in sketches.representation.values]
    # One that is not there, in an order of the zoo that is not that of the sketches.
    labels = [*reversed(labels), "net/step999/fc"]
    chosen = expected(sketches, 3)[::-1, ::-1]
    for stripe in (1, 4, 100):
        monkeypatch.setattr("dask_svcca.coarse.estimated.STRIPE", stripe)
        found = Estimated(opened(sketches), labels).nearest(3)
        every = np.arange(COUNT + 1)
        pairs = found.block(every, every)
        np.testing.assert_array_equal(pairs[:COUNT, :COUNT], chosen)
        assert pairs[COUNT].tolist() == [False] * COUNT + [True]


def test_nearest__grow_with_the_zoo_and_what_is_there_stays(tmp_path: Path) -> None:
    arrays = layers(COUNT)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays[:8])
    before = compared(dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 2"))
    with dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+") as more:
        write(more, arrays[8:], 8)
    grown = compared(dask_svcca.compare(tmp_path / "zoo.zarr", tmp_path / "c.zarr", pairs="nearest 2"))
    wanted = expected(tmp_path / "c.sketches.zarr", 2)
    there = np.zeros_like(wanted)
    there[:8, :8] = before
    np.testing.assert_array_equal(grown, wanted | there)
    assert wanted[:8, 8:].any()


def test_nearest__go_by_other_sketches_where_they_are_named(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(COUNT))
    # Made for averaged positions, and of coarser sketches.
    dask_svcca.sketch(zoo, tmp_path / "s.zarr", size=64, seed=3)
    options = {"pairs": "nearest 2", "conv": "mean", "sketches": tmp_path / "s.zarr"}
    plan = dask_svcca.plan_comparison(zoo, tmp_path / "c.zarr", **options)
    result = dask_svcca.compare(zoo, tmp_path / "c.zarr", **options)
    chosen = expected(tmp_path / "s.zarr", 2)
    assert plan.pairs == np.triu(chosen).sum()
    np.testing.assert_array_equal(compared(result), chosen)
    assert not (tmp_path / "c.sketches.zarr").exists()


def test_nearest__a_layer_without_a_sketch_has_itself_alone(tmp_path: Path) -> None:
    arrays = layers(6)
    arrays[2][:] = 1.0
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    with pytest.warns(FailedRepresentationWarning, match="'net/step002/fc' is constant"):
        result = dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 5")
    status = result.pair_status.to_numpy()
    assert status[2].tolist() == [0, 0, PairStatus.FAILED, 0, 0, 0]
    assert (np.delete(np.delete(status, 2, 0), 2, 1) == PairStatus.DONE).all()


def test_nearest__of_what_is_not_comparable_nothing_is_estimated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large, small = (rng.normal(size=(2, N, side, side, 3)) for side in (4, 2))
    zoo = make_zoo(tmp_path / "zoo.zarr", [*large, *small])
    result = dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 3")
    np.testing.assert_array_equal(compared(result), np.kron(np.eye(2), np.ones((2, 2))))
    # Averaged over positions, all can be compared.
    assert compared(dask_svcca.compare(zoo, conv="mean", pairs="nearest 3")).all()


@pytest.mark.parametrize("pairs", ["nearest", "nearest 0", "nearest -3", "nearest 2.5", "nearest many", "nearest 1 2"])
def test_nearest__says_how_many_are_valid(tmp_path: Path, pairs: str) -> None:
    zoo = make_zoo(MemoryStore(), layers(3))
    sentence = f"pairs='{pairs}': N of 'nearest N' is how many partners each layer has, a whole number from 1 on"
    with pytest.raises(ValueError, match=sentence):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs=pairs)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidJobError, match=f"job.yaml, line 3: {sentence}"):
        parse_job(f"zoo: z.zarr\ncomparison: c.zarr\npairs: {pairs}\n", "job.yaml", tmp_path)


def test_nearest__refuses_sketches_of_another_reading_or_other_examples(tmp_path: Path) -> None:
    arrays = layers(3)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    dask_svcca.sketch(zoo, tmp_path / "s.zarr", size=64)
    with pytest.raises(ParametersChangedError, match="were made with conv='mean', now conv='dft' is asked for"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 1", sketches=tmp_path / "s.zarr")
    with dask_svcca.create_zoo(tmp_path / "other.zarr", examples=range(1, N + 1)) as other:
        write(other, arrays)
    with pytest.raises(
        ParametersChangedError, match=r"are of 60 examples .*, the zoo has 60 .*: they are not the same"
    ):
        dask_svcca.compare(other, tmp_path / "c.zarr", pairs="nearest 1", conv="mean", sketches=tmp_path / "s.zarr")
    with pytest.raises(StoreFormatError, match="is not a store of sketches"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 1", sketches=tmp_path / "other.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_nearest__a_plan_asks_for_sketches_and_makes_none(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    with pytest.raises(StoreFormatError, match=r"sketches of 3 representations at .*c.sketches.zarr'.* sketch\(zoo, "):
        dask_svcca.plan_comparison(zoo, tmp_path / "c.zarr", pairs="nearest 1")
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.zarr"]
    with pytest.raises(ValueError, match="pairs='nearest 1' is chosen by sketches of the layers"):
        dask_svcca.forecast(zoo, tmp_path / "c.zarr", pairs="nearest 1")


def test_sketches__are_refused_where_nothing_goes_by_them(tmp_path: Path) -> None:
    zoo = make_zoo(MemoryStore(), layers(3))
    with pytest.raises(ValueError, match="nothing that is asked for goes by them"):
        dask_svcca.compare(zoo, sketches=tmp_path / "s.zarr")
    job = "zoo: z.zarr\ncomparison: c.zarr\nsketches: s.zarr\n"
    with pytest.raises(InvalidJobError, match=r"job.yaml, line 3: sketches= says where"):
        parse_job(job, "job.yaml", tmp_path)
    found = parse_job(f"{job}pairs: nearest 20\norder: by estimate\n", "job.yaml", tmp_path)
    assert (found.pairs, found.order, found.sketches) == ("nearest 20", "by estimate", str(tmp_path / "s.zarr"))
    assert found.guidance.nearest == 20


def test_guidance__refuses_what_is_not_valid() -> None:
    with pytest.raises(ValueError, match="order is one of 'stored', 'by estimate'; got 'by-estimate'"):
        Guidance.of("all", "c.zarr", None, Parameters(), order="by-estimate")
    with pytest.raises(ValueError, match="preview is True or False; got 'no'"):
        Guidance.of("all", "c.zarr", None, Parameters(), preview="no")  # type: ignore[arg-type]


def test_place_beside__has_the_name_of_the_comparison(tmp_path: Path) -> None:
    assert place_beside(tmp_path / "c.zarr") == str(tmp_path / "c.sketches.zarr")
    assert place_beside("memory://x/c.zarr/") == "memory://x/c.sketches.zarr"
    assert isinstance(place_beside(MemoryStore()), MemoryStore)
    with pytest.raises(StoreFormatError, match="Name a place for them with sketches="):
        place_beside(LocalStore(tmp_path / "c.zarr"))


def test_selection__of_partners_says_the_same_of_every_block() -> None:
    rng = np.random.default_rng(0)
    partners = np.array([rng.choice(np.r_[-1, np.delete(np.arange(9), own)], 3, replace=False) for own in range(9)])
    mask = np.eye(9, dtype=bool)
    for own, others in enumerate(partners):
        mask[own, others[others >= 0]] = True
    selection = Selection.of_partners(partners)
    for _ in range(20):
        rows, columns = (rng.permutation(9)[: rng.integers(1, 9)] for _ in "ab")
        np.testing.assert_array_equal(selection.block(rows, columns), (mask | mask.T)[np.ix_(rows, columns)])
        # Some have left the zoo; of these nothing counts.
        gone = np.r_[columns, -1, -1]
        np.testing.assert_array_equal(selection.block(rows, gone)[:, :-2], selection.block(rows, columns))
    assert select_pairs(selection, None) is selection  # type: ignore[arg-type]


def test_nearest__refuses_sketches_of_an_overlap(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    dask_svcca.compare(zoo, tmp_path / "c.zarr", conv="mean")
    dask_svcca.sketch(zoo, tmp_path / "o.zarr", size=64, measure="overlap", subspaces=tmp_path / "c.zarr")
    with pytest.raises(ParametersChangedError, match="were made with measure='overlap', now measure='cka'"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 1", conv="mean", sketches=tmp_path / "o.zarr")


def test_sketches__have_a_place_of_their_own(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    for place, sentence in (
        ("c.zarr", "would lie in the comparison at"),
        ("c.zarr/s.zarr", "would lie in the comparison at"),
        ("zoo.zarr/s.zarr", "would lie in the zoo at"),
    ):
        with pytest.raises(StoreFormatError, match=sentence):
            dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 1", sketches=tmp_path / place)
    with pytest.raises(StoreFormatError, match="sketches are at a path, a URL, or in a store of zarr; got dict"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs="nearest 1", sketches={})  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.zarr"]
