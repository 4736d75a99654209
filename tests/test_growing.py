"""Comparisons that gain measures and details in place: only what is new is computed, and no activations are read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from measured import images, related
from zarr.storage import MemoryStore
from zoos import assert_same, assert_same_to_rounding, layers, make_zoo, write

import dask_svcca
from dask_svcca.measures import DERIVED
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo
    from dask_svcca.run.outcome import Outcome

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

DONE, PARTIAL = PairStatus.DONE, PairStatus.PARTIAL


@dataclass
class Case:
    """Layers that take one way through the engine."""

    arrays: list[np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)


def wide(examples: int, neurons: int, count: int = 3) -> list[np.ndarray]:
    return related(examples, *range(neurons, neurons + count))


CASES = {
    "dense": Case(layers(9)),
    "wide": Case(wide(150, 60), {"precision": "float64"}),
    "more neurons than samples": Case(wide(30, 70), {"variance": 0.9, "precision": "float64"}),
    "crop": Case([*images((4, 4, 3), (4, 4, 2), (2, 2, 2)), *wide(20, 3, 1)]),
    "fold": Case([*images((4, 4, 3), (2, 2, 2), (2, 2, 3)), *wide(20, 3, 1)], {"match": "fold"}),
    "positions": Case([x.reshape(40, 3, -1) for x in layers(3, 120)], {"sequence": "positions"}),
}
LOADINGS: tuple[tuple[str, ...], tuple[Any, ...]] = (("pwcca",), ())
STEPS = [
    # From couplings alone; from the norms of samples; from loadings; of a with b unlike b with a; details.
    (("svcca", "cka", "procrustes"), ()),
    (("cka_debiased",), ()),
    LOADINGS,
    (("linear_regression", "gulp(lambda=0.1)"), ()),
    (("svcca",), ("correlations",)),
]


def forget_activations(store: Any) -> None:
    """Delete all activations of a zoo, in a directory or in memory."""
    if isinstance(store, MemoryStore):
        for key in [key for key in store._store_dict if "/activations/c/" in key]:
            del store._store_dict[key]
        return
    chunks = list(store.rglob("activations/c"))
    assert chunks
    for folder in chunks:
        shutil.rmtree(folder)


def run(zoo: Zoo, store: Any, measures: tuple[str, ...], **options: Any) -> Outcome:
    subspaces = options.pop("subspaces", None)
    return run_comparison(zoo, store, Parameters(measures, **options), subspaces=subspaces)


def assert_stayed(found: xr.Dataset, before: xr.Dataset) -> None:
    """Nothing that was there has moved by a bit."""
    for name in before.data_vars:
        if name != "pair_status":
            np.testing.assert_array_equal(found[name], before[name], err_msg=str(name))


@pytest.mark.parametrize(
    ("case", "where"),
    [
        *((case, "directory") for case in ("dense", "more neurons than samples", "crop", "positions")),
        *(pytest.param(case, "directory", marks=pytest.mark.slow) for case in ("wide", "fold")),
        ("dense", "memory"),
    ],
)
def test_compare__gains_measures_without_activations(tmp_path: Path, case: str, where: str) -> None:
    arrays, options = CASES[case].arrays, CASES[case].options
    place: Any = tmp_path / "zoo.zarr" if where == "directory" else MemoryStore()
    store: Any = tmp_path / "c.zarr" if where == "directory" else MemoryStore()
    # Loadings of more neurons than samples need the activations, and have a test of their own.
    steps = [step for step in STEPS if step != LOADINGS or case != "more neurons than samples"]
    measures = tuple(dict.fromkeys(name for names, _ in steps for name in names))
    zoo, fresh_store = make_zoo(place, arrays), MemoryStore()
    run(zoo, fresh_store, measures, keep=("correlations",), **options)
    fresh = dask_svcca.open_comparison(fresh_store).load()
    run(zoo, store, ("svcca",), **options)
    found = dask_svcca.open_comparison(store).load()
    forget_activations(place)
    for added, keep in steps:
        before = found
        outcome = run(zoo, store, added, keep=keep, **options)
        assert (outcome.plan.subspaces, outcome.bytes_read, outcome.problems) == (0, 0, {})
        assert outcome.computed == np.triu(np.isin(before.pair_status, (DONE, PairStatus.SATURATED))).sum()
        found = dask_svcca.open_comparison(store).load()
        assert_stayed(found, before)
    assert_same_to_rounding(found, fresh)
    assert run(zoo, store, measures, keep=("correlations",), **options).plan.tasks == 0
    assert parameters_of(found)["measures"] == list(measures)
    if where == "directory":
        with xr.open_zarr(store) as plain:
            assert set(plain.variables) == set(fresh.variables) - set(DERIVED)


def test_compare__frequencies_are_gained_without_activations(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", CASES["crop"].arrays)
    run(zoo, tmp_path / "c", ("svcca",))
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    run(zoo, tmp_path / "fresh", ("svcca",), keep=("frequencies",))
    forget_activations(tmp_path / "zoo.zarr")
    outcome = run(zoo, tmp_path / "c", ("svcca",), keep=("frequencies",))
    assert (outcome.bytes_read, outcome.problems) == (0, {})
    found, fresh = (dask_svcca.open_comparison(tmp_path / name).load() for name in ("c", "fresh"))
    assert_stayed(found, before)
    assert_same_to_rounding(found, fresh)


def test_compare__loadings_of_more_neurons_than_samples_need_the_activations_once_more(tmp_path: Path) -> None:
    case = CASES["more neurons than samples"]
    # One that has its loadings already.
    zoo = make_zoo(tmp_path / "zoo.zarr", [*case.arrays, case.arrays[0][:, :6]])
    run(zoo, tmp_path / "c", ("svcca",), **case.options)
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    run(zoo, tmp_path / "fresh", ("svcca", "pwcca"), **case.options)
    fresh = dask_svcca.open_comparison(tmp_path / "fresh").load()
    shutil.copytree(tmp_path / "zoo.zarr", tmp_path / "away")
    forget_activations(tmp_path / "zoo.zarr")

    lacking = run(zoo, tmp_path / "c", ("pwcca",), **case.options)
    assert sorted(lacking.problems) == [f"net/step00{step}/fc" for step in range(3)]
    assert all("chunk 0 of 1 is missing" in problem for problem in lacking.problems.values())
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(found.svcca, before.svcca)
    expected = np.full((4, 4), PARTIAL)
    expected[3, 3] = before.pair_status[3, 3]
    np.testing.assert_array_equal(found.pair_status, expected)
    np.testing.assert_array_equal(found.pwcca.notnull(), expected != PARTIAL)

    shutil.copytree(tmp_path / "away", tmp_path / "zoo.zarr", dirs_exist_ok=True)
    outcome = run(zoo, tmp_path / "c", ("pwcca",), **case.options)
    assert (outcome.plan.subspaces, outcome.problems) == (3, {})
    assert outcome.bytes_read > 0
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    assert_stayed(found, before)
    assert_same_to_rounding(found, fresh)


def test_compare__measures_in_another_order_are_the_same(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    before = dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "cka")).load()
    outcome = run(zoo, tmp_path / "c", ("cka", "svcca"))
    assert (outcome.plan.tasks, outcome.computed) == (0, 0)
    fewer = run(zoo, tmp_path / "c", ("cka",))
    assert fewer.plan.tasks == 0
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    assert_same(found, before)
    assert parameters_of(found)["measures"] == ["svcca", "cka"]


def test_compare__a_measure_that_is_not_asked_for_again_goes_on(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(9))
    dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "cka"))
    write(zoo, layers(11)[9:], start=9)
    found = dask_svcca.compare(zoo, tmp_path / "c").load()
    assert found.cka.notnull().all()
    assert (found.pair_status == DONE).all()


def test_compare__grows_by_representations_and_measures_at_once(tmp_path: Path) -> None:
    arrays = layers(20)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays[:11])
    before = dask_svcca.compare(zoo, tmp_path / "c").load()
    write(zoo, arrays[11:], start=11)
    outcome = run(zoo, tmp_path / "c", ("cka", "pwcca"), keep=("correlations",))
    assert outcome.plan.subspaces == 9
    assert outcome.bytes_read == sum(array.nbytes for array in arrays[11:])
    assert outcome.computed == 20 * 21 // 2
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(found.svcca[:11, :11], before.svcca)
    run(zoo, tmp_path / "fresh", ("svcca", "cka", "pwcca"), keep=("correlations",))
    fresh = dask_svcca.open_comparison(tmp_path / "fresh").load()
    assert_same_to_rounding(found, fresh)


def test_compare__of_some_pairs_gains_measures_for_those_asked_for(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    some, more = np.zeros((10, 10), dtype=bool), np.zeros((10, 10), dtype=bool)
    some[0, :5] = some[:5, 0] = True
    more[0, 3:8] = more[3:8, 0] = True
    before = dask_svcca.compare(zoo, tmp_path / "c", pairs=some).load()
    found = dask_svcca.compare(zoo, tmp_path / "c", measures="cka", pairs=more).load()
    np.testing.assert_array_equal(found.svcca.notnull(), some | more)
    np.testing.assert_array_equal(found.svcca.where(some), before.svcca)
    np.testing.assert_array_equal(found.cka.notnull(), more)
    np.testing.assert_array_equal(found.pair_status, np.where(more, DONE, np.where(some, PARTIAL, PairStatus.MISSING)))
    # Partial pairs have svcca alone; the others have both by now, and are asked for a third.
    last = dask_svcca.compare(zoo, tmp_path / "c", measures="procrustes").load()
    assert (last.pair_status == DONE).all()
    fresh = dask_svcca.compare(zoo, tmp_path / "fresh", measures=("svcca", "cka", "procrustes")).load()
    assert_same_to_rounding(last, fresh)
    np.testing.assert_array_equal(last.svcca.where(some), before.svcca)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
def test_compare__gains_measures_where_some_pairs_cannot_be_compared(tmp_path: Path) -> None:
    arrays = [*layers(2, 30), np.ones((30, 3), "float32"), *related(30, 2)]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    before = dask_svcca.compare(zoo, tmp_path / "c").load()
    outcome = run(zoo, tmp_path / "c", ("cka",))
    assert list(outcome.problems) == ["net/step002/fc"]
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(found.pair_status, before.pair_status)
    np.testing.assert_array_equal(found.cka.notnull(), found.pair_status == DONE)


def test_compare__a_measure_that_says_nothing_of_few_samples_makes_the_pair_say_so(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [np.random.default_rng(s).normal(size=(10, 30)) for s in range(2)])
    assert (dask_svcca.compare(zoo, tmp_path / "c", measures="cka", variance=None).pair_status == DONE).all()
    found = dask_svcca.compare(zoo, tmp_path / "c", measures="cca", variance=None)
    assert (found.pair_status == PairStatus.SATURATED).all()
    # And still does when one is added that says something.
    found = dask_svcca.compare(zoo, tmp_path / "c", measures="procrustes", variance=None)
    assert (found.pair_status == PairStatus.SATURATED).all()


def growing_zoo(n_layers: int) -> dict[str, np.ndarray]:
    """Layers of which some have no distances (one neuron), or no neighbours (examples of zeros), or neither."""
    rng = np.random.default_rng(3)
    x, y, one, sparse, line = (rng.normal(size=(40, width)) for width in (8, 5, 1, 3, 1))
    layers = {"x": x, "one": one, "y": y, "sparse": np.maximum(sparse - 1, 0), "both": np.maximum(line - 1, 0)}
    return dict(list(layers.items())[:n_layers])


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("rsa", "cka"),
        ("mutual_knn", "svcca"),
        ("rsa", "mutual_knn"),
        ("mutual_knn", "rsa"),
        ("rsa", "soft_matching"),
        ("svcca", "rsa"),
    ],
)
def test_compare__what_one_measure_cannot_take_another_may(first: str, then: str) -> None:
    store = MemoryStore()
    dask_svcca.compare(growing_zoo(4), store, measures=first)
    both = first, then
    for count in (4, 5):
        found = dask_svcca.compare(growing_zoo(count), store, measures=both).load()
        fresh = dask_svcca.compare(growing_zoo(count), measures=both).load()
        assert_same_to_rounding(found, fresh)
        assert (found.pair_status == DONE)[:2, :2].all()
        assert found[then].notnull().any()


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
def test_compare__pairs_that_fail_with_what_is_added_keep_nothing() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    rng = np.random.default_rng(3)
    with zoo:
        for side in (4, 3):
            images = rng.normal(size=(40, side, side, 2))
            zoo.write("net", "last", f"conv{side}", images, dims=("example", "height", "width", "channel"))
    store, options = MemoryStore(), {"conv": "dft", "match": "fold"}
    before = dask_svcca.compare(zoo, store, measures="rsa", **options).load()
    found = dask_svcca.compare(zoo, store, measures=("rsa", "svcca"), **options).load()
    fresh = dask_svcca.compare(zoo, measures=("rsa", "svcca"), **options).load()
    assert before.rsa.notnull().all()
    assert found.pair_status[0, 1] == PairStatus.INCOMPATIBLE_GRIDS
    assert_same_to_rounding(found, fresh)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
@pytest.mark.parametrize(("order", "reason"), [("rsa, mutual_knn", "no correlation"), ("mutual_knn, rsa", "no cosine")])
def test_describe__the_reason_is_that_of_the_first_measure(order: str, reason: str) -> None:
    store = MemoryStore()
    for _ in range(2):
        found = dask_svcca.compare(growing_zoo(4), store, measures=order)
        assert reason in str(found.problem_a[3].item())
