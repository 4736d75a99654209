"""The options of all commands that write activations."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, get_args

import click

from dask_svcca.stores._documents import Compression
from dask_svcca.stores.zoo import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
    click.option("--compression", type=click.Choice(get_args(Compression)), default="lz4", show_default=True),
    click.option(
        "--dtype",
        type=click.Choice(get_args(Stored)),
        help="Type of stored activations; float16 halves the disk and rounds by 1 part in 2,000 [default: as given].",
    ),
)


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how activations are stored."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)
