"""Damage to stores and files at random, by a seed, and what may come of it: an error of this package, nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from click.testing import CliRunner

import dask_svcca
from dask_svcca.cli._program import program
from dask_svcca.errors import DaskSvccaError
from dask_svcca.stores._documents import sealed
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

N = 12
MEASURES = ("svcca", "cka")
STRANGE_NAMES = (
    *(".DS_Store", "._zarr.json", "._activations", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints", "c", "0", "1e9"),
    *("zarr.json.0.partial", "__MACOSX", "note.txt", "%", "%2E%2E", "con", "a b", "é", "zarr.json", "subspaces"),
)
VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 1.5, 10**15, 2**70, -(2**63), float("nan"), 1e308, "", "x", "..", "/outside"),
    *("../../outside", "NaN", "float16", "int64", "complex128", "bytes", "zstd", "a" * 300, "\x00", "\ud800", [], {}),
    *([1], [[]], [None], ["x", "x"], {"name": "unknown"}, [10**15, 10**15], [-1, 3], ["example", "neuron"], [{}]),
)


class Templates:
    """A zoo with layers of all kinds, its comparison, and one that shares subspaces; made once, and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        common = rng.normal(size=(N, 3))
        mask = np.arange(4) < rng.integers(1, 5, (N, 1))
        coords = {"label": [f"class {number % 3}" for number in range(N)], "mask": mask}
        with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(N), coords=coords) as zoo:
            for step in range(2):
                dense = (common @ rng.normal(size=(3, 4)) + rng.normal(size=(N, 4))).astype("float32")
                zoo.write("net", f"step{step}", "fc", dense, step=step, depth=3, compression=("lz4", "none")[step])
            image = rng.normal(size=(N, 3, 2, 2))
            zoo.write("net", "step0", "conv", image, depth=1, compression="zstd", dims=AXES)
            zoo.write("other", "step0", "/tokens", rng.normal(size=(N, 4, 3)).astype("float16"))
        with quietly():
            dask_svcca.compare(zoo, folder / "comparison.zarr", measures=MEASURES)
            dask_svcca.compare(
                zoo, folder / "shared.zarr", measures=("svcca", "pwcca"), subspaces=folder / "subspaces.zarr"
            )
            self.expected = {
                place: dask_svcca.open_comparison(folder / place).load() for place in ("comparison.zarr", "shared.zarr")
            }

    def copy(self, name: str, target: Path) -> Path:
        """A store of its own, made of links to the files of the template."""
        return Path(shutil.copytree(self.folder / name, target / name, copy_function=os.link))


AXES = ("example", "height", "width", "channel")


class quietly:
    """Dask in this thread, and no warnings: what few examples score is not the question."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._dask = dask.config.set(scheduler="synchronous")
        self._dask.__enter__()

    def __exit__(self, *error: object) -> None:
        self._dask.__exit__(*error)
        self._warnings.__exit__(*error)  # type: ignore[arg-type]


def damage_store(rng: random.Random, store: Path, outside: Path) -> str:
    """Do something to a store, and say what."""
    files, folders = [], []
    for top, _, names in sorted(os.walk(store)):
        folders.append(Path(top))
        files += [path for name in sorted(names) if not (path := Path(top) / name).is_symlink()]
    documents = [path for path in files if path.name == "zarr.json"]
    chunks = [path for path in files if path.name != "zarr.json"]
    kind = rng.choices(["json", "bytes", "chunk", *_DAMAGES], [12, 2, 5, 2, 2, 2, 1, 1])[0]
    if not files:
        return "nothing is left"
    if kind in _DAMAGES:
        return _DAMAGES[kind](rng, files, folders, outside)
    file = rng.choice((chunks if kind == "chunk" else documents) or files)
    return f"{file}: {damage_document(rng, file) if kind == 'json' else damage_bytes(rng, file)}"


def _remove(rng: random.Random, files: list[Path], folders: list[Path], _outside: Path) -> str:
    victim = rng.choice([*files, *folders[1:]])
    _clear(victim)
    return f"{victim}: removed"


def _stray(rng: random.Random, _files: list[Path], folders: list[Path], _outside: Path) -> str:
    return stray(rng, rng.choice(folders))


def _lead_away(rng: random.Random, files: list[Path], folders: list[Path], outside: Path) -> str:
    victim = rng.choice([*files, *folders[1:]])
    if rng.random() < 0.5:
        victim = victim.with_name(rng.choice(STRANGE_NAMES))
    _clear(victim)
    target = rng.choice([outside, outside / "kept", outside / "nothing", folders[0], victim.parent, victim])
    victim.symlink_to(target)
    return f"{victim}: a link to {target}"


def _swap(rng: random.Random, files: list[Path], _folders: list[Path], _outside: Path) -> str:
    one, other = rng.choice(files), rng.choice(files)
    first, second = one.read_bytes(), other.read_bytes()
    _write(one, second)
    _write(other, first)
    return f"{one} and {other} swapped"


def _replace(rng: random.Random, _files: list[Path], folders: list[Path], _outside: Path) -> str:
    victim, other = rng.choice(folders), rng.choice(folders)
    if other == victim or victim in other.parents or other in victim.parents:
        return stray(rng, victim)
    _clear(victim)
    if rng.random() < 0.3:
        victim.write_bytes(b"{}")
        return f"{victim}: a file"
    shutil.copytree(other, victim, symlinks=True)
    return f"{victim}: a copy of {other}"


_DAMAGES = {"remove": _remove, "stray": _stray, "link": _lead_away, "swap": _swap, "replace": _replace}


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(file: Path, data: bytes) -> None:
    """Templates are linked, not copied: the file itself stays as it is."""
    _clear(file)
    file.write_bytes(data)


def stray(rng: random.Random, folder: Path) -> str:
    place = folder / rng.choice(STRANGE_NAMES)
    if place.exists():
        return f"{place}: was there"
    if rng.random() < 0.5:
        place.write_bytes(rng.choice([b"", b"\x00\x05\x16\x07", b"{}", b"[]", rng.randbytes(40)]))
    else:
        (place / rng.choice(STRANGE_NAMES)).mkdir(parents=True)
        _write(place / "zarr.json", rng.choice([b"", b"{}", b'{"zarr_format": 3, "node_type": "group"}']))
    return str(place)


def damage_document(rng: random.Random, file: Path) -> str:
    """Replace, remove or add a value somewhere in a JSON document."""
    if not file.is_file():
        return "not a file"
    try:
        document = json.loads(file.read_bytes())
    except (RecursionError, ValueError):
        return damage_bytes(rng, file)
    places = list(_places(document))
    if not places or rng.random() < 0.02:
        document, said = rng.choice(VALUES), "replaced as a whole"
    else:
        holder, key = rng.choice(places)
        said = f"{key!r} was {str(holder[key])[:60]!r}"
        action = rng.random()
        if action < 0.65:
            holder[key] = rng.choice(VALUES)
            said += f", now {holder[key]!r}"
        elif action < 0.85:
            del holder[key]
            said += ", removed"
        elif isinstance(holder, list):
            holder.insert(key, rng.choice(VALUES))
            said += f", {holder[key]!r} before it"
        else:
            other, there = rng.choice(places)
            holder[key], other[there] = other[there], holder[key]
            said += f", swapped with {there!r}"
    if rng.random() < 0.5:
        said += _seal(document)
    try:
        text = json.dumps(document)
    except ValueError:
        text = "[" * 100_000
    _write(file, text.encode())
    return said


def _seal(document: Any) -> str:
    """Seal metadata again, as whoever means harm would; an index of subspaces would then be another that is valid."""
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or "members" in attributes:
        return ""
    rest = {name: value for name, value in document.items() if name not in {"attributes", "consolidated_metadata"}}
    try:
        document["attributes"] = sealed(attributes, rest if document.get("node_type") == "array" else None)
    except (RecursionError, ValueError):
        return ""
    return ", sealed"


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key
        yield from _places(node[key])


def damage_bytes(rng: random.Random, file: Path) -> str:
    """Cut, flip, empty, lengthen or replace the bytes of a file."""
    if not file.is_file():
        return "not a file"
    data = bytearray(file.read_bytes())
    action = rng.choice(["flip", "flip", "cut", "empty", "longer", "random", "deep", "header"])
    if action == "flip" and data:
        for _ in range(rng.choice([1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif action == "header" and data:
        data[rng.randrange(min(16, len(data)))] = rng.randrange(256)
    elif action == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif action == "empty":
        data = bytearray()
    elif action == "longer":
        data += rng.randbytes(rng.randrange(1, 30))
    elif action == "random":
        data = bytearray(rng.randbytes(len(data)))
    elif action == "deep":
        data = bytearray(b"[" * 100_000)
    _write(file, bytes(data))
    return action


def outcome(function: Callable[[], Any]) -> Any:
    """What a function returns, or the error of this package that it raises; any other is a fault."""
    try:
        return function()
    except DaskSvccaError as error:
        text = str(error)
        assert text
        assert "\n" not in text.strip()
        return error


def command(*words: object) -> str:
    """Output of a command, which must end without a traceback."""
    result = CliRunner().invoke(program, list(map(str, words)), prog_name="dask-svcca")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in {0, 1, 2}, result.output
    return result.output


def snapshot(folder: Path) -> dict[str, str]:
    """Everything in a folder, with its contents."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def same_numbers(found: Any, expected: Any) -> None:
    """Where both are of the same activations, read alike, values are equal; others must be marked as not done."""
    if isinstance(found, Exception):
        return
    before = {key: number for number, key in enumerate(expected["subspace_a"].to_numpy())}
    keys = found["subspace_a"].to_numpy()
    known = np.array([number for number, key in enumerate(keys) if key in before], dtype=int)
    there = np.array([before[keys[number]] for number in known], dtype=int)
    status = found["pair_status"].to_numpy()
    done = np.isin(status, (PairStatus.DONE, PairStatus.SATURATED))
    for name in MEASURES:
        if name not in found or name not in expected:
            continue
        values = found[name].to_numpy()
        assert not np.isnan(values[done]).any(), f"{name} has NaN that is marked as done"
        block = done[np.ix_(known, known)]
        # Sums are in another order where other representations share a pack.
        np.testing.assert_allclose(
            values[np.ix_(known, known)][block],
            expected[name].to_numpy()[np.ix_(there, there)][block],
            rtol=0,
            atol=1e-12,
            err_msg=name,
        )


def zipped(folder: Path) -> Path:
    place = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(place, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return place
