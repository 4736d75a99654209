"""Places of stores and files as they are typed."""

from __future__ import annotations

import glob
import os
import shlex
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Place(click.ParamType[str]):
    """Where a store is: a path, in which ``~`` is the home folder, or a URL."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Text to a path."""
        if str(value).startswith("memory:"):
            self.fail(f"{str(value)!r} is the memory of this command, and ends with it; name a folder or a URL.")
        return os.path.expanduser(str(value))  # noqa: PTH111 - a URL must stay as it is


class File(click.Path):
    """A file that is there; ``~`` is the home folder, where a shell has not said so."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text to a path that is checked."""
        return super().convert(os.path.expanduser(str(value)), param, ctx)  # noqa: PTH111 - as it was typed


def check_folder(file: Path) -> None:
    """Refuse a file that is to be written into a folder that is not there, before anything is computed for it."""
    if not file.parent.is_dir():
        raise click.UsageError(f"there is no folder {str(file.parent)!r} to write {file.name!r} into; make it first.")


def files(given: Iterable[str]) -> list[str]:
    """Files by their names or patterns, for shells and quotes that leave ``runs/*.onnx`` as it is."""
    found: list[str] = []
    for text in given:
        path = os.path.expanduser(text)  # noqa: PTH111 - as it was typed
        matching = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))  # noqa: PTH110, PTH207
        if not matching:
            raise click.UsageError(f"there is no file {text!r}.")
        for name in matching:
            if os.path.isdir(name):  # noqa: PTH112 - a name
                raise click.UsageError(
                    f"{name!r} is a folder; name the files in it, such as {name.rstrip('/')}/*.onnx."
                )
        found += matching
    return found


def quoted(store: str) -> str:
    """A store's place as a shell takes it.

    Examples
    --------
    >>> quoted("my zoo.zarr")
    "'my zoo.zarr'"
    """
    return shlex.quote(store)
