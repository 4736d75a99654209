"""Relatives are not other trainings: models of which one began with the other, or both with one."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import IncompatibleError, InvalidQuestionError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

BEGAN = {"s0": "", "s1": "", "s2": "", "tuned": "s0/end", "again": "tuned/end", "x": "far/end", "y": "far/other"}
RELATIVES = [{"s0", "tuned"}, {"s0", "again"}, {"tuned", "again"}, {"x", "y"}]
LAYERS = "fc1", "fc2", "fc3"


def trained(store: Any, models: list[str]) -> xr.Dataset:
    """A comparison of these models; the first checkpoint of each says where it began."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(3, 60, 4))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(60)) as zoo:
        for model in models:
            for depth, (layer, x) in enumerate(zip(LAYERS, common, strict=True)):
                parent = BEGAN[model] or None
                zoo.write(model, "begin", layer, rng.normal(size=(60, 4)), step=0, depth=depth, parent=parent)
                y = x + 2 * rng.normal(size=x.shape)
                zoo.write(model, "end", layer, y, step=1, depth=depth)
    return dask_svcca.compare(zoo, store, measures=("svcca", "cka"))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return trained(tmp_path_factory.mktemp("kin") / "comparison.zarr", list(BEGAN))


def apart(models: Any) -> list[tuple[str, str]]:
    return [pair for pair in combinations(models, 2) if set(pair) not in RELATIVES]


def test_noise_ceiling__leaves_out_relatives(result: xr.Dataset) -> None:
    found = dask_svcca.noise_ceiling(result, where={"checkpoint": "end"}, measure="cka")
    assert found[["models", "pairs", "relatives"]].to_numpy().tolist() == [[7, 17, 4]] * 3
    values = {
        pair: float(result.cka.sel(representation_a=f"{pair[0]}/end/fc1", representation_b=f"{pair[1]}/end/fc1"))
        for pair in apart(BEGAN)
    }
    assert found.cka[0] == pytest.approx(np.mean(list(values.values())))
    # The error is over families.
    families = [{"s0", "tuned", "again"}, {"s1"}, {"s2"}, {"x", "y"}]
    means = [np.mean([value for pair, value in values.items() if not family & set(pair)]) for family in families]
    assert found.cka_stderr[0] == pytest.approx(np.sqrt(3 / 4 * np.sum((means - np.mean(means)) ** 2)))
    every = dask_svcca.noise_ceiling(result, where={"checkpoint": "end"}, measure="cka", relatives=True)
    assert every[["models", "pairs", "relatives"]].to_numpy().tolist() == [[7, 21, 0]] * 3
    assert "relatives" not in dask_svcca.noise_ceiling(result, by="checkpoint", measure="cka")


def test_layer_identification__is_not_among_relatives(result: xr.Dataset) -> None:
    found = dask_svcca.layer_identification(result, "cka")
    assert found.relatives.item() == 4
    assert found.tested.item() == 2 * 17 * 3
    assert found.chosen.sel(measure="cka", model_a="s0", model_b="again").to_numpy().tolist() == [""] * 3
    assert (found.chosen.sel(measure="cka", model_a="s1", model_b="again") != "").all()
    groups = {"two": ["s0", "tuned"], "all": ["s0", "tuned", "s1"]}
    given = dask_svcca.layer_identification(result, "cka", groups=groups)
    assert given.tested[0].to_numpy().tolist() == [0, 12]
    assert given.relatives.to_numpy().tolist() == [[1, 1]]
    every = dask_svcca.layer_identification(result, "cka", relatives=True)
    assert every.tested.item() == 2 * 21 * 3
    assert every.relatives.item() == 0


def test_judge_measures__is_not_among_relatives(result: xr.Dataset) -> None:
    found = dask_svcca.judge_measures(result, "cka")
    assert found.identification.item() == dask_svcca.layer_identification(result, "cka").accuracy.item()
    assert found.identification_relatives.item() == 4
    assert dask_svcca.judge_measures(result, "cka", relatives=True).identification_tested.item() == 126


def test_judge_measures__knows_relatives_by_checkpoints_that_are_left_out(tmp_path: Path) -> None:
    result = trained(tmp_path / "comparison.zarr", ["s0", "s1", "tuned", "again"])
    for side in "ab":
        parents = result[f"parent_{side}"].where(result[f"checkpoint_{side}"] == "begin", "")
        result = result.assign_coords({f"parent_{side}": parents})
    where = {"model": ["s0", "s1", "again"]}
    found = dask_svcca.judge_measures(result, "cka", where=where, blocks=5)
    assert found.identification_relatives.item() == 1
    assert found.identification_tested.item() == 12
    assert found.identification_stderr_examples.item() >= 0


def test_relatives__alone_are_refused(result: xr.Dataset) -> None:
    where = {"model": ["tuned", "again"]}
    for ask, kind in (
        (dask_svcca.noise_ceiling, IncompatibleError),
        (dask_svcca.layer_identification, ValueError),
        (dask_svcca.judge_measures, ValueError),
    ):
        with pytest.raises(kind, match=r"are relatives, such as '(tuned|again)' and '(tuned|again)'.*relatives=True"):
            ask(result, where=where)
        ask(result, where=where, relatives=True)


def test_figures__of_other_trainings_leave_out_relatives(result: xr.Dataset) -> None:
    pytest.importorskip("matplotlib")
    where = {"model": ["s0", "tuned", "s1"]}
    (pane,) = dask_svcca.plot.identification(result, where=where, measure="cka")
    assert [pane.get_ylabel(), pane.get_xlabel()] == ["a: s0", "b: s1"]
    (pane,) = dask_svcca.plot.seeds(result, where=where, measure="cka")
    names = [("s0", "s1"), ("tuned", "s1")]
    ends = [float(result.cka.sel(representation_a=f"{a}/end/fc1", representation_b=f"{b}/end/fc1")) for a, b in names]
    assert any(np.isclose(line.get_ydata()[-1], np.mean(ends)) for line in pane.lines if len(line.get_ydata()))
    for draw in (dask_svcca.plot.identification, dask_svcca.plot.seeds):
        with pytest.raises(InvalidQuestionError, match="neither began with the other"):
            draw(result, where={"model": ["s0", "tuned"]}, measure="cka")
