"""Progress in terminals and elsewhere, and lists of problems."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from types import SimpleNamespace

import pytest
from cli_runner import run
from rich.console import Console

from dask_svcca.cli import _console
from dask_svcca.run import progress


def test_bars__without_a_terminal_speak_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with _console.Bars({"read": ("Reading", "files")}) as bars:
        for done in range(1, 1001):
            bars("read", done, 1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Reading: 1,000 of 1,000 files, \d\.\d s\n", err)


def test_bars__a_rate_is_in_plain_numbers_and_not_of_a_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 1.0, 1.00001, 2.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    with _console.Bars({"read": ("Reading", "files")}) as bars:
        for done in (1, 2, 2001):
            bars("read", done, 2001)
    assert capsys.readouterr().err == "Reading: 2,001 of 2,001 files, 2.0 s, 2,000 a second\n"


def test_bars__lines_say_the_rate_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 10.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    with _console.Bars({"read": ("Reading", "files")}) as bars:
        bars("read", 5, 1000)
        bars("read", 105, 1000)
    assert capsys.readouterr().err == "Reading: 105 of 1,000 files, 60 s, 2 a second, about 7:28 min left\n"


def test_json_lines__say_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    with progress.JsonLines() as lines:
        lines("tiles", 5, 1000)
        lines.say("Waiting for 'another' run")
        lines("tiles", 105, 1000)
    first, waited, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["done"], first["per_second"], first["seconds_left"]) == (5, 0, None)
    assert waited["message"] == "Waiting for 'another' run"
    assert {name: second[name] for name in ("stage", "done", "total", "per_second", "seconds_left")} == {
        "stage": "tiles",
        "done": 105,
        "total": 1000,
        "per_second": 2.0,
        "seconds_left": 447.5,
    }


@pytest.mark.parametrize("command", ["compare", "run", "part"])
def test_log_json__is_an_option_wherever_a_comparison_runs(command: str) -> None:
    assert "--log-json" in run(f"{command} --help").output


def test_bars__in_a_terminal_show_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100, color_system=None)
    )
    stages = {"read": ("Reading", "files"), "write": ("Writing", "files"), "idle": ("Idling", "hours")}
    with _console.Bars(stages) as bars:
        bars("read", 1, 2)
        bars("read", 2, 2)
        bars("write", 5, 5)
    last = screen.getvalue().replace("\x1b[2K", "").split("\x1b[1A")[-1]
    shown = screen.getvalue()
    assert re.search(r"Reading .*2/2 files", shown)
    assert re.search(r"Writing .*5/5 files", shown)
    assert "Idling" not in last


def test_bars__elsewhere_tell_the_time_of_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = iter([10.0, 13.0, 15.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with _console.Bars({"read": ("Reading", "files"), "write": ("Writing", "files")}) as bars:
        bars("read", 2, 2)
        bars("write", 5, 5)
    assert capsys.readouterr().err.splitlines() == [
        "Reading: 2 of 2 files, 3.0 s",
        "Writing: 5 of 5 files, 2.0 s",
    ]


@pytest.mark.parametrize("installed", [True, False])
def test_bars__in_a_notebook_need_widgets(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(progress, "Console", lambda **_: Console(force_jupyter=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert (progress.Bars({"read": ("Reading", "files")})._progress is not None) == installed


def test_problems__are_a_few_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    _console.echo_problems({f"layer{number}": "is bad" for number in range(1200)}, "representation")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1,200 representations failed:"
    assert lines[1] == "  layer0: is bad"
    assert lines[-1] == "  and 1,195 more"
