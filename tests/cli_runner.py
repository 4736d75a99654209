"""Runs commands as they are typed, and looks up those there are."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner, Result

from dask_svcca.cli._program import Deferred, program

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
