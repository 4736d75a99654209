"""Runs commands as they are typed, and looks up those there are."""

from __future__ import annotations

import contextlib
import importlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.testing import CliRunner, Result

from dask_svcca.cli._program import Deferred, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).parents[1]
N = 40
"""Examples of the zoos."""


def run(command: str, status: int = 0) -> Result:
    """Run a command as it is typed, without the ``dask-svcca`` before it."""
    result = CliRunner().invoke(program, shlex.split(command), prog_name="dask-svcca")
    assert result.exit_code == status, result.output
    # A traceback on the screen is for our mistakes only.
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def without_cluster(patch: pytest.MonkeyPatch) -> None:
    """Have commands run on Dask's local scheduler: a cluster takes seconds to start."""

    @contextlib.contextmanager
    def connected(*_: Any, **__: Any) -> Iterator[None]:
        yield None

    for module in ("capture", "compare", "demo", "sketch", "verify"):
        patch.setattr(importlib.import_module(f"dask_svcca.cli.{module}"), "connected", connected)


def activations(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, *shape)).astype("float32")


def commands() -> dict[str, click.Command]:
    """All commands that do something, by what is typed."""
    found: dict[str, click.Command] = {}
    for name, deferred in program.commands.items():
        assert isinstance(deferred, Deferred)
        command = deferred.load()
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


def check_command(line: str) -> None:
    """Whether a line that is shown to people names a command and options that exist."""
    program, *words = shlex.split(line, comments=True)
    assert program == "dask-svcca"
    name = next(
        (name for name in sorted(commands(), key=len, reverse=True) if words[: len(name.split())] == name.split()), ""
    )
    assert name, f"no such command: {line!r}"
    known = {option for parameter in commands()[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, line
