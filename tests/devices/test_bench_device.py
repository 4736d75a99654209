"""The benchmark of devices runs where there is no GPU, and says all that a report needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "bench_device.py"


@pytest.mark.slow
def test_bench_device__prints_what_a_report_needs() -> None:
    torch = pytest.importorskip("torch")
    command = [sys.executable, str(PROGRAM), "--device", "torch:cpu", "--case", "8x300x64", "--repeats", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in printed.splitlines()]
    heads = [number for number, cells in enumerate(lines) if cells[0] == "device"]
    first, second = (
        {row[0]: dict(zip(lines[head], row, strict=True)) for row in lines[head + 2 : head + 4]} for head in heads
    )
    for device in ("cpu", "torch:cpu"):
        assert float(first[device]["pairs a second"].replace(",", "")) > 0
        assert first[device]["share"].endswith("%")
        assert first[device]["on CPU"] == "0"
        assert float(first[device]["off by"]) < 1e-6
        assert {"coupling", "values", "read", "write", "beside"} <= second[device].keys()
    assert f"PyTorch {torch.__version__}" in printed
