"""The commands as a whole: their help, what they import when, and how they end."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from cli_runner import ROOT, check_command, commands, run
from click.testing import CliRunner

import dask_svcca
from dask_svcca.cli._program import Deferred, program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", sorted(commands()))
def test_help__has_examples_that_parse(name: str) -> None:
    text = run(f"{name} --help").output
    assert "Examples:" in text
    lines = re.sub(r"\\\n\s*", "", text.split("Examples:")[1]).strip().splitlines()
    for line in lines:
        check_command(line.strip())


def test_readme__commands_exist() -> None:
    lines = re.findall(r"`(dask-svcca [^`]+)`|&& (dask-svcca \S+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(lines) > 5
    for line in lines:
        check_command("".join(line))


def test_readme__python_runs(folder: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    if importlib.util.find_spec("torch") is None:
        text = re.sub(r"<!-- needs: torch -->\n+```python\n.*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["result"].sizes == {"representation_a": 3, "representation_b": 3}


def test_version() -> None:
    assert run("--version").output == f"dask-svcca, version {dask_svcca.__version__}\n"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_errors__of_the_system_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["dask_svcca.cli.info"], "read_kind", failing)
    assert run("info zoo.zarr", status=2).stderr == f"Error: {type(error).__name__}: {error}\n"


@pytest.mark.parametrize("deferred", program.commands.values(), ids=lambda deferred: deferred.name)
def test_deferred__says_what_the_command_says(deferred: Deferred) -> None:
    command = deferred.load()
    assert command.name == deferred.name
    for limit in (30, 45, 80, 120):
        assert deferred.get_short_help_str(limit) == command.get_short_help_str(limit)


HEAVY = ("dask", "distributed", "matplotlib", "numpy", "onnx", "pandas", "rich", "scipy", "torch", "xarray", "zarr")


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, where nothing has been imported."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], [], ["nonsense"]])
def test_help__imports_nothing_heavy(arguments: list[str]) -> None:
    script = """
        import atexit, sys
        atexit.register(lambda: print("imported", *sys.modules))
        from dask_svcca.cli import main
        main()
    """
    done = run_script(script, *arguments)
    imported = done.stdout.splitlines()[-1].split()
    assert "click" in imported
    assert "dask_svcca.cli._program" in imported
    assert not set(HEAVY) & set(imported)
    ours = [name for name in imported if name.startswith("dask_svcca.") and ".cli" not in name]
    assert ours == ["dask_svcca.errors"]


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("click", "--help"),
        ("dask_svcca.errors", "--help"),
        ("dask_svcca.cli.compare", "compare --help"),
        ("rich", "info zoo.zarr"),
        ("pandas", "query comparison.zarr"),
        ("distributed", "capture onnx --help"),
    ],
)
def test_main__ctrl_c_during_imports_is_no_traceback(package: str, arguments: str) -> None:
    script = f"""
        import os, signal, sys

        class Interrupts:
            def find_spec(self, name, path=None, target=None):
                if name == {package!r}:
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupts())
        from dask_svcca.cli import main
        main()
    """
    done = run_script(script, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_main__ctrl_c_when_all_is_done_is_no_traceback() -> None:
    """As while threads end, or what zarr left for the end of Python runs."""
    script = """
        import atexit, os, signal
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
        from dask_svcca.cli import main
        main()
    """
    done = run_script(script, "--version")
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.startswith("dask-svcca")


@pytest.mark.parametrize("error", [ImportError("no name 'x'"), ModuleNotFoundError("no module 'y'")])
def test_errors__an_import_that_fails_is_our_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: ImportError
) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("dask_svcca.cli.info"), "read_kind", failing)
    result = CliRunner().invoke(program, ["info", "zoo.zarr"])
    assert result.exception is error


def test_errors__a_missing_extra_is_one_line(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    command = "capture onnx networks/cnn-s0/step00000.onnx --inputs networks/examples.npz --zoo zoo.zarr"
    lines = run(command, status=2).stderr.splitlines()
    assert lines[-1].startswith("Error: capturing needs the package 'onnxruntime'")
    assert lines[-1].endswith("pip install 'dask-svcca[onnx]'")
