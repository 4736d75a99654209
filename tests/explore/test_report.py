"""The report: one file below its size, which has what was chosen and allows itself nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from cli_runner import run
from explored import NAMES, make_comparison, names_of

from dask_svcca.errors import DaskSvccaError, InvalidQuestionError, UnknownMeasureError
from dask_svcca.explore import report
from dask_svcca.explore.report import write_report

if TYPE_CHECKING:
    from pathlib import Path


def parts(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a report has: names and numbers, and texts of the variables."""
    text = file.read_text("utf-8")
    head = re.search(r'<script type="application/json" id="embedded">(.*?)</script>', text, re.DOTALL)
    assert head
    found = re.findall(r'<script type="text/plain" data-name="(.*?)">(.*?)</script>', text, re.DOTALL)
    return json.loads(head[1]), dict(found)


def numbers(text: str) -> np.ndarray[Any, Any]:
    """Numbers of five signs each, by another way than the one they were written in."""
    values = [
        sum(report.ALPHABET.index(sign) * 90**power for power, sign in enumerate(text[at : at + 5][::-1]))
        for at in range(0, len(text), 5)
    ]
    return np.array(values, dtype="<u4").view("<f4")


def test_report__has_every_number_in_single_precision(tmp_path: Path, store: Path) -> None:
    made = write_report(store, tmp_path / "report.html")
    assert (made.representations, made.available, made.measures) == (36, 36, ("svcca", "pwcca", "gulp"))
    head, texts = parts(tmp_path / "report.html")
    assert head["meta"]["note"] == "A report of 36 of 36 representations, in single precision."
    with xr.open_zarr(store) as result:
        for name in ("svcca", "null_svcca", "pwcca", "gulp"):
            np.testing.assert_array_equal(numbers(texts[name]).reshape(36, 36), result[name].to_numpy().astype("f4"))
        assert texts["pair_status"] == "".join(map(str, result.pair_status.to_numpy().ravel()))


def test_report__a_symmetric_matrix_takes_half(tmp_path: Path) -> None:
    store = make_comparison(tmp_path / "comparison.zarr", NAMES[:6], measures=("svcca",), components=0)
    values = np.arange(36.0).reshape(6, 6)
    values = values + values.T
    values[2, 3] = values[3, 2] = np.nan
    store.array("svcca")[...] = values
    write_report(tmp_path / "comparison.zarr", tmp_path / "report.html")
    head, texts = parts(tmp_path / "report.html")
    assert head["symmetric"] == {"pair_status": False, "svcca": True, "null_svcca": False}
    np.testing.assert_array_equal(numbers(texts["svcca"]), values[np.triu_indices(6)])


def test_report__allows_its_own_script_and_style_alone(tmp_path: Path, store: Path) -> None:
    write_report(store, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for rule, part in (("script-src", script), ("style-src", style)):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert not re.findall(r"""(?:src|href)=["'](?!data:,)""", text.replace(script, ""))
    assert "http" not in text.replace(script, "").replace("http-equiv", "")


def test_report__leaves_out_checkpoints_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 128]
    make_comparison(
        tmp_path / "comparison.zarr", names_of(["m", "n"], steps, ["fc"]), measures=("pwcca",), components=0
    )
    monkeypatch.setattr(report, "ROOM", 8 * 8 * 6)
    made = write_report(tmp_path / "comparison.zarr", tmp_path / "report.html")
    head, _ = parts(tmp_path / "report.html")
    # Four of each model: the ends, and the nearest to a third and two thirds of the logarithms.
    assert head["meta"]["columns"]["step"] == [0, 4, 32, 128] * 2
    assert (made.representations, made.available) == (8, 18)
    monkeypatch.setattr(report, "ROOM", 10)
    with pytest.raises(InvalidQuestionError, match="no room for one checkpoint of each of the 2 models and pwcca"):
        write_report(tmp_path / "comparison.zarr", tmp_path / "report.html")


def test_report__takes_what_was_asked_for(tmp_path: Path, store: Path) -> None:
    made = write_report(store, tmp_path / "report.html", where={"model": "net*", "layer": "fc"}, measures=["gulp"])
    assert (made.representations, made.measures) == (6, ("gulp",))
    head, texts = parts(tmp_path / "report.html")
    assert head["meta"]["names"]["layer"] == ["fc"]
    assert set(texts) == {"pair_status", "gulp"}
    with pytest.raises(UnknownMeasureError, match="no measure 'cka'"):
        write_report(store, tmp_path / "report.html", measures=["cka"])
    with pytest.raises(DaskSvccaError, match="no model matches 'nets'"):
        write_report(store, tmp_path / "report.html", where={"model": "nets"})


def test_report__names_cannot_end_its_data(tmp_path: Path) -> None:
    names = names_of(["</script><script>alert(1)</script>", "<!--"], [0], ["]]>", "\u2028"])
    make_comparison(tmp_path / "comparison.zarr", names)
    write_report(tmp_path / "comparison.zarr", tmp_path / "report.html")
    head, _ = parts(tmp_path / "report.html")
    assert head["meta"]["names"]["model"] == ["</script><script>alert(1)</script>", "<!--"]
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert "<!--" not in text


def test_report__on_the_command_line(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    done = run(f"report '{store}' --model 'net a' --measure svcca,gulp -o '{file}'")
    assert f"{file.stat().st_size / 1000:.0f} kB, 12 representations, svcca, gulp" in done.stdout
    assert "left out" not in done.stderr
    refused = run(f"report '{store}' -o '{tmp_path / 'none' / 'r.html'}'", status=2).stderr
    assert "to write 'r.html' into" in refused
    # Room for the status, svcca and its reference.
    monkeypatch.setattr(report, "ROOM", 12 * 12 * 11 + 10)
    done = run(f"report '{store}' --model 'net a' -o '{file}'")
    assert re.search(r"Measures were left out for size: (pwcca, )?gulp; --measure chooses others\.", done.stderr)
