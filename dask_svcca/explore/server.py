"""The server of the page: read-only, on this machine alone, for who has its token."""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import os
import secrets
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np
import tornado.httpserver
import tornado.web

from dask_svcca.errors import DaskSvccaError
from dask_svcca.explore.analyses import ANALYSES
from dask_svcca.explore.data import Arrangement, Block, Explored, Side
from dask_svcca.explore.page import MODULES, page_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_svcca.stores._io import StoreLike

HOST: Final = "127.0.0.1"
MOST_ROWS: Final = 500
"""Rows of a sorted list that one answer has, at most."""

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES: Final = ("index.html", "explore.css", *MODULES)

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Explorer:
    """Comparisons, and the server that shows them.

    Parameters
    ----------
    stores : sequence of path, zarr store, or URL
    port : int
        0 for a free one.
    cached : bool
        Whether overviews are kept beside the comparisons.

    Raises
    ------
    DaskSvccaError
        Where the port cannot be used.
    """

    def __init__(self, stores: Sequence[StoreLike], *, port: int = 0, cached: bool = True) -> None:
        self.comparisons = [Explored(store, cached=cached) for store in stores]
        self.token = secrets.token_urlsafe(24)
        # Several at a time: what reads much does not keep the page waiting for what reads little.
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="explore")
        try:
            self._socket = socket.create_server((HOST, port))
        except OSError as error:
            raise DaskSvccaError(
                f"the port {port} of {HOST} cannot be used ({os.strerror(error.errno or 0)}): another program may "
                f"have it. Choose another one, or 0 for one that is free"
            ) from error
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._server: tornado.httpserver.HTTPServer | None = None

    @property
    def address(self) -> str:
        """Where the page is, with the token."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def start(self) -> None:
        """Answer requests, within a running event loop."""
        application = tornado.web.Application(
            [(r"/.*", _Handler, {"explorer": self})],
            log_function=lambda _: None,
            # What does not begin with a slash, such as a whole address.
            default_handler_class=_Handler,
            default_handler_args={"explorer": self},
        )
        self._server = tornado.httpserver.HTTPServer(application, max_header_size=2**16, max_body_size=0)
        self._server.add_socket(self._socket)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self.pool.shutdown(wait=False, cancel_futures=True)
        for comparison in self.comparisons:
            comparison.close()

    async def serve(self) -> None:
        """Answer requests until this is cancelled."""
        self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.stop()


class _Handler(tornado.web.RequestHandler):
    """Every request there is; what is not one of a few names is refused."""

    def initialize(self, explorer: Explorer) -> None:
        self.explorer = explorer

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    async def get(self) -> None:
        """Answer, or refuse with a sentence."""
        explorer = self.explorer
        # Another name for this machine is how a page of elsewhere reaches it.
        hosts = {f"{name}:{explorer.port}" for name in (HOST, "localhost")}
        _, token, name = [*self.request.path.split("/", 2), "", ""][:3]
        if self.request.headers.get("Host") not in hosts or not hmac.compare_digest(
            token.encode(), explorer.token.encode()
        ):
            self._refuse(403, "the address is not the one that 'dask-svcca explore' printed")
        elif (name or "index.html") in FILES:
            name = name or "index.html"
            self.set_header("Content-Type", f"{TYPES[name[name.rindex('.') :]]}; charset=utf-8")
            self.write(page_file(name))
        elif name in ANSWERS:
            try:
                answer = await asyncio.get_running_loop().run_in_executor(explorer.pool, _answer, name, self._asked())
            except (DaskSvccaError, _RequestError) as error:
                self._refuse(400, str(error))
                return
            binary = isinstance(answer, bytes)
            self.set_header("Content-Type", "application/octet-stream" if binary else "application/json")
            self.write(answer)
        else:
            self._refuse(404, "there is nothing of this name")

    def _asked(self) -> _Asked:
        values = {name: texts[-1].decode(errors="replace") for name, texts in self.request.query_arguments.items()}
        return _Asked(self.explorer, values)

    def _refuse(self, status: int, sentence: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps({"error": sentence}))

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say no more than the status."""
        self._refuse(status_code, "this cannot be answered")


class _RequestError(Exception):
    """A request that the page does not make."""


class _Asked:
    """The values that stand in a request, each checked as it is used."""

    def __init__(self, explorer: Explorer, values: dict[str, str]) -> None:
        self._explorer, self._values = explorer, values

    def number(self, name: str, most: int) -> int:
        """A number from 0 up to one."""
        text = self._values.get(name, "")
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most):
            raise _RequestError(f"{name!r} is a number from 0 to {most}")
        return int(text)

    def one_of(self, name: str, choices: Sequence[str]) -> Any:
        """One of some words."""
        if self._values.get(name) not in choices:
            raise _RequestError(f"{name!r} is one of {', '.join(choices)}")
        return self._values[name]

    def span(self, name: str, most: int) -> tuple[int, int]:
        """From one number up to another, ``low:high``."""
        low, _, high = self._values.get(name, "").partition(":")
        both = _Asked(self._explorer, {"low": low, "high": high})
        return both.number("low", most), both.number("high", most)

    @property
    def chance(self) -> bool:
        return self._values.get("chance") == "1"

    @property
    def measure(self) -> str:
        return self._values.get("measure", "")

    def text(self, name: str) -> str:
        """Any text."""
        return self._values.get(name, "")

    @property
    def number_of_comparison(self) -> int:
        return self.number("c", len(self._explorer.comparisons) - 1)

    @property
    def comparison(self) -> Explored:
        return self._explorer.comparisons[self.number_of_comparison]

    @property
    def names(self) -> list[str]:
        """Names of all comparisons: the last part of where they are, where that tells them apart."""
        places = [one.place.rstrip("/") for one in self._explorer.comparisons]
        short = [place.rsplit("/", 1)[-1] for place in places]
        return short if len(set(short)) == len(short) else places


def _meta(asked: _Asked) -> str:
    # The page asks for this when it is loaded: what it shows from then on is of the store as it is now.
    asked.comparison.refresh()
    return json.dumps({"comparisons": asked.names, **asked.comparison.meta()}, allow_nan=False)


def _block(asked: _Asked) -> bytes:
    comparison = asked.comparison
    arrangement = asked.one_of("order", get_args(Arrangement))
    sides = asked.span("a", comparison.count), asked.span("b", comparison.count)
    return encoded(comparison.block(asked.measure, arrangement, *sides, chance=asked.chance))


def encoded(block: Block) -> bytes:
    """A block as the page reads it: the length of a JSON object, the object, values, counts, estimates, status."""
    head = {
        "a": _cells(block.a.edges, block.order_a),
        "b": _cells(block.b.edges, block.order_b),
        "level_a": block.a.level,
        "level_b": block.b.level,
        "done": block.done,
        "limits": block.limits,
        "pairs": block.status is not None,
        "estimated": block.estimated is not None,
    }
    text = json.dumps(head, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % 8)
    estimated = b"" if block.estimated is None else block.estimated.astype("<i4").tobytes()
    status = b"" if block.status is None else block.status.astype("u1").tobytes()
    return b"".join(
        [
            struct.pack("<I", len(text)),
            text,
            block.values.astype("<f8").tobytes(),
            block.counts.astype("<i4").tobytes(),
            estimated,
            status,
        ]
    )


def _cells(edges: np.ndarray[Any, Any], order: np.ndarray[Any, Any]) -> list[list[int]]:
    return np.stack([edges[:-1], edges[1:]], axis=1)[order].tolist()  # type: ignore[no-any-return]


def _pair(asked: _Asked) -> str:
    comparison = asked.comparison
    places = (asked.number(side, comparison.count - 1) for side in "ab")
    return json.dumps(comparison.pair(*places), allow_nan=False)


def _row(asked: _Asked) -> str:
    comparison = asked.comparison
    side, place = asked.one_of("side", get_args(Side)), asked.number("place", comparison.count - 1)
    top = asked.number("top", MOST_ROWS)
    return json.dumps(comparison.row(asked.measure, side, place, top=top, chance=asked.chance), allow_nan=False)


def _analysis(name: str, asked: _Asked) -> str:
    of = asked.text("labels") if name == "classes" else asked.measure
    return json.dumps(ANALYSES[name](asked.comparison, of, asked.text("model")), allow_nan=False)


def _answer(name: str, asked: _Asked) -> str | bytes:
    """What is asked, of the store that the page has the names of."""
    if name != "meta":
        asked.comparison.check()
    return ANSWERS[name](asked)


ANSWERS: Final[dict[str, Callable[[_Asked], str | bytes]]] = {
    "meta": _meta,
    "block": _block,
    "pair": _pair,
    "row": _row,
    **{name: functools.partial(_analysis, name) for name in ANALYSES},
}
