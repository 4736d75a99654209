"""The server: who may ask, what is answered, and that it is what is stored."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import xarray as xr
from cli_runner import run
from explored import NAMES, answered, ask, block_at, make_comparison, names_of, serving

from dask_svcca.errors import DaskSvccaError
from dask_svcca.explore import analyses, data, passes, server
from dask_svcca.stores.comparison import ComparisonStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.explore.server import Explorer

EVERYTHING = f"a=0:{len(NAMES)}&b=0:{len(NAMES)}"


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "[::1]:{port}", ""]
)
def test_server__another_host_is_refused(explorer: Explorer, host: str) -> None:
    status, _, body = ask(explorer, "meta?c=0", Host=host.format(port=explorer.port))
    assert status == 403
    assert b"net a" not in body


@pytest.mark.parametrize(
    "path", ["/", "/meta?c=0", "/wrong/meta?c=0", "//meta?c=0", "/index.html", "/favicon.ico", "/%00/"]
)
def test_server__another_token_is_refused(explorer: Explorer, path: str) -> None:
    status, _, body = ask(explorer, path)
    assert status == 403
    assert b"net a" not in body


@pytest.mark.parametrize(
    "path",
    [
        "../server.py",
        "..%2fserver.py",
        "explore.js/../../server.py",
        "__init__.py",
        "comparison.zarr/zarr.json",
        "%2fetc/passwd",
        "page/explore.js",
    ],
)
def test_server__serves_no_paths(explorer: Explorer, path: str) -> None:
    status, _, body = ask(explorer, path)
    assert status == 404
    assert json.loads(body) == {"error": "there is nothing of this name"}


def test_server__answers_on_this_machine_alone(explorer: Explorer) -> None:
    listening = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"]
    assert {address for address, port in listening if port == explorer.port} == {"127.0.0.1"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_server__only_reads(explorer: Explorer, method: str) -> None:
    with socket.create_connection(("127.0.0.1", explorer.port), timeout=30) as plug:
        plug.sendall(
            f"{method} /{explorer.token}/meta?c=0 HTTP/1.1\r\nHost: 127.0.0.1:{explorer.port}\r\n"
            f"Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert plug.recv(100).split()[1] == b"405"


def test_server__headers_allow_nothing_else(explorer: Explorer) -> None:
    for path in ("", "meta?c=0", "explore.js", "nothing"):
        _, headers, _ = ask(explorer, path)
        policy = dict(part.split(maxsplit=1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("meta?c=1", "'c' is a number from 0 to 0"),
        ("meta", "'c' is a number"),
        ("meta?c=-1", "'c' is a number"),
        ("meta?c=%D9%A1", "'c' is a number"),
        (f"block?c=0&measure=cka&order=step&{EVERYTHING}", "no measure 'cka'"),
        (f"block?c=0&measure=pair_status&order=step&{EVERYTHING}", "no measure 'pair_status'"),
        (f"block?c=0&measure=svcca&order=name&{EVERYTHING}", "'order' is one of step, depth, cluster"),
        ("block?c=0&measure=svcca&order=step&a=0:99&b=0:1", "'high' is a number from 0 to 36"),
        ("block?c=0&measure=svcca&order=step&a=3:3&b=0:1", "there are 36 representations, not 3 to 3"),
        (f"block?c=0&measure=gulp&order=step&chance=1&{EVERYTHING}", "does not say what chance gives for 'gulp'"),
        ("pair?c=0&a=0&b=36", "'b' is a number from 0 to 35"),
        ("row?c=0&measure=svcca&side=a&place=0&top=501", "'top' is a number from 0 to 500"),
        ("row?c=0&measure=svcca&side=c&place=0&top=5", "'side' is one of a, b"),
        ("settling?c=0&measure=svcca&model=none", "'none'"),
    ],
)
def test_server__refuses_with_a_sentence(explorer: Explorer, path: str, said: str) -> None:
    status, _, body = ask(explorer, path)
    assert status == 400
    assert said in json.loads(body)["error"]


def test_block__is_the_stored_rectangle(explorer: Explorer, store: Path) -> None:
    # Places 0 to 3 are net a at step 0, 28 to 31 wide at step 10: a is not b, in no order.
    with xr.open_zarr(store) as result:
        for measure in ("svcca", "pwcca", "gulp"):
            block = block_at(explorer, f"block?c=0&measure={measure}&order=step&a=0:4&b=28:32")
            np.testing.assert_array_equal(block["values"], result[measure][0:4, 28:32])
            np.testing.assert_array_equal(block["status"], result.pair_status[0:4, 28:32])
            assert (block["level_a"], block["level_b"], block["pairs"]) == ("layer", "layer", True)
        block = block_at(explorer, "block?c=0&measure=svcca&order=step&chance=1&a=0:1&b=28:32")
        np.testing.assert_array_equal(block["values"], (result.svcca - result.null_svcca)[0:1, 28:32])


def test_block__by_layers_the_checkpoints_of_a_layer_are_side_by_side(explorer: Explorer, store: Path) -> None:
    meta = answered(explorer, "meta?c=0")
    places = meta["orders"]["depth"]["places"]
    # Of net a: conv1 at steps 0, 10, 200, then conv2.
    assert places[:6] == [0, 4, 8, 1, 5, 9]
    block = block_at(explorer, "block?c=0&measure=pwcca&order=depth&a=3:6&b=12:15")
    assert (block["level_a"], block["level_b"]) == ("checkpoint", "checkpoint")
    with xr.open_zarr(store) as result:
        np.testing.assert_array_equal(block["values"], result.pwcca.to_numpy()[np.ix_([1, 5, 9], [12, 16, 20])])


@pytest.mark.parametrize("chance", [0, 1])
def test_block__pooled_cells_are_means_without_nan(explorer: Explorer, store: Path, chance: int) -> None:
    with xr.open_zarr(store) as result:
        values = (result.svcca - result.null_svcca * chance).to_numpy()
    models = block_at(explorer, f"block?c=0&measure=svcca&order=step&chance={chance}&{EVERYTHING}")
    assert models["a"] == [[0, 12], [12, 24], [24, 36]]
    checkpoints = block_at(explorer, f"block?c=0&measure=svcca&order=step&chance={chance}&a=0:12&b=24:36")
    assert checkpoints["a"] == [[0, 4], [4, 8], [8, 12]]
    assert np.isnan(values).any()
    for block in (models, checkpoints):
        for row, (top, bottom) in enumerate(block["a"]):
            for column, (left, right) in enumerate(block["b"]):
                part = values[top:bottom, left:right]
                assert block["values"][row, column] == pytest.approx(np.nanmean(part), rel=1e-12)
                assert block["counts"][row, column] == np.isfinite(part).sum()


def test_block__alike_together_is_the_same_block_in_another_order(explorer: Explorer) -> None:
    plain = block_at(explorer, f"block?c=0&measure=pwcca&order=step&{EVERYTHING}")
    alike = block_at(explorer, f"block?c=0&measure=pwcca&order=cluster&{EVERYTHING}")
    orders = [[plain[side].index(cell) for cell in alike[side]] for side in "ab"]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    np.testing.assert_array_equal(alike["values"], plain["values"][np.ix_(*orders)])


def test_pair__has_every_number_and_the_status(explorer: Explorer, store: Path) -> None:
    with xr.open_zarr(store) as opened:
        result = opened.load()
        names = [
            name for name, array in result.data_vars.items() if array.dims == ("representation_a", "representation_b")
        ]
        for a, b in np.random.default_rng(0).integers(0, len(NAMES), (20, 2)):
            pair = answered(explorer, f"pair?c=0&a={a}&b={b}")
            assert set(pair["values"]) == {*names, "calibrated_svcca"} - {"pair_status"}
            # What is not stored follows from what is.
            null = float(result["null_svcca"][a, b])
            derived = {"calibrated_svcca": (float(result["svcca"][a, b]) - null) / (1 - null)}
            for name, value in pair["values"].items():
                stored = derived[name] if name in derived else float(result[name][a, b])
                assert value == stored if value is not None else np.isnan(stored)
            stored = result.correlations[a, b].to_numpy()
            assert [np.nan if one is None else one for one in pair["details"]["correlations"]] == pytest.approx(
                stored, nan_ok=True
            )


@pytest.mark.parametrize(("measure", "side"), [("svcca", "a"), ("pwcca", "b"), ("gulp", "a")])
def test_row__the_most_similar_first(explorer: Explorer, store: Path, measure: str, side: str) -> None:
    row = answered(explorer, f"row?c=0&measure={measure}&side={side}&place=5&top=10")
    with xr.open_zarr(store) as result:
        values = result[measure].isel({f"representation_{side}": 5}).to_numpy()
    values[5] = np.nan
    order = np.argsort(values if measure == "gulp" else -values)[:10]
    assert row["places"] == order.tolist()
    assert row["values"] == values[order].tolist()
    assert row["valued"] == np.isfinite(values).sum()


def test_settling__each_layer_to_its_final_self(explorer: Explorer, store: Path) -> None:
    found = answered(explorer, "settling?c=0&measure=svcca&model=net%20b")
    assert (found["layers"], found["steps"]) == (["conv1", "conv2", "fc", "out"], [0, 10, 200])
    with xr.open_zarr(store) as result:
        for layer in range(4):
            stored = [float(result.svcca[12 + 4 * step + layer, 20 + layer]) for step in range(3)]
            assert [np.nan if one is None else one for one in found["similarity"][layer]] == pytest.approx(
                stored, nan_ok=True
            )
        assert found["rank"] == result.rank_a.to_numpy()[20:24].tolist()


def test_phases__checkpoints_of_each_layer(explorer: Explorer, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answered(explorer, "phases?c=0&measure=pwcca&model=wide")
    assert (found["layers"], found["available"]) == (["conv1", "conv2", "fc", "out"], 4)
    assert found["checkpoints"] == ["step0", "step10", "step200"]
    with xr.open_zarr(store) as result:
        for layer in range(4):
            places = [24 + layer, 28 + layer, 32 + layer]
            stored = result.pwcca.to_numpy()[np.ix_(places, places)]
            np.testing.assert_array_equal(np.array(found["values"][layer], dtype=float), stored)
    monkeypatch.setattr(analyses, "MOST_VALUES", 18)
    assert answered(explorer, "phases?c=0&measure=pwcca&model=wide")["layers"] == ["conv1", "out"]


def test_meta__a_changed_value_is_seen_after_it(tmp_path: Path) -> None:
    place = tmp_path / "comparison.zarr"
    store = make_comparison(place, NAMES[:8])
    with serving(place) as explorer:
        path = "block?c=0&measure=pwcca&order=step&a=0:8&b=0:8"
        before = block_at(explorer, path)["values"]
        changed = ComparisonStore.open(place, mode="r+").array("pwcca")
        changed[0:4, 4:8] = 0.25
        answered(explorer, "meta?c=0")
        after = block_at(explorer, path)["values"]
    assert store.place
    assert before[0, 1] != after[0, 1] == 0.25
    assert before[1, 0] == after[1, 0]


def test_overview__in_the_background_with_progress_and_kept_beside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "comparison.zarr"
    make_comparison(place, NAMES)
    before = digest_of(place)
    monkeypatch.setattr(data, "AT_ONCE", 0)
    monkeypatch.setattr(passes, "PANEL", 60)
    with serving(place, cached=True) as explorer:
        found = wait_for(explorer, f"block?c=0&measure=svcca&order=step&{EVERYTHING}")
        layers = wait_for(explorer, "block?c=0&measure=svcca&order=depth&a=0:12&b=24:36")
        # What is read there is not an overview: whole rows of checkpoints of one layer.
        pairs = wait_for(explorer, "block?c=0&measure=svcca&order=depth&a=0:3&b=24:27")
        kept(tmp_path / "comparison.zarr.explore", 2)
    with xr.open_zarr(place) as result:
        values = result.svcca.to_numpy()
    assert found["values"][0, 1] == pytest.approx(np.nanmean(values[:12, 12:24]))
    assert layers["values"][1, 2] == pytest.approx(np.nanmean(values[np.ix_([1, 5, 9], [26, 30, 34])]))
    np.testing.assert_array_equal(pairs["values"], values[np.ix_([0, 4, 8], [24, 28, 32])])
    assert digest_of(place) == before
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.zarr", "comparison.zarr.explore"}
    monkeypatch.setattr(passes.Pass, "run", lambda *_: pytest.fail("it was read again"))
    with serving(place, cached=True) as explorer:
        again = block_at(explorer, f"block?c=0&measure=svcca&order=step&{EVERYTHING}")
    assert again["done"] == 1
    np.testing.assert_array_equal(again["values"], found["values"])


def kept(folder: Path, count: int) -> list[Path]:
    """Files of a cache, once there are so many."""
    until = time.monotonic() + 60
    while len(found := list(folder.glob("*.npz"))) < count:
        assert time.monotonic() < until
    return found


def wait_for(explorer: Explorer, path: str) -> dict[str, Any]:
    """A block once it is done."""
    until = time.monotonic() + 60
    while (block := block_at(explorer, path))["done"] < 1:
        assert time.monotonic() < until
    return block


@pytest.mark.parametrize(
    "spoil", [lambda file: file.write_bytes(b"PK"), lambda file: file.write_bytes(b""), lambda file: file.unlink()]
)
def test_overview__a_damaged_file_of_it_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    place = tmp_path / "comparison.zarr"
    make_comparison(place, NAMES[:12])
    monkeypatch.setattr(data, "AT_ONCE", 0)
    path = "block?c=0&measure=svcca&order=step&a=0:12&b=0:12"
    with serving(place, cached=True) as explorer:
        first = wait_for(explorer, path)
        (file,) = kept(tmp_path / "comparison.zarr.explore", 1)
    spoil(file)
    with serving(place, cached=True) as explorer:
        np.testing.assert_array_equal(wait_for(explorer, path)["values"], first["values"])


def test_block__more_models_than_cells_are_pooled_with_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask_svcca.explore import order

    monkeypatch.setattr(order, "MOST_CELLS", 4)
    place = tmp_path / "comparison.zarr"
    make_comparison(place, names_of([f"m{number}" for number in range(10)], [0], ["fc"]), components=0)
    with serving(place) as explorer:
        block = block_at(explorer, "block?c=0&measure=svcca&order=step&a=0:10&b=0:3")
    assert block["a"] == [[0, 3], [3, 6], [6, 9], [9, 10]]
    assert block["b"] == [[0, 1], [1, 2], [2, 3]]
    with xr.open_zarr(place) as result:
        assert block["values"][3, 2] == float(result.svcca[9, 2])
        assert block["values"][0, 0] == pytest.approx(np.nanmean(result.svcca[0:3, 0]))


def test_explore__several_comparisons(tmp_path: Path, store: Path) -> None:
    make_comparison(tmp_path / "other.zarr", NAMES[:4])
    with serving(store, tmp_path / "other.zarr") as explorer:
        first, second = (answered(explorer, f"meta?c={number}") for number in (0, 1))
    assert first["comparisons"] == second["comparisons"] == ["comparison.zarr", "other.zarr"]
    assert (first["count"], second["count"]) == (36, 4)


@pytest.mark.slow
def test_explore__prints_its_address_and_ends_with_ctrl_c(store: Path) -> None:
    command = [sys.executable, "-m", "dask_svcca", "explore", str(store), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/[\w-]{32}/", address)
        assert found
        with urllib.request.urlopen(f"{address}meta?c=0", timeout=30) as answer:
            assert json.load(answer)["count"] == len(NAMES)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said == "Ctrl-C ends it.\n"


def test_explore__the_browser_is_opened_without_the_token_in_its_arguments(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str, int]] = []

    def look(address: str) -> None:
        file = Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
        opened.append((address, file.read_text("utf-8"), file.parent.stat().st_mode & 0o077))

    async def once(explorer: Explorer) -> None:
        explorer.start()
        while not opened:
            await asyncio.sleep(0.01)
        await explorer.stop()

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr(server.Explorer, "serve", once)
    address = run(f"explore '{store}'").stdout.strip()
    ((page, text, rights),) = opened
    assert page.startswith("file:///")
    assert address.split("/")[-2] not in page
    assert f"url={address}" in text
    assert rights == 0


def test_explore__a_port_in_use_is_a_sentence(explorer: Explorer, store: Path) -> None:
    with pytest.raises(DaskSvccaError, match=rf"the port {explorer.port} of 127.0.0.1 cannot be used"):
        server.Explorer([store], port=explorer.port, cached=False)


def test_server__a_whole_address_is_refused(explorer: Explorer) -> None:
    with socket.create_connection(("127.0.0.1", explorer.port), timeout=30) as plug:
        plug.sendall(
            f"GET http://evil/{explorer.token}/meta?c=0 HTTP/1.1\r\nHost: 127.0.0.1:{explorer.port}\r\n"
            f"Connection: close\r\n\r\n".encode()
        )
        assert plug.recv(100).split()[1] == b"403"


@pytest.mark.parametrize("model", ["net*", "**", ""])
def test_server__a_model_is_an_exact_name(explorer: Explorer, model: str) -> None:
    for name in ("settling", "phases"):
        status, _, body = ask(explorer, f"{name}?c=0&measure=svcca&model={model}")
        assert (status, f"no model {model!r}" in json.loads(body)["error"]) == (400, True)


def test_server__a_comparison_that_is_gone_or_another_says_so(tmp_path: Path) -> None:
    place = tmp_path / "comparison.zarr"
    make_comparison(place, NAMES[:8], components=0)
    paths = (
        "block?c=0&measure=pwcca&order=step&a=0:8&b=0:8",
        "pair?c=0&a=0&b=1",
        "phases?c=0&measure=pwcca&model=net%20a",
    )
    with serving(place) as explorer:
        for change, said in (
            (lambda: make_comparison(place, NAMES[4:12], components=0), "is another than when this page was loaded"),
            (lambda: None, "no comparison at"),
        ):
            shutil.rmtree(place)
            change()
            for path in paths:
                status, _, body = ask(explorer, path)
                assert (status, said in json.loads(body)["error"]) == (400, True), body
