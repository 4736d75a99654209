"""Names of measures as they are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dask_svcca.measures import split_names

if TYPE_CHECKING:
    from collections.abc import Iterable


def split_measures(given: Iterable[str]) -> tuple[str, ...]:
    """Names of measures from options that may be repeated, and hold several separated by commas.

    Examples
    --------
    >>> split_measures(["cka, gulp(lambda=0.1)", "mine(a=1,b=2)", "cka"])
    ('cka', 'gulp(lambda=0.1)', 'mine(a=1,b=2)')
    """
    names = [name for text in given for name in split_names(text)]
    if "" in names:
        raise click.UsageError(f"--measure {', '.join(given)!r} has an empty name; write it like svcca,cka.")
    return tuple(dict.fromkeys(names))
