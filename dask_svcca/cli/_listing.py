"""What commands share that list pairs, the most similar first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dask_svcca.cli._paths import check_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_TOP: Final = 20

_OPTIONS: Final = (
    click.option(
        "--measure",
        "measures",
        multiple=True,
        metavar="NAME",
        help="Measures to list, sorted by the first; may be repeated, or separated by commas "
        "[default: the first of the comparison].",
    ),
    click.option(
        "--top",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Only the N most similar [default: {DEFAULT_TOP}; all with --csv, --json].",
    ),
    click.option(
        "--csv",
        "csv_file",
        is_flag=False,
        flag_value="-",
        type=click.Path(dir_okay=False, allow_dash=True),
        metavar="[FILE]",
        help="Write CSV, to standard output unless a file is named.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with a record for each pair."),
)


def listing(command: Command) -> Command:
    """Give a command the options that say what is listed, how many, and in which form."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_form(csv_file: str | None, *, as_json: bool) -> None:
    """Refuse two forms of one list, and a file that cannot be written, before anything is read."""
    if as_json and csv_file is not None:
        raise click.UsageError("--json and --csv are two forms of the same; use one.")
    if csv_file not in {None, "-"}:
        check_folder(Path(str(csv_file)))
