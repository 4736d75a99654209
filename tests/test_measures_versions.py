"""One's own measures: their versions, modules that register them, and how they reach workers."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import xxhash
from click.testing import CliRunner, Result
from measured import BUILT_IN, REFERENCES, make_zoo, related

import dask_svcca
from dask_svcca.cli._program import program
from dask_svcca.errors import MeasureModuleError
from dask_svcca.measures import (
    Measure,
    find_measures,
    load_measures,
    registry,
    with_companions,
)
from dask_svcca.measures.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


MODULE = '''
import functools
from dataclasses import dataclass
from enum import Enum

import numpy as np

from dask_svcca import register_measure

POWER = 3
WEIGHTS = np.arange(3.0)
WORDS = {"b", "a", "c"}
GENERATOR = np.random.default_rng(0)  # its repr has an address


class Kind(Enum):
    MEAN = "mean"
    SUM = "sum"


@dataclass(frozen=True)
class Scale:
    factor: float = 2.0

    def __call__(self, x):
        return self.factor * x


scale = Scale()


def times(a, _weights, b=1.0):
    return a * b


@register_measure("mine", description="mine", own=functools.partial(times, b=2.0), value=lambda s, a, b, _: s[..., 0])
def mine(pairs, kind=Kind.MEAN):
    """Sum of powers."""
    if kind in {Kind.MEAN, Kind.SUM} and GENERATOR and "a" in WORDS:
        return scale(powers(pairs.correlations).sum(axis=-1) + WEIGHTS[0])


def powers(x, depth=0):
    # A helper that is defined after its user, and calls itself.
    return x**POWER if depth else powers(x, 1)


@functools.lru_cache
def unused():
    return 1
'''


# Versions.


def version(folder: Path, source: str) -> str:
    """Version of 'mine' of a module, in this process."""
    path = folder / f"{xxhash.xxh3_64_hexdigest(source.encode())}.py"
    path.write_text(source, "utf-8")
    registry._OWN.pop("mine", None)
    load_measures(str(path))
    return find_measures("mine")[0].version


def test_versions__of_ours_are_stated() -> None:
    every = with_companions(find_measures("all"))
    ours = {measure.name: measure.version for measure in every if measure.name in (*BUILT_IN, *REFERENCES)}
    assert {name: version for name, version in ours.items() if version != "1"} == {"significant": "2", "p_svcca": "2"}


@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_versions__are_the_same_in_another_process(tmp_path: Path, seed: str) -> None:
    expected = version(tmp_path, MODULE)
    assert len(expected) == 32
    # There it is a script, whose sets come in another order.
    show = "from dask_svcca.measures import find_measures\nprint(find_measures('mine')[0].version)\n"
    (tmp_path / "script.py").write_text(MODULE + show, "utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A helper that is defined", "# Another comment,\n    # of two lines: a helper"),
        ('"""Sum of powers."""', '"""Reworded."""'),
        ("return a * b", "return (\n        a\n        * b\n    )"),
        ("def times(a, _weights, b=1.0):", "def times(a: float, _weights: float, b: float = 1.0) -> float:"),
        ("import functools", "import functools\nimport math"),
        ("return 1", "return 2"),
        ('description="mine"', 'description="reworded", reference="me", invariances=("translation",)'),
        ("default_rng(0)", "default_rng(1)"),
    ],
    ids=["comment", "docstring", "format", "annotations", "lines", "another function", "description", "no repr"],
)
def test_versions__ignore_what_computes_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert old in MODULE
    assert version(tmp_path, MODULE) == version(tmp_path, MODULE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sum(axis=-1)", "max(axis=-1)"),
        ("return a * b", "return a / b"),
        ("POWER = 3", "POWER = 4"),
        ("np.arange(3.0)", "np.arange(4.0)"),
        ('{"b", "a", "c"}', '{"b", "a", "d"}'),
        ("x**POWER", "x**-POWER"),
        ("b=2.0", "b=3.0"),
        ("b=1.0", "b=3.0"),
        ("kind=Kind.MEAN", "kind=Kind.SUM"),
        ("scale = Scale()", "scale = Scale(3.0)"),
        ("self.factor * x", "self.factor + x"),
        ("s[..., 0]", "s[..., -1]"),
        ('description="mine"', 'description="mine", directions="kept"'),
        ('description="mine"', 'description="mine", saturates="b"'),
        ('description="mine"', 'description="mine", valid_range=(0, 2)'),
        ("def powers(", "@functools.lru_cache\ndef powers("),
        ("def powers(", "@np.vectorize\ndef powers("),
    ],
)
def test_versions__differ_where_another_thing_is_computed(tmp_path: Path, old: str, new: str) -> None:
    assert old in MODULE
    assert version(tmp_path, MODULE) != version(tmp_path, MODULE.replace(old, new, 1))


@pytest.mark.parametrize("wrapper", ["functools.lru_cache", "np.vectorize", "twice"])
def test_versions__see_through_decorators(tmp_path: Path, wrapper: str) -> None:
    twice = "def twice(f):\n    return lambda *a: f(*a) * 2\n\n\n"
    decorated = MODULE.replace("def powers(", f"{twice}@{wrapper}\ndef powers(")
    assert version(tmp_path, decorated) != version(tmp_path, decorated.replace("x**POWER", "x**-POWER"))
    assert version(tmp_path, decorated) != version(tmp_path, MODULE)


def test_versions__are_those_of_what_stands_now(tmp_path: Path) -> None:
    first = version(tmp_path, MODULE)
    home = sys.modules[registry._OWN["mine"].sums.__module__]
    # As in a notebook: a constant is changed, and the measure that uses it is not registered again.
    home.POWER = 5  # type: ignore[attr-defined]
    assert find_measures("mine")[0].version != first
    home.POWER = 3  # type: ignore[attr-defined]
    assert find_measures("mine")[0].version == first
    # A file may be edited while what it was is still in use.
    Path(str(home.__file__)).write_text("# new\n" + MODULE.replace("axis=-1", "axis=+1"), "utf-8")
    assert find_measures("mine")[0].version == first


def test_versions__do_not_change_by_being_used(tmp_path: Path) -> None:
    first = version(tmp_path, MODULE)
    (measure,) = find_measures("mine")
    for _ in range(100):
        measure.own(1.0, 1.0)  # type: ignore[arg-type]
    assert find_measures("mine")[0].version == first


def without_source(formula: str) -> str:
    names: dict[str, Any] = {"__name__": "console", "POWER": 2}
    exec(f"def outer(shift):\n    def mine(pairs):\n        {formula}\n    return mine\nmine = outer(1)", names)
    return version_of(Measure("mine", "mine", names["mine"]))


def test_versions__without_source_are_those_of_the_code() -> None:
    first = without_source("return [x**POWER + shift for x in pairs]")
    assert first == without_source("return [x**POWER + shift   for x in pairs]  # the same")
    for formula in (
        "return [x**POWER + 2 for x in pairs]",
        "return [x**POWER - shift for x in pairs]",
        "return len(pairs)",
    ):
        assert first != without_source(formula)


def test_versions__of_lambdas_on_one_line() -> None:
    functions = lambda p: p + 1, lambda p: p + 2, lambda p: p + 1
    first, second, same = (Measure("mine", "mine", function) for function in functions)
    assert version_of(first) != version_of(second)
    assert version_of(first) == version_of(same)


# Modules that register.


def test_load_measures__from_a_file(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text(MODULE, "utf-8")
    assert load_measures(str(tmp_path / "numpy.py")) == ("mine",)
    # Once more is nothing new, and a module of the file's name is not hidden by it.
    assert load_measures(str(tmp_path / "numpy.py")) == ("mine",)
    assert sys.modules["numpy"] is np


def test_load_measures__from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "laboratory").mkdir()
    (tmp_path / "laboratory" / "__init__.py").write_text("", "utf-8")
    (tmp_path / "laboratory" / "similar.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_measures("laboratory.similar") == ("mine",)
    # Python imports a module once.
    assert load_measures("laboratory.similar") == ("mine",)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("nowhere.py", None, "cannot load measures from '.*nowhere.py': there is no such file"),
        ("nowhere_at_all", None, "cannot load measures from 'nowhere_at_all': there is no such module; give a dotted"),
        ("json.nowhere", None, "cannot load measures from 'json.nowhere': there is no such module"),
        ("json", None, "cannot load measures from 'json': it registers none. Decorate a function with"),
        ("", None, "cannot load measures from '': importing it raised ValueError"),
        ("mine.py", "x = 1 / 0", "from '.*mine.py': importing it raised ZeroDivisionError: division by zero"),
        ("mine.py", "def f(:", "importing it raised SyntaxError: invalid syntax"),
        (
            "mine.py",
            "import missing_helper",
            "importing it raised ModuleNotFoundError: No module named 'missing_helper'",
        ),
        ("mine.py", "raise SystemExit(3)", "importing it raised SystemExit: 3"),
        ("mine.py", "", "it registers none"),
        ("mine.py", MODULE.replace('"mine"', '"cka"', 1), "MeasureExistsError: there is a measure 'cka'"),
        ("mine.py", MODULE + "\n1 / 0", "ZeroDivisionError"),
    ],
)
def test_load_measures__says_what_is_wrong(tmp_path: Path, module: str, source: str | None, message: str) -> None:
    if module.endswith(".py"):
        module = str(tmp_path / module)
    if source is not None:
        Path(module).write_text(source, "utf-8")
    before = dict(registry._OWN)
    with pytest.raises(MeasureModuleError, match=message):
        load_measures(module)
    assert before == registry._OWN


class Slotted:
    __slots__ = ("power",)


class Inheriting(Slotted):
    __slots__ = ()

    def __init__(self, power: int) -> None:
        self.power = power


class Powers(list):  # type: ignore[type-arg]
    pass


class Tagged(dict):  # type: ignore[type-arg]
    def __init__(self, power: int) -> None:
        self.power = power


def long_series(last: float) -> pd.Series[float]:
    values = np.arange(5000.0)
    values[2500] = last
    return pd.Series(values)


@pytest.mark.parametrize(
    "make",
    [
        Inheriting,
        Tagged,
        lambda power: Powers([power]),
        lambda power: scipy.sparse.csr_array([[0, power]]),
        scipy.stats.norm,
        lambda power: SimpleNamespace(values=np.full(5000, power)),
        lambda power: np.polynomial.Polynomial([1.0, 1 + power * 1e-12]),
        lambda power: np.zeros(2, dtype=[("a", int), (f"b{power}", int)]),
        long_series,
    ],
)
def test_versions__count_objects_by_what_is_in_them(make: Callable[[int], object]) -> None:
    def with_(held: object) -> str:
        def sums(pairs: Any) -> Any:
            return held

        return version_of(Measure("mine", "mine", sums))

    assert with_(make(2)) == with_(make(2))
    assert with_(make(2)) != with_(make(3))


# How they reach workers.


@pytest.mark.parametrize("imported", [False, True])
def test_own_measures__are_pickled_with_their_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: bool
) -> None:
    # Modules of other tests may be in it.
    before = cloudpickle.list_registry_pickle_by_value()
    (tmp_path / "mine.py").write_text(MODULE, "utf-8")
    if imported:
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.import_module("mine")
    else:
        load_measures(str(tmp_path / "mine.py"))
    # Plain pickle, in a process without the module and without its file.
    data = pickle.dumps((find_measures("mine"), find_measures("svcca")))
    (tmp_path / "mine.py").unlink()
    sys.modules.pop("mine", None)
    assert cloudpickle.list_registry_pickle_by_value() == before
    script = "import pickle, sys; (m,), _ = pickle.load(sys.stdin.buffer); print(m.name, m.version, m.own(4.0, 2.0))"
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["mine", find_measures("mine")[0].version, "8.0"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["compare", *arguments], prog_name="dask-svcca")


OWN = """
import numpy as np

import dask_svcca


def powers(x):
    return x**3


@dask_svcca.register_measure("cubes", description="mean cube of the correlations", directions="kept")
def cubes(pairs):
    return powers(pairs.correlations).sum(axis=-1)
"""


@pytest.mark.slow
def test_measures_from__reach_workers_that_do_not_have_the_module(tmp_path: Path) -> None:
    layers = related(60, 6, 5, 4)
    make_zoo(layers, tmp_path / "zoo.zarr")
    (tmp_path / "cubes.py").write_text(OWN, "utf-8")
    places = str(tmp_path / "zoo.zarr"), str(tmp_path / "comparison.zarr")
    options = ("--workers", "2", "--worker-memory", "1GiB", "--keep", "correlations", "--measure", "cubes")
    result = run(*places, *options, "--measures-from", str(tmp_path / "cubes.py"))
    assert result.exit_code == 0, result.output
    found = dask_svcca.open_comparison(places[1]).load()
    expected = (found.correlations**3).mean("component")
    np.testing.assert_allclose(found.cubes, expected, rtol=0, atol=1e-6)
    assert found.cubes.attrs["long_name"] == "mean cube of the correlations"


def test_measures_from__says_what_is_wrong(tmp_path: Path) -> None:
    make_zoo(related(20, 3, 2), tmp_path / "zoo.zarr")
    places = str(tmp_path / "zoo.zarr"), str(tmp_path / "comparison.zarr")
    result = run(*places, "--measures-from", "nowhere_at_all")
    assert result.exit_code == 2
    assert "Error: cannot load measures from 'nowhere_at_all': there is no such module" in result.output
    (tmp_path / "cubes.py").write_text(OWN, "utf-8")
    result = run(*places, "--measures-from", str(tmp_path / "cubes.py"), "--measure", "cube", "--dry-run")
    assert result.exit_code == 2
    assert "no measure 'cube'; there are cca, cka, cka_debiased, cubes" in " ".join(result.output.split())
    assert not (tmp_path / "comparison.zarr").exists()
