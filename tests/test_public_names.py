"""Public names: those there are, where they come from, and that none costs anything before it is used."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import dask_svcca

HEAVY = ("dask", "distributed", "numpy", "pandas", "scipy", "xarray", "zarr")
SOURCE = Path(dask_svcca.__file__)


@functools.cache
def seen_by_type_checkers() -> dict[str, str]:
    """Names that the package imports under TYPE_CHECKING, and from where."""
    return {
        alias.name: str(node.module)
        for node in ast.walk(ast.parse(SOURCE.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dask_svcca")
        for alias in node.names
    }


def imported(script: str) -> set[str]:
    """What a process has imported after some lines of Python."""
    script = f"import sys, dask_svcca; {script}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=SOURCE.parents[1]
    )
    return set(done.stdout.split())


def test_import__imports_nothing_heavy() -> None:
    modules = imported("dir(dask_svcca); dask_svcca.errors")
    assert "dask_svcca.errors" in modules
    assert not modules & {*HEAVY, "importlib.metadata"}


def test_compare__imports_nothing_that_only_few_measures_need() -> None:
    modules = imported("dask_svcca.compare")
    assert "scipy.linalg" in modules
    assert not modules & {"scipy.stats", "matplotlib", "torch"}


def test_dir__shows_the_public_names_and_nothing_else() -> None:
    assert dir(dask_svcca) == dask_svcca.__all__ == sorted(dask_svcca.__all__)


@pytest.mark.parametrize("name", sorted(set(dask_svcca.__all__) - {"__version__"}))
def test_getattr__finds_what_type_checkers_see(name: str) -> None:
    home = seen_by_type_checkers()[name]
    if home == "dask_svcca":
        assert getattr(dask_svcca, name) is importlib.import_module(f"dask_svcca.{name}")
    else:
        assert getattr(dask_svcca, name) is getattr(importlib.import_module(home), name)


def test_type_checkers__see_public_names_only() -> None:
    assert set(seen_by_type_checkers()) == set(dask_svcca.__all__) - {"__version__"}


def test_version__is_that_of_the_distribution() -> None:
    assert dask_svcca.__version__ == version("dask-svcca")


def test_getattr__refuses_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'dask_svcca' has no attribute 'nonsense'"):
        _ = dask_svcca.nonsense
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        from dask_svcca import nonsense  # noqa: F401
