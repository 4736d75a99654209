"""What is promised of sketches of 4,096 numbers, on a zoo of 902 layers: how far they err, and what searches find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from zarr.storage import MemoryStore

import dask_svcca

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.stores.zoo import Zoo

pytestmark = pytest.mark.slow

EXAMPLES, MODELS, LAYERS = 150, 41, 22
SIZE = 4096


class Made(NamedTuple):
    zoo: Zoo
    sketches: xr.Dataset
    cka: npt.NDArray[Any]


def activations() -> dict[str, npt.NDArray[np.float32]]:
    """Networks whose layers drift from what all of them see, each with a spectrum of its own."""
    rng = np.random.default_rng(7)
    seen = rng.standard_normal((EXAMPLES, 40)) * np.geomspace(1, 0.05, 40)
    made = {}
    for model in range(MODELS):
        # Some have a direction that dominates, some are flat.
        spectrum = np.geomspace(1, rng.choice([1.0, 0.1, 0.003]), 24)
        state = seen @ rng.standard_normal((40, 24))
        for layer in range(LAYERS):
            state = state + 0.5 * np.tanh(state @ rng.standard_normal((24, 24)) / 5) + rng.standard_normal(24)
            made[f"net{model:02}/end/layer{layer:02}"] = (state / state.std() * spectrum).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def made() -> Made:
    layers = activations()
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=[f"image-{number}" for number in range(EXAMPLES)])
    for label, x in layers.items():
        zoo.write(*label.split("/"), x)
    centred = [x - x.mean(axis=0) for x in layers.values()]
    grams = np.stack([(x @ x.T).ravel() / np.linalg.norm(x.T @ x) for x in centred])
    sketches = dask_svcca.sketch(zoo, size=SIZE)
    assert sketches.representation.values.tolist() == list(layers)
    return Made(zoo, sketches, grams @ grams.T)


def test_estimates__are_as_near_as_promised(made: Made) -> None:
    found = dask_svcca.estimates(made.sketches)
    rows, columns = np.triu_indices(len(made.cka), 1)
    off = (found.cka.to_numpy() - made.cka)[rows, columns]
    errors = found.cka_error.to_numpy()[rows, columns]
    assert len(made.cka) == 902
    assert made.cka[rows, columns].min() < 0.2
    assert np.sqrt((off**2).mean()) <= 0.02
    assert 0.93 <= np.mean(np.abs(off) < 1.96 * errors) <= 0.97


def test_search__finds_the_nearest_of_500_queries(made: Made) -> None:
    labels = made.sketches.representation.values.tolist()
    before, after = [], []
    for query in np.random.default_rng(0).choice(len(labels), 500, replace=False).tolist():
        true = np.delete(made.cka[query], query)
        wanted = np.sort(true)[-10] - 1e-6
        by_estimate = dask_svcca.search(made.sketches, labels[query])
        ranked = dask_svcca.search(made.sketches, labels[query], zoo=made.zoo)
        for found, counted in ((by_estimate, before), (ranked, after)):
            places = [labels.index(label) for label in found.index]
            counted.append(np.mean(made.cka[query, places] >= wanted))
    assert np.mean(before) >= 0.93
    assert np.mean(after) == 1.0
