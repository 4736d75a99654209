"""Imports point one way, heavy packages stay where they belong, and the top level of the repository stays short."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dask_svcca"

# From the bottom. A module imports from its own part and from lower layers: not from a neighbour, not upwards.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "machine", "patterns", "variables"}),
    frozenset({"dims", "precision"}),
    frozenset({"arrays"}),
    frozenset({"examples"}),
    frozenset({"kernels"}),
    frozenset({"devices"}),
    frozenset({"measures", "readings"}),
    frozenset({"evaluate", "stores"}),
    frozenset({"plan"}),
    frozenset({"tasks"}),
    frozenset({"capture", "connections"}),
    frozenset({"analysis", "compat", "pairwise", "run"}),
    frozenset({"sketches"}),
    frozenset({"coarse"}),
    frozenset({"explore", "jobs", "plot"}),
    frozenset({"__init__"}),  # the public names
    frozenset({"demo"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# Where a package may appear; one that is not named here may appear anywhere but in the kernels.
HOMES: dict[str, frozenset[str]] = {
    "dask": frozenset({"connections", "machine", "pairwise", "run", "stores"}),
    "distributed": frozenset({"connections", "jobs", "machine", "run"}),
    "obstore": frozenset({"stores"}),
    "onnx": frozenset({"capture"}),
    "onnxruntime": frozenset({"capture"}),
    "torch": frozenset({"capture", "devices"}),
    "numba": frozenset({"kernels"}),
    "llvmlite": frozenset({"kernels"}),
    "matplotlib": frozenset({"plot"}),
    "tornado": frozenset({"explore"}),
}
KERNELS_MAY_IMPORT = sys.stdlib_module_names | {"numpy", "scipy", "numba", "llvmlite"}

# These parts alone build Dask work, with these names, which mean nothing else.
GRAPH_BUILDING_PARTS = frozenset({"pairwise", "run"})
GRAPH_BUILDERS = frozenset(
    {"apply_gufunc", "blockwise", "delayed", "from_delayed", "map_blocks", "map_overlap", "map_partitions"}
)

TOP_LEVEL = frozenset({"dask_svcca", "jobs", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"})


def violations(source: str, path: str) -> list[str]:
    """Each breach of the rules in the ``source`` of the module at ``path`` (within the package), as a sentence."""
    part = PurePosixPath(path).parts[0].removesuffix(".py")
    if part not in LEVEL:
        return [f"{path}: {part!r} is in no layer; give it a place in LAYERS, or move it into a part that has one"]
    tree = ast.parse(source)
    package = ("dask_svcca", *PurePosixPath(path).parent.parts)
    found = [(line, reason) for line, name in imports(tree, package) if (reason := objection(part, name))]
    if part not in GRAPH_BUILDING_PARTS:
        found += [
            (line, f"{name!r} builds Dask work, which only {' and '.join(sorted(GRAPH_BUILDING_PARTS))} may")
            for line, name in graph_builders(tree)
        ]
    return [f"{path}:{line}: {reason}" for line, reason in sorted(found)]


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that is imported: in functions, under TYPE_CHECKING and by import_module too."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package[: len(package) - level + 1] if level else ()
                base = ".".join([*parents, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def objection(part: str, name: str) -> str | None:
    """Why ``part`` of the package must not import ``name``, or None if it may."""
    head, *rest = name.removeprefix("dask.").split(".") if name.startswith("dask.distributed") else name.split(".")
    if head == "dask_svcca":
        target = rest[0] if rest and rest[0] in LEVEL else "__init__"
        if target == part or LEVEL[target] < LEVEL[part]:
            return None
        return f"{part!r} must not import {name!r}: 'dask_svcca.{target}' is not in a lower layer"
    if part == "kernels" and head not in KERNELS_MAY_IMPORT:
        return f"'kernels' must not import {name!r}: it knows only numpy, scipy, Numba and the standard library"
    if part not in HOMES.get(head, {part}):
        return f"{part!r} must not import {name!r}: {head!r} belongs in {' and '.join(sorted(HOMES[head]))}"
    return None


def graph_builders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each attribute or imported name that builds a Dask graph."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in GRAPH_BUILDERS:
                yield node.lineno, name
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, alias.name) for alias in names if alias.name in GRAPH_BUILDERS)


def strangers(files: Iterable[str]) -> set[str]:
    """The entries at the top of the repository that do not belong there."""
    return {top for file in files if not (top := file.split("/")[0]).startswith(".")} - TOP_LEVEL


def tracked_files() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or no git to ask")
    listing = subprocess.run([git, "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listing.returncode or not listing.stdout:
        pytest.skip(f"git lists no files: {listing.stderr.strip() or 'nothing is committed yet'}")
    return listing.stdout.rstrip("\0").split("\0")


def test_package__follows_the_layers() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    found = [problem for name, path in modules.items() for problem in violations(path.read_text("utf-8"), name)]
    assert not found, "\n".join(["imports against the layers:", *found])


def test_repository__top_level_is_short() -> None:
    assert strangers(tracked_files()) == set()


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("kernels/moments.py", "import dask_svcca.stores.zoo", "'dask_svcca.stores' is not in a lower layer"),
        ("kernels/moments.py", "from dask_svcca import measures", "'dask_svcca.measures' is not in a lower layer"),
        ("kernels/moments.py", "from ..run import compare", "'dask_svcca.run' is not in a lower layer"),
        ("kernels/moments.py", "import xarray as xr", "knows only numpy, scipy"),
        ("kernels/moments.py", "from pandas import DataFrame", "knows only numpy, scipy"),
        ("kernels/deep/er.py", "from ... import plan", "'dask_svcca.plan' is not in a lower layer"),
        ("errors.py", "from dask_svcca.kernels import moments", "'dask_svcca.kernels' is not in a lower layer"),
        ("machine.py", "from dask_svcca import kernels", "'dask_svcca.kernels' is not in a lower layer"),
        ("variables.py", "from dask_svcca import measures", "'dask_svcca.measures' is not in a lower layer"),
        ("stores/zoo.py", "from dask_svcca.plan import tiles", "'dask_svcca.plan' is not in a lower layer"),
        ("stores/zoo.py", "from dask_svcca import compare", "'dask_svcca.__init__' is not in a lower layer"),
        ("stores/zoo.py", "from dask import delayed", "builds Dask work"),
        ("stores/zoo.py", "import dask.array as da\nda.map_blocks(f, x)", "zoo.py:2: 'map_blocks' builds Dask work"),
        (
            "stores/zoo.py",
            "from dask.distributed import Client",
            "'distributed' belongs in connections and jobs and machine and run",
        ),
        (
            "stores/zoo.py",
            "from dask import distributed",
            "'distributed' belongs in connections and jobs and machine and run",
        ),
        ("plan/tiles.py", "import dask", "'dask' belongs in connections and machine and pairwise and run and stores"),
        ("tasks/tile.py", "import dask", "'dask' belongs in connections and machine and pairwise and run and stores"),
        ("pairwise/factors.py", "import dask_svcca.run", "'dask_svcca.run' is not in a lower layer"),
        (
            "pairwise/factors.py",
            "import distributed",
            "'distributed' belongs in connections and jobs and machine and run",
        ),
        ("evaluate/basis.py", "import dask_svcca.stores", "'dask_svcca.stores' is not in a lower layer"),
        ("connections.py", "import dask_svcca.run", "'dask_svcca.run' is not in a lower layer"),
        ("run/graphs.py", "def f():\n    import torch", "graphs.py:2: 'run' must not import 'torch'"),
        ("run/graphs.py", "if TYPE_CHECKING:\n    import onnx", "'onnx' belongs in capture"),
        ("evaluate/group.py", "import torch", "'torch' belongs in capture and devices"),
        ("devices/numpy.py", "import dask_svcca.measures", "'dask_svcca.measures' is not in a lower layer"),
        ("plot/pairs.py", "importlib.import_module('onnxruntime')", "'onnxruntime' belongs in capture"),
        ("analysis/dynamics.py", "import matplotlib.pyplot as plt", "'matplotlib' belongs in plot"),
        ("cli.py", "import tornado.web", "'tornado' belongs in explore"),
        ("__init__.py", "from dask_svcca.cli import main", "'dask_svcca.cli' is not in a lower layer"),
        ("helpers.py", "", "'helpers' is in no layer"),
    ],
)
def test_violations__names_a_wrong_import(path: str, source: str, problem: str) -> None:
    (found,) = violations(source, path)
    assert problem in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/moments.py", "import functools\nimport numpy as np\nimport scipy.linalg\nfrom . import coupling"),
        ("kernels/moments.py", "from dask_svcca.errors import NotFiniteError\nfrom dask_svcca.kernels import coupling"),
        ("measures.py", "from dask_svcca.variables import Variable"),
        ("machine.py", "def f():\n    import dask\n    import distributed"),
        ("pairwise/factors.py", "import dask\nfrom dask_svcca import machine\ndask.delayed(f)"),
        ("stores/zoo.py", "import dask.array as da\nimport zarr\nfrom .. import errors, variables"),
        ("run/graphs.py", "from dask import delayed\nfrom dask.distributed import Client\nx.map_blocks(f)"),
        ("run/__init__.py", "from .graphs import run\nfrom ..plan import Tile"),
        ("capture/torch.py", "import torch\nimport dask_svcca.stores.zoo"),
        ("devices/torch/device.py", "import torch\nfrom dask_svcca.kernels.pairs import Couplings"),
        ("__init__.py", "from dask_svcca.run import compare\nfrom .errors import NotFiniteError"),
        ("cli.py", "import click\nimport dask_svcca\nfrom dask_svcca import capture, plot, run"),
        ("__main__.py", "from dask_svcca.cli import main"),
    ],
)
def test_violations__accepts_a_right_import(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_strangers__names_what_does_not_belong() -> None:
    assert strangers(["README.md", ".github/workflows/ci.yml", "dask_svcca/cli.py"]) == set()
    assert strangers(["README.md", "notes.txt", "scripts/train.py", "scripts/export.py"]) == {"notes.txt", "scripts"}
