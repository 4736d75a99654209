"""The memory promise: no task takes more than its plan says, nor is so much promised that it refuses what would fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from memory_plans import ENVIRONMENT, Case, Measured
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.analysis import _pairs, significance
from dask_svcca.stores.subspaces import SubspaceStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROGRAM = Path(__file__).with_name("memory_plans.py")
LARGE = 100 * 2**20
"""Bytes of a promise from which it is also held to be no larger than need be."""

SHARE = 0.6
"""Of such a promise, what is taken at least."""


def measured(scale: float, seeds: Iterable[int]) -> list[Measured]:
    """What the tasks of some random plans take, each alone in a process that does nothing else."""
    root = str(PROGRAM.parent.parent)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(scale), *map(str, seeds)],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Measured(**one) for line in done.stdout.splitlines() for one in json.loads(line)]


def assert_kept(tasks: Sequence[Measured]) -> None:
    broken = [task for task in tasks if task.peak > task.promised]
    assert not broken, "\n".join(map(str, broken))
    loose = [task for task in tasks if task.exact and task.promised > LARGE and task.peak < SHARE * task.promised]
    assert not loose, "\n".join(map(str, loose))


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


def test_memory__of_random_plans_is_what_was_promised() -> None:
    tasks = measured(0.5, range(25))
    assert {"tile", "pack of Neurons", "pack of Fourier", "pack of several"} <= {task.kind for task in tasks}
    assert_kept(tasks)
