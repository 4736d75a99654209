"""Stores elsewhere: on a real server that speaks S3, and zipped."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dask
import numpy as np
import pytest
import xarray as xr
import xxhash
import zarr
from measured import related

import dask_svcca
from dask_svcca.errors import StoreAccessError, StoreFormatError, StoreInUseError
from dask_svcca.stores import _io
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.lease import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("obstore")
pytest.importorskip("moto")
pytest.importorskip("flask")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of S3 on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/bucket", method="PUT")).close()
    yield f"http://{host}:{port}"
    moto.stop()


class Faults(BaseHTTPRequestHandler):
    """Passes requests on, and answers every so many with an error, or not at all."""

    target = ""
    count = 0
    failed = 0
    lock = threading.Lock()

    def _pass_on(self) -> None:
        with self.lock:
            Faults.count += 1
            number = Faults.count
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if number % 37 == 5:
            Faults.failed += 1
            self.send_error(500)
            return
        if number % 59 == 7:
            Faults.failed += 1
            self.close_connection = True
            self.connection.close()
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        # Else urllib would call it a form, and the server would read it as one.
        headers.setdefault("content-type", "application/octet-stream")
        request = Request(self.target + self.path, data=body or None, headers=headers, method=self.command)
        try:
            answer: Any = urlopen(request)
        except HTTPError as error:
            answer = error
        with answer:
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                    self.send_header(name, value)
            length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def faulty(server: str) -> Iterator[str]:
    """The same server behind a proxy that fails now and then."""
    Faults.target, Faults.count, Faults.failed = server, 0, 0
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_address[1]}"
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with dask.config.set(scheduler="synchronous"):
        yield


LAYERS = related(90, 3, 4, 5, 6)


def make(place: Any) -> None:
    with dask_svcca.create_zoo(place, examples=range(90)) as zoo:
        for number, layer in enumerate(LAYERS):
            zoo.write("net", f"step{number}", "fc", layer, step=number)


@pytest.fixture
def local(tmp_path: Path) -> xr.Dataset:
    make(tmp_path / "zoo.zarr")
    return dask_svcca.compare(tmp_path / "zoo.zarr", tmp_path / "c.zarr", measures=("svcca", "cka")).load()


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())


@pytest.mark.slow
@pytest.mark.parametrize("through", ["server", "faulty"])
def test_compare__on_s3_as_on_disk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, local: xr.Dataset, through: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue(through))
    place = f"s3://bucket/{through}"
    make(f"{place}/zoo.zarr")
    same(dask_svcca.compare(f"{place}/zoo.zarr", f"{place}/c.zarr", measures=("svcca", "cka")).load(), local)
    assert through == "server" or Faults.failed
    with dask_svcca.open_zoo(f"{place}/zoo.zarr", mode="r+") as zoo:
        zoo.write("net", "step9", "fc", LAYERS[0] * 2, step=9)
        zoo.delete("net", "step0", "fc")
    grown = dask_svcca.compare(f"{place}/zoo.zarr", f"{place}/c.zarr", measures=("svcca", "cka"), drop_left=True)
    assert grown.representation_a.values.tolist() == [f"net/step{number}/fc" for number in (1, 2, 3, 9)]
    np.testing.assert_array_equal(grown.svcca.values[:3, :3], local.svcca.values[1:, 1:])
    assert dask_svcca.verify(f"{place}/zoo.zarr").ok
    assert dask_svcca.verify(f"{place}/c.zarr").ok


def left_behind(place: str, name: str, **changes: Any) -> None:
    """The lease of a run on another machine."""
    holder = replace(Holder.this(), **{"machine": "elsewhere", "host": "node7", "process": 12, **changes})
    backend_of(zarr.open_group(_io.opened(place))).write(name, json.dumps(asdict(holder)).encode())


def keys(place: str) -> list[str]:
    return list(backend_of(zarr.open_group(_io.opened(place))).sizes(""))


@pytest.mark.slow
def test_compare__on_s3_is_for_one_machine_at_a_time(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    zoo, place = "s3://bucket/leased/zoo.zarr", "s3://bucket/leased/c.zarr"
    make(zoo)
    before = dask_svcca.compare(zoo, place).load()
    left_behind(place, "representation_a/lease-3")
    with pytest.raises(StoreInUseError, match=r"in use by process 12 of .* on 'node7', at work since"):
        dask_svcca.compare(zoo, place)
    # By the clock of the server, which says seconds, it is older than that.
    left_behind(place, "representation_a/lease-3", seconds=-1)
    same(dask_svcca.compare(zoo, place).load(), before)
    name = f"example/lease-{xxhash.xxh3_64_hexdigest(b'net/step1')}-2"
    left_behind(zoo, name, seconds=-1)
    with dask_svcca.open_zoo(zoo, mode="r+") as writable:
        writable.write("net", "step1", "fc2", LAYERS[0])
    assert not [key for one in (zoo, place) for key in keys(one) if "lease" in key or "creating" in key]


@pytest.mark.slow
def test_compare__on_s3_by_four_at_once_all_succeed(
    server: str, monkeypatch: pytest.MonkeyPatch, local: xr.Dataset
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    zoo, place = "s3://bucket/four/zoo.zarr", "s3://bucket/four/c.zarr"
    with ThreadPoolExecutor(4) as threads:
        made = [threads.submit(dask_svcca.create_zoo, zoo, examples=range(90), exist_ok=True) for _ in range(4)]
        assert [one.result().n_examples for one in made] == [90] * 4
        for number, layer in enumerate(LAYERS):
            made[0].result().write("net", f"step{number}", "fc", layer, step=number)
        runs = [threads.submit(dask_svcca.compare, zoo, place, measures=("svcca", "cka"), wait=True) for _ in range(4)]
        for one in runs:
            same(one.result().load(), local)


def test_compare__zoo_on_s3_and_comparison_on_disk(
    server: str, monkeypatch: pytest.MonkeyPatch, local: xr.Dataset, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    make("s3://bucket/elsewhere.zarr")
    found = dask_svcca.compare("s3://bucket/elsewhere.zarr", tmp_path / "here.zarr", measures=("svcca", "cka"))
    same(found.load(), local)


@pytest.mark.slow
def test_storage_options__say_what_the_environment_does_not(
    server: str, monkeypatch: pytest.MonkeyPatch, local: xr.Dataset, tmp_path: Path
) -> None:
    for name in ("AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    options = {
        "endpoint": server,
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "client_options": {"allow_http": True},
    }
    place = "s3://bucket/options"
    with dask_svcca.create_zoo(f"{place}/zoo.zarr", examples=range(90), storage_options=options) as zoo:
        for number, layer in enumerate(LAYERS):
            zoo.write("net", f"step{number}", "fc", layer, step=number)
    assert len(dask_svcca.open_zoo(f"{place}/zoo.zarr", storage_options=options)) == len(LAYERS)
    stores = {"store": f"{place}/c.zarr", "subspaces": f"{place}/s.zarr", "measures": ("svcca", "cka")}
    same(dask_svcca.compare(f"{place}/zoo.zarr", **stores, storage_options=options).load(), local)
    # Where its subspaces are it knows itself, and the options are for them too.
    del stores["subspaces"]
    assert dask_svcca.plan_comparison(f"{place}/zoo.zarr", **stores, storage_options=options).subspaces == 0
    same(dask_svcca.open_comparison(f"{place}/c.zarr", storage_options=options).load(), local)
    assert len(dask_svcca.query(f"{place}/c.zarr", top=2, storage_options=options)) == 2
    assert dask_svcca.verify(f"{place}/s.zarr", storage_options=options).ok
    assert not any(tmp_path.glob("options*"))


def test_compare__of_a_zipped_zoo(local: xr.Dataset, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "zoo.zarr"), "zip", tmp_path / "zoo.zarr")
    place = tmp_path / "zoo.zarr.zip"
    same(dask_svcca.compare(place, tmp_path / "other.zarr", measures=("svcca", "cka")).load(), local)
    with pytest.raises((StoreAccessError, StoreFormatError), match="read"):
        dask_svcca.open_zoo(place, mode="r+")


def test_open_zoo__says_what_is_not_there(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(StoreFormatError, match=r"no zoo at 's3://bucket/nothing.zarr'"):
        dask_svcca.open_zoo("s3://bucket/nothing.zarr")
    with pytest.raises(StoreAccessError, match=r"cannot write to 's3://none/zoo.zarr'.*Is the bucket"):
        dask_svcca.create_zoo("s3://none/zoo.zarr", examples=range(3))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    once = {"retry_config": {"max_retries": 0}}
    with pytest.raises(StoreAccessError, match=r"cannot access 's3://bucket/zoo.zarr'.*network works"):
        dask_svcca.open_zoo("s3://bucket/zoo.zarr", storage_options=once)
