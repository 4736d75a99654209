"""What is done with a damaged store or file, and what must be true of it afterwards."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from fuzzing import (
    MEASURES,
    VALUES,
    N,
    Templates,
    command,
    damage_bytes,
    damage_store,
    outcome,
    quietly,
    same_numbers,
    snapshot,
    zipped,
)

import dask_svcca
from dask_svcca.errors import DaskSvccaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import xarray as xr

Action = tuple[str, "Callable[[], Any]"]


class Dice(random.Random):
    """Chance by a seed; for a quick case, what takes long is seldom done."""

    quick = False

    def thorough(self) -> bool:
        return self.random() < (0.08 if self.quick else 0.3)


def check(kind: str, seed: int, templates: Templates, work: Path, *, quick: bool = False) -> None:
    """One case, in an empty folder: damage something, use it, and look at what became of it and of all around it."""
    rng = Dice(f"{kind} {seed}")
    rng.quick = quick
    shutil.rmtree(work, ignore_errors=True)
    (work / "outside" / "kept").mkdir(parents=True)
    (work / "outside" / "kept" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (work / "outside" / "precious").write_text("precious")
    (work / "in").mkdir()
    before = snapshot(work / "outside")
    said: list[str] = []
    try:
        with quietly():
            KINDS[kind](rng, templates, work / "in", work / "outside", said)
        assert snapshot(work / "outside") == before, "something outside has changed"
        assert sorted(path.name for path in work.iterdir()) == ["in", "outside"]
    except BaseException as error:
        error.add_note(f"{kind} {seed}: " + "; ".join(said).replace(str(work), ""))
        raise


def _some(rng: Dice, actions: list[Action], count: int, said: list[str]) -> None:
    for name, action in rng.sample(actions, 1 if rng.quick else count):
        said.append(name)
        outcome(action)


def _damage(rng: Dice, store: Path, outside: Path, said: list[str]) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        said.append(damage_store(rng, store, outside))
        if not store.is_dir():
            break


def zoo(rng: Dice, templates: Templates, work: Path, outside: Path, said: list[str]) -> None:
    """A zoo is damaged."""
    place = templates.copy("zoo.zarr", work)
    _damage(rng, place, outside, said)
    given: Any = place
    if rng.random() < 0.2 and place.is_dir() and not any(path.is_symlink() for path in place.rglob("*")):
        given = zipped(place)
        if rng.random() < 0.5:
            said.append(f"zipped: {damage_bytes(rng, given)}")
    actions = [
        ("read", lambda: _read_zoo(given)),
        ("verify", lambda: dask_svcca.verify(given)),
        ("info", lambda: command("info", given, *rng.choice([(), ("--json",), ("--layers",), ("--layers", "--json")]))),
        ("plan", lambda: str(dask_svcca.plan_comparison(given, work / "new.zarr"))),
        ("write", lambda: _write_zoo(rng, given)),
        ("create", lambda: dask_svcca.create_zoo(given, examples=range(N), exist_ok=True)),
        ("verify command", lambda: command("verify", given, "--json", "--workers", 1)),
    ]
    if not rng.thorough():
        _some(rng, actions[:-1], 2, said)
        return
    said.append("compare")
    found = outcome(lambda: dask_svcca.compare(given, measures=MEASURES))
    same_numbers(found, templates.expected["comparison.zarr"])


def _read_zoo(place: Any) -> None:
    opened = dask_svcca.open_zoo(place)
    repr(opened)
    len(opened.representations)
    opened.unfinished  # noqa: B018 - it is read
    opened.coords  # noqa: B018
    for name in opened:
        array = outcome(lambda name=name: opened[name])
        if not isinstance(array, Exception):
            repr(array)
    outcome(opened.to_datatree)


def _write_zoo(rng: Dice, place: Any) -> None:
    opened = dask_svcca.open_zoo(place, mode="r+")
    x = np.random.default_rng(0).normal(size=(N, 3))
    names = [("net", "step0", "fc"), ("net", "step9", "fc"), ("other", "step0", "/tokens"), ("c", "c", "c")]
    for _ in range(2):
        name, other = rng.choice(names), rng.choice(names)
        change = rng.choice(
            [
                lambda name=name: opened.write(*name, x, overwrite=bool(rng.random() < 0.7)),
                lambda name=name: opened.delete(*name),
                lambda name=name, other=other: opened.rename(name, other),
            ]
        )
        outcome(change)


def comparison(rng: Dice, templates: Templates, work: Path, outside: Path, said: list[str]) -> None:
    """A comparison is damaged, with the subspaces in it."""
    _compared(rng, templates, work, outside, said, "comparison.zarr", {"measures": MEASURES})


def shared(rng: Dice, templates: Templates, work: Path, outside: Path, said: list[str]) -> None:
    """Subspaces that are shared are damaged, or their comparison."""
    templates.copy("subspaces.zarr", work)
    options = {"measures": ("svcca", "pwcca"), "subspaces": work / "subspaces.zarr"}
    if rng.random() < 0.7:
        _damage(rng, work / "subspaces.zarr", outside, said)
        subspaces = work / "subspaces.zarr"
        actions = [
            ("verify subspaces", lambda: dask_svcca.verify(subspaces, repair=rng.random() < 0.5)),
            ("info of subspaces", lambda: command("info", subspaces, *rng.choice([(), ("--json",)]))),
        ]
        _some(rng, actions, 1, said)
        if rng.thorough():
            said.append("compare anew")
            found = outcome(lambda: dask_svcca.compare(templates.folder / "zoo.zarr", work / "new.zarr", **options))
            same_numbers(found, templates.expected["shared.zarr"])
        return
    _compared(rng, templates, work, outside, said, "shared.zarr", options)


def _compared(
    rng: Dice,
    templates: Templates,
    work: Path,
    outside: Path,
    said: list[str],
    name: str,
    options: dict[str, Any],
) -> None:
    place, zoo_place = templates.copy(name, work), templates.folder / "zoo.zarr"
    _damage(rng, place, outside, said)
    actions = [
        ("open", lambda: _read_comparison(place, templates.expected[name])),
        ("query", lambda: dask_svcca.query(place, top=rng.choice([None, 3]))),
        ("query command", lambda: command("query", place, *rng.choice([(), ("--json",), ("--csv",)]))),
        ("info", lambda: command("info", place, *rng.choice([(), ("--json",), ("--timing",), ("--timing", "--json")]))),
        ("verify", lambda: dask_svcca.verify(place, repair=rng.random() < 0.5)),
        ("plan", lambda: dask_svcca.plan_comparison(zoo_place, place, **options)),
    ]
    if not rng.thorough():
        _some(rng, actions, 2, said)
        return
    if rng.random() < 0.4:
        _some(rng, actions[4:], 1, said)
    said.append("compare")
    more = {"measures": (*options["measures"], "procrustes")} if rng.random() < 0.2 else {}
    found = outcome(lambda: dask_svcca.compare(zoo_place, place, **{**options, **more}))
    if not isinstance(found, Exception):
        same_numbers(_loaded(found), templates.expected[name])


def _read_comparison(place: Path, expected: xr.Dataset) -> None:
    dataset = outcome(lambda: dask_svcca.open_comparison(place))
    if isinstance(dataset, Exception):
        return
    repr(dataset)
    same_numbers(_loaded(dataset), expected)


def _loaded(dataset: xr.Dataset) -> xr.Dataset | Exception:
    """xarray reads lazily: what is damaged is named then."""
    try:
        return dataset.load()
    except DaskSvccaError as error:
        return error


def arrays(rng: Dice, templates: Templates, work: Path, _outside: Path, said: list[str]) -> None:
    """A file of arrays is damaged, and imported."""
    x = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
    file = work / rng.choice(["x.npz", "y.npz", "x.npy"])
    if file.suffix == ".npy":
        np.save(file, x)
    else:
        (np.savez if file.stem == "x" else np.savez_compressed)(file, fc1=x, fc2=x * 2)
    action = rng.choice(["bytes", "bytes", "header", "member", "objects"])
    said.append(f"{file.name} {action}")
    if action == "bytes":
        said += [damage_bytes(rng, file) for _ in range(rng.choice([1, 1, 3]))]
    elif action == "header":
        header = {"descr": "<f4", "fortran_order": False, "shape": (N, 3)}
        header[rng.choice(list(header))] = rng.choice([*VALUES, "|O", "<U9", (10**15, 3), (N,), (-1, 3), "<f4,<f8"])
        data = _npy(header, x.tobytes())
        said.append(str(header))
        if file.suffix == ".npy":
            file.write_bytes(data)
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("fc1.npy", data)
    elif action == "member" and file.suffix == ".npz":
        name = rng.choice(
            ["../fc3.npy", "/fc3.npy", "..\\fc3", "x", "folder/", "fc1.npy", "a" * 300, "note.txt", "é.npy"]
        )
        said.append(name)
        with quietly(), zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, rng.choice([b"", b"\x93NUMPY", b"text", _npy({}, b"")]))
    elif action == "objects":
        np.save(work / "o.npy", np.array([None, {}], dtype=object), allow_pickle=True)
        file = work / "o.npy"
    zoo_place = work / "zoo.zarr"
    options = rng.choice([("--layer", "fc"), (), ("--layer", "fc", "--array", "fc1")])
    said.append(command("import", file, "--zoo", zoo_place, "--model", "m", "--checkpoint", "c", *options))
    if rng.random() < 0.5:
        np.save(work / "good.npy", x)
        good = ("import", work / "good.npy", "--zoo", work / "zoo2.zarr", "--model", "m", "--checkpoint", "c")
        said.append(command(*good, "--layer", "fc", "--examples", file))


def _npy(header: Any, data: bytes) -> bytes:
    text = (repr(header) + "\n").encode(errors="replace")
    file = io.BytesIO()
    file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return file.getvalue()


KINDS: dict[str, Callable[..., None]] = {"zoo": zoo, "comparison": comparison, "shared": shared, "arrays": arrays}
