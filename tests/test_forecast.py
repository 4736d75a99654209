"""What a comparison is forecast to take, beside what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from zoos import layers, make_zoo

from dask_svcca.kernels.leading import LEAST_NEURONS
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run import advice, forecast
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import DaskExecutor, Here
from dask_svcca.run.forecast import NOMINAL_RATE, forecast_run
from dask_svcca.run.probe import probe
from dask_svcca.stores.dataset import open_comparison

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.run.forecast import Forecast


def foretold(zoo: object, place: Path, **options: object) -> Forecast:
    with dask.config.set(scheduler="synchronous"):
        parameters = make_parameters("svcca", **options)
        _, found, _ = forecast_run(zoo, str(place), parameters, DaskExecutor(None, ""), glance=True)  # type: ignore[arg-type]
    return found


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Beside leading directions of wide layers, the samples are stored as they are.
@pytest.mark.parametrize(("conv", "shape"), [("dft", (4, 4, 3)), ("mean", (4, 4, 3)), ("dft", (LEAST_NEURONS,))])
def test_forecast__bytes_are_those_of_a_run(tmp_path: Path, conv: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    zoo = make_zoo(
        tmp_path / "zoo.zarr",
        [rng.normal(size=(600, *shape[:-1], shape[-1] + k)).astype("float32") for k in range(6)],
    )
    place = tmp_path / "comparison.zarr"
    found = foretold(zoo, place, conv=conv)
    assert not place.exists()
    with dask.config.set(scheduler="synchronous"):
        outcome = run_comparison(zoo, str(place), make_parameters("svcca", conv=conv))
    assert found.bytes_read == outcome.bytes_read
    # Beside the numbers there are names and metadata; scores of noise are not compressible.
    stored = bytes_below(place / "subspaces")
    assert found.bytes_written == pytest.approx(stored, rel=0.25)
    assert found.seconds > 0
    assert found.core_hours == pytest.approx(found.seconds * found.workers / 3600)


def test_forecast__what_is_done_does_not_count(tmp_path: Path) -> None:
    zoo, place = make_zoo(tmp_path / "zoo.zarr", layers(6)), tmp_path / "comparison.zarr"
    before = foretold(zoo, place)
    with dask.config.set(scheduler="synchronous"):
        run_comparison(zoo, str(place), make_parameters("svcca"))
    after = foretold(zoo, place)
    assert before.bytes_read > 0
    assert (after.bytes_read, after.bytes_written) == (0, 0)
    assert before.stages
    assert not after.stages


def test_advise__a_reading_by_averages_where_frequencies_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "LONG", 0.0)
    rng = np.random.default_rng(0)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(100, 8, 8, 6)).astype("float32") for _ in range(8)])
    place, parameters = str(tmp_path / "comparison.zarr"), make_parameters("svcca")
    executor = Here(Budget(1, 2**31))
    plan, found, pace = forecast_run(zoo, place, parameters, executor, glance=True)
    # As fast as is assumed before it is measured: what is asked is which of them is less work.
    pace.rates = dict.fromkeys(pace.rates, 1 / NOMINAL_RATE)
    pace.found, pace.task_seconds = [], 0.0
    found = pace.forecast(plan, parameters, 0.0)
    advised = advice.advise(zoo, plan, parameters, pace, found, executor.budget)
    assert any("conv='mean'" in one.what and one.factor > 1.3 for one in advised)
    monkeypatch.setattr(advice, "LONG", 1e9)
    assert advice.advise(zoo, plan, parameters, pace, found, executor.budget) == []


def test_forecast__others_at_work_make_it_longer(tmp_path: Path) -> None:
    zoo, place, parameters = (
        make_zoo(tmp_path / "zoo.zarr", layers(4)),
        str(tmp_path / "c.zarr"),
        make_parameters("svcca"),
    )
    plan, _, pace = forecast_run(zoo, place, parameters, Here(Budget(1, 2**31)), glance=True)
    pace.busy = 1.0
    alone = pace.forecast(plan, parameters, 1.0).seconds
    pace.busy = 3.0
    assert pace.forecast(plan, parameters, 1.0).seconds - 1.0 == pytest.approx(3 * (alone - 1.0))


def test_forecast__a_probe_asks_for_the_pairs_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, place = make_zoo(tmp_path / "zoo.zarr", layers(5)), str(tmp_path / "c.zarr")
    samples = []
    monkeypatch.setattr(forecast, "probe", lambda sample: samples.append(sample) or probe(sample))
    pairs = np.eye(5, dtype=bool)
    pairs[0] = pairs[:, 0] = True
    forecast_run(zoo, place, make_parameters("svcca"), Here(Budget(1, 2**31)), glance=True, pairs=pairs)
    assert [sample.rows for sample in samples] == [(0, 1, 2, 3, 4)]
    np.testing.assert_array_equal(samples[0].asked, pairs)


def test_forecast__keeps_as_many_directions_of_wide_layers_as_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(256, LEAST_NEURONS)).astype("float32") for _ in range(2)])
    place, parameters = str(tmp_path / "c.zarr"), make_parameters("svcca", variance=0.8)
    executor = Here(Budget(1, 2**31))
    _, _, pace = forecast_run(zoo, place, parameters, executor, glance=True)
    run_comparison(zoo, place, parameters, executor=executor)
    ranks = open_comparison(place).rank_a.values
    (found,) = pace.found
    assert found.shares
    for row, share in found.shares.items():
        assert share.sum() * LEAST_NEURONS == pytest.approx(ranks[row])
