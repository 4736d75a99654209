"""Comparisons of random values for the page to show, the server in a thread, and what it answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import dask_svcca
from dask_svcca.explore.server import Explorer
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.stores import _create
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PAIR_STATUS, REPRESENTATION_VARIABLES, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    Name = tuple[str, str, str, float, float]

MEASURES = ("svcca", "pwcca", "gulp")
"""A similarity with its value by chance, one that is not symmetric, and a distance without bound."""


def names_of(models: Sequence[str], steps: Sequence[int], layers: Sequence[str]) -> list[Name]:
    """Model, checkpoint, layer, step and depth of all layers of all checkpoints."""
    return [
        (model, f"step{step}", layer, step, depth)
        for model in models
        for step in steps
        for depth, layer in enumerate(layers)
    ]


def make_comparison(
    place: Path,
    names: Sequence[Name],
    *,
    tile: int = 7,
    measures: Sequence[str] = MEASURES,
    components: int = 4,
    seed: int = 0,
) -> ComparisonStore:
    """A comparison whose values are random: none is equal to another, nor symmetric; each status of a pair is there."""
    rng, count = np.random.default_rng(seed), len(names)
    store = ComparisonStore.create(
        _create.create_root(place, {}),
        parameters={"variance": 0.99, "conv": "mean"},
        tile=tile,
        zoo="zoo.zarr",
        examples_digest="a" * 32,
        n_examples=60,
    )
    own = with_companions(find_measures(list(measures)))
    store.add_results(own, list(measures), {"correlations": (components,)} if components else {}, ())
    store.resize(count)
    text = dict(
        zip(("model", "checkpoint", "layer"), np.array([name[:3] for name in names], dtype=object).T, strict=True)
    )
    text["representation"] = np.array(["/".join(name[:3]) for name in names], dtype=object)
    numbers = {"step": [name[3] for name in names], "depth": [name[4] for name in names]}
    numbers |= {"rank": rng.integers(1, 90, count), "neurons": rng.integers(1, 900, count), "samples": [60] * count}
    numbers["variance_kept"] = rng.uniform(0.99, 1, count)
    known = {**text, **{name: np.asarray(values) for name, values in numbers.items()}}
    empty = np.full(count, "", dtype=object)
    known["problem"] = empty.copy()
    known["problem"][1:2] = [f"{name!r} is constant" for name in text["representation"][1:2]]
    store.write_columns({variable.name: known.get(variable.name, empty) for variable in REPRESENTATION_VARIABLES})
    status = np.full((count, count), PairStatus.DONE, dtype=np.uint8)
    without = [one for one in PairStatus if one not in {PairStatus.DONE, PairStatus.SATURATED}]
    for at, one in enumerate(without):
        status[at % count, (2 * at + 1) % count] = one
    status[count - 1, 0] = PairStatus.SATURATED
    gone = ~np.isin(status, (PairStatus.DONE, PairStatus.SATURATED))
    for measure in own:
        values = rng.uniform(0, 1, (count, count))
        values[gone] = np.nan
        store.array(measure.variable.name)[...] = values
    if components:
        values = np.sort(rng.uniform(0, 1, (count, count, components)), axis=2)[..., ::-1].astype(np.float32)
        values[..., -1] = np.nan
        values[gone] = np.nan
        store.array("correlations")[...] = values
    store.array(PAIR_STATUS.name)[...] = status
    store.consolidate()
    return store


def make_labelled(folder: Path) -> tuple[Path, Path]:
    """A zoo with labels, and a comparison of it: classes show in the last checkpoint of one model, more in one layer.

    Names of models and layers are patterns, which mean themselves alone.
    """
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=60)
    coords = {
        "half": np.arange(60) < 30,
        "label": np.array(["cat", "<b>dog</b>", "emu"])[label],
        "weight": rng.normal(size=60),
        "id": np.arange(60),
        "same": np.zeros(60, dtype=int),
    }
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(60), coords=coords) as zoo:
        for step, strength in ((0, 0.0), (10, 0.5), (20, 2.0)):
            for depth, layer in enumerate(("fc[1], fc2", "*", "out")):
                values = rng.normal(size=(60, 5)) + strength * (1 + depth) * np.eye(5)[label]
                zoo.write("net*", f"step{step}", layer, values, step=step, depth=depth)
        zoo.write("net a", "end", "fc", rng.normal(size=(60, 4)))
    dask_svcca.compare(zoo, folder / "comparison.zarr")
    return folder / "comparison.zarr", folder / "zoo.zarr"


def make_estimated(folder: Path) -> Path:
    """A comparison of two models of two checkpoints of three layers: pairs of one checkpoint are exact, others not."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(60, 5))
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(60)) as zoo:
        for model in ("net a", "net b"):
            for step in (0, 10):
                for depth, layer in enumerate(("conv", "fc", "out")):
                    values = common + (depth + step / 10 + 0.2) * rng.normal(size=(60, 5))
                    zoo.write(model, f"step{step}", layer, values, step=step, depth=depth)
    options = {"measures": ("svcca", "cka"), "variance": None}
    dask_svcca.compare(zoo, folder / "comparison.zarr", **options, preview=True)
    dask_svcca.compare(zoo, folder / "comparison.zarr", **options, pairs="same-checkpoint")
    return folder / "comparison.zarr"


@contextmanager
def serving(*places: Path, cached: bool = False) -> Iterator[Explorer]:
    """The server, in a thread of its own."""
    explorer = Explorer(places, cached=cached)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> None:
        explorer.start()
        started.set()

    def work() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(30)
        yield explorer
    finally:
        asyncio.run_coroutine_threadsafe(explorer.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


NAMES = names_of(["net a", "net b", "wide"], [0, 10, 200], ["conv1", "conv2", "fc", "out"])


def ask(explorer: Explorer, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of an answer; the path is below the token, or whole where it begins with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", explorer.port, timeout=30)
    try:
        connection.request("GET", path if path.startswith("/") else f"/{explorer.token}/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def answered(explorer: Explorer, path: str) -> Any:
    """What JSON says at a path."""
    status, _, body = ask(explorer, path)
    assert status == 200, body
    return json.loads(body)


def block_at(explorer: Explorer, path: str) -> dict[str, Any]:
    """A block, with its arrays."""
    status, _, body = ask(explorer, path)
    assert status == 200, body
    (length,) = struct.unpack_from("<I", body)
    head: dict[str, Any] = json.loads(body[4 : 4 + length])
    shape = len(head["a"]), len(head["b"])
    at = 4 + length
    head["values"] = np.frombuffer(body, "<f8", np.prod(shape), at).reshape(shape)
    head["counts"] = np.frombuffer(body, "<i4", np.prod(shape), at + 8 * np.prod(shape)).reshape(shape)
    if head["estimated"]:
        head["estimated"] = np.frombuffer(body, "<i4", np.prod(shape), at + 12 * np.prod(shape)).reshape(shape)
    if head["pairs"]:
        behind = at + (12 if head["estimated"] is False else 16) * np.prod(shape)
        head["status"] = np.frombuffer(body, "u1", np.prod(shape), behind).reshape(shape)
    return head
