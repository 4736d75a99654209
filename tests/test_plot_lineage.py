"""The lineage: checkpoints along their trainings, with an arrow from where each began."""

from __future__ import annotations

import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca

pytest.importorskip("matplotlib")

from dask_svcca import plot


def test_lineage__lines_and_arrows() -> None:
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(MemoryStore(), examples=range(40)) as zoo:
        for model, parent in (("base", None), ("tuned", "base/step2"), ("lost", "elsewhere/end")):
            for step in (0, 1, 2):
                # A parent in its own training is on its line already.
                own = "base/step0" if model == "base" and step == 1 else parent
                zoo.write(model, f"step{step}", "fc", rng.normal(size=(40, 3)), step=step, parent=own)
    result = dask_svcca.compare(zoo)
    pane = plot.lineage(result)
    points = dask_svcca.embedding(dask_svcca.model_similarity(result, where={"checkpoint": "**"}))
    at = {
        (str(model), float(step)): np.array([x, y])
        for model, step, x, y in zip(points.model.data, points.step.data, points.x.data, points.y.data, strict=True)
    }
    for line, model in zip(pane.lines, ("base", "lost", "tuned"), strict=True):
        np.testing.assert_allclose(line.get_xydata(), [at[model, step] for step in (0, 1, 2)], atol=1e-12)
    (arrow,) = pane.texts
    np.testing.assert_allclose(arrow.xy, at["tuned", 0])
    np.testing.assert_allclose(arrow.get_position(), at["base", 2])
    assert pane.get_title().splitlines()[0] == "2 trainings began with another, 1 with one not drawn"
    assert "training" not in plot.lineage(result, where={"model": "base"}).get_title()


def test_figures__take_models_as_they_take_layers() -> None:
    rng = np.random.default_rng(0)
    arrays = {(f"net{n}", "end", f"fc{depth}"): rng.normal(size=(40, 3)) for n in range(4) for depth in range(1 + n)}
    models = dask_svcca.model_similarity(dask_svcca.compare(arrays))
    for draw in (plot.matrix, plot.cluster):
        pane = draw(models)
        assert pane.images[0].get_array().shape == (4, 4)
        assert {text.get_text() for text in pane.get_yticklabels()} == {f"net{n}" for n in range(4)}
    np.testing.assert_array_equal(plot.matrix(models).images[0].get_array(), models.svcca.to_numpy())
    assert plot.embedding(models).get_xlabel() == "near: similar by svcca"
