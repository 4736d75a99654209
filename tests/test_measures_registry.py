"""Measures by name; one's own, their versions, and modules that register them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure_oracles as oracle
import numpy as np
import pytest
import xxhash
from click.testing import CliRunner, Result
from measured import BUILT_IN, REFERENCES, compared, make_zoo, related

import dask_svcca
from dask_svcca.cli._program import program
from dask_svcca.cluster import connect
from dask_svcca.errors import InvalidMeasureError, MeasureExistsError, MeasureModuleError, UnknownMeasureError
from dask_svcca.measures import (
    Measure,
    find_measures,
    load_measures,
    register_measure,
    registry,
    with_companions,
)
from dask_svcca.measures.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.kernels.pairs import PairStack


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


# By name.


def test_find_measures__all_are_all_but_the_references() -> None:
    names = {measure.name for measure in find_measures("all")}
    assert names >= set(BUILT_IN)
    assert not names & set(REFERENCES)
    assert {measure.name for measure in with_companions(find_measures(BUILT_IN))} == {*BUILT_IN, *REFERENCES}


def test_measures__describe_themselves() -> None:
    found = compared(*related(30, 3, 2))
    for name in (*BUILT_IN, *REFERENCES):
        attributes = found[name].attrs
        assert attributes["sense"] in {"similarity", "distance", "reference"}
        assert len(attributes["long_name"]) > 20
        assert attributes["reference"]
        assert attributes["valid_range"][0] in {0, -1}
        assert attributes["sense"] == "reference" or "translation" in attributes["invariant_to"]


def test_compare__parameters_stand_side_by_side() -> None:
    layers = related(80, 6, 5)
    names = (
        "gulp(lambda=1)",
        "gulp",
        "gulp(lambda=1e-4)",
        "partial_procrustes(alpha=1)",
        "partial_procrustes(alpha=0.0)",
    )
    found = compared(*layers, measures=(*names, "procrustes", "cca"), variance=None, precision="float64")
    x, y = (layer - layer.mean(axis=0) for layer in layers)
    for name, lam in (("gulp(lambda=1)", 1), ("gulp", 0.01), ("gulp(lambda=1e-4)", 1e-4)):
        assert float(found[name][0, 1]) == pytest.approx(oracle.gulp(x, y, lam), rel=1e-9)
    np.testing.assert_allclose(found["partial_procrustes(alpha=1)"], found.procrustes, rtol=1e-10)
    # Whitened, it is the sum of the correlations over the geometric mean of the ranks.
    assert float(found["partial_procrustes(alpha=0.0)"][0, 1]) == pytest.approx(
        float(found.cca[0, 1]) * 5 / np.sqrt(30)
    )
    again = ("gulp(lambda=1)", "cca")
    assert [measure.name for measure in find_measures((*again, *again))] == list(again)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svca", "no measure 'svca'; there are .*cka, .*gulp\\(lambda=...\\), .*svcca, .*or 'all'"),
        ("gulp(alpha=1)", "gulp takes one number, lambda=...; got 'gulp\\(alpha=1\\)'"),
        ("gulp(lambda='x')", "gulp takes one number"),
        ("gulp(lambda=x)", "gulp takes one number"),
        ("gulp(lambda=0)", "gulp's lambda is above 0, a share of the variance; got 0.0"),
        ("gulp(lambda=1e999)", "gulp's lambda is above 0"),
        ("partial_procrustes(alpha=1.5)", "alpha is from 0 .* to 1 .*; got 1.5"),
        ("cka(lambda=1)", "no measure 'cka\\(lambda=1\\)'"),
        ("gulp(lambda=1", "no measure"),
    ],
)
def test_find_measures__says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(UnknownMeasureError, match=message):
        find_measures(("svcca", name))


# One's own.


@pytest.fixture(autouse=True)
def no_measures_left() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(registry._OWN)
    yield
    registry._OWN.clear()
    registry._OWN.update(before)


@pytest.fixture
def max_correlation() -> str:
    """A measure that only this process knows of."""
    name = "max_correlation"

    @register_measure(
        name,
        description="largest canonical correlation",
        directions="kept",
        value=lambda sums, _a, _b, _pairs: sums[..., 0],
        invariances=("translation",),
    )
    def largest(pairs: PairStack) -> np.ndarray:
        return pairs.correlations[:, 0]

    return name


def test_register_measure__is_compared_by(max_correlation: str) -> None:
    x, y = related(60, 6, 5)
    found = compared(x, y, measures=("svcca", max_correlation), keep="correlations", precision="float64")
    np.testing.assert_allclose(found[max_correlation], found.correlations.max("component"), rtol=0, atol=1e-6)
    assert found[max_correlation].attrs["sense"] == "similarity"
    assert max_correlation in {measure.name for measure in find_measures("all")}


def test_register_measure__workers_need_not_know_it(max_correlation: str, tmp_path: Path) -> None:
    layers = related(60, 6, 5, 4)
    expected = compared(*layers, measures=max_correlation)
    zoo = make_zoo(layers, tmp_path / "zoo.zarr")
    with connect(workers=1, memory="1GiB") as client:
        known = client.run(
            lambda: "max_correlation" in __import__("dask_svcca.measures.registry").measures.registry._OWN
        )
        assert not any(known.values())
        found = dask_svcca.compare(zoo, tmp_path / "comparison.zarr", measures=max_correlation, client=client).load()
    np.testing.assert_array_equal(found[max_correlation], expected[max_correlation])


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["svcca", "gulp", "null_cka"])
def test_register_measure__does_not_replace_ours(name: str, replace: bool) -> None:
    with pytest.raises(MeasureExistsError, match=f"there is a measure '{name}' in dask-svcca already"):
        register_measure(name, description="mine", replace=replace)


@pytest.mark.parametrize("name", ["1st", "my measure", "a/b", ""])
def test_register_measure__needs_a_name(name: str) -> None:
    with pytest.raises(InvalidMeasureError, match="is not a valid name for a measure"):
        register_measure(name, description="mine")


@pytest.mark.parametrize("name", ["pair_status", "correlations", "svcca_by_frequency", "rank_a", "frequency_y"])
def test_register_measure__does_not_hide_what_else_is_stored(name: str) -> None:
    with pytest.raises(InvalidMeasureError, match=f"{name!r} is the name of another variable of a comparison"):
        register_measure(name, description="mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "kept"}, "measure 'mine' has an option 'direction', which is not one; there are companions, "),
        ({"version": "2"}, "has an option 'version'"),
        ({"directions": "keep"}, "directions='keep' of measure 'mine' is not valid; there are 'kept', 'all'"),
        ({"saturates": "a"}, "saturates='a' of measure 'mine' is not valid; there are 'never', 'either', 'b'"),
        ({"role": "metric"}, "role='metric'"),
        ({"needs": ("loading",)}, "needs=\\('loading',\\) of measure 'mine' is not valid; there are 'spectrum', "),
        ({"needs": "spectra"}, "needs='spectra'"),
        ({"companions": ("null_mine",)}, "'mine' has a companion that is not registered: no measure 'null_mine'"),
    ],
)
def test_register_measure__says_which_option_is_not_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidMeasureError, match=message):
        register_measure("mine", description="mine", **options)


def test_register_measure__all_is_not_a_name() -> None:
    with pytest.raises(InvalidMeasureError, match="'all' stands for all measures"):
        register_measure("all", description="mine")


def test_register_measure__another_of_that_name_asks_for_replace() -> None:
    def register(which: int, **options: Any) -> None:
        register_measure("mine", **options)(lambda pairs: pairs.correlations[:, which])

    register(0, description="first")
    first = find_measures("mine")
    register(0, description="reworded")
    assert find_measures("mine")[0].description == "reworded"
    for options in ({"which": 1}, {"which": 0, "symmetric": False}):
        with pytest.raises(MeasureExistsError, match=r"a measure 'mine' already, .*replace=True"):
            register(description="another", **options)
    assert find_measures("mine")[0].version == first[0].version
    register(1, description="another", replace=True)
    (found,) = find_measures("mine")
    assert found.description == "another"
    assert found.version != first[0].version


def test_companions__are_shared_and_a_variable_names_its_own() -> None:
    register_measure("null_mine", description="a reference of my own", role="reference")(
        lambda pairs: np.ones(len(pairs.coupling))
    )
    for name in ("mine", "mine_too"):
        register_measure(name, description="mine", companions=("null_mine", "spurious_cca"))(
            lambda pairs: pairs.correlations.sum(axis=-1)
        )
    found = compared(*related(30, 3, 2), measures=("mine", "mine_too", "svcca"))
    assert list(found.null_mine.attrs["companions"]) == []
    for name in ("mine", "mine_too"):
        assert list(found[name].attrs["companions"]) == ["null_mine", "spurious_cca"]
    assert list(found.svcca.attrs["companions"]) == ["null_svcca", "significant", "spurious"]
    wanted = find_measures(("mine", "mine_too"))
    names = [measure.name for measure in with_companions(wanted)]
    assert names == ["mine", "mine_too", "null_mine", "spurious_cca"]


def test_own_measures__are_pickled_with_their_functions(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE, "utf-8")
    load_measures(str(tmp_path / "mine.py"))
    # Plain pickle, in a process without the module and without its file.
    data = pickle.dumps((find_measures("mine"), find_measures("svcca")))
    (tmp_path / "mine.py").unlink()
    script = "import pickle, sys; (m,), _ = pickle.load(sys.stdin.buffer); print(m.name, m.version, m.own(4.0, 2.0))"
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["mine", find_measures("mine")[0].version, "8.0"]


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
    assert {measure.version for measure in every if measure.name in (*BUILT_IN, *REFERENCES)} == {"1"}


@pytest.mark.parametrize("seed", ["0", "1"])
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


# The command line.


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
