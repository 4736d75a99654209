"""What every way of capturing shares: the report, choosing layers by name, and the axes of a tensor."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_svcca.dims import as_dims, dims_of
from dask_svcca.errors import MissingPackageError
from dask_svcca.patterns import matching

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["CaptureReport", "as_dims", "dims_of", "listing", "require", "select"]


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What became of one checkpoint.

    Attributes
    ----------
    model, checkpoint : str
    written : int
        Representations added to the zoo.
    present : int
        Representations that the zoo had already.
    skipped : mapping of str to str
        Tensors that cannot be representations, and why.
    examples : int
    nbytes : int
        Size of the activations written, before compression.
    seconds : float
    """

    model: str
    checkpoint: str
    written: int
    present: int
    examples: int
    nbytes: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)


def require(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises
    ------
    MissingPackageError
        Where it cannot be imported, naming the extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"capturing needs the package {package!r}, which cannot be imported ({error}); "
            f"pip install 'dask-svcca[{extra}]'"
        ) from error


def select(names: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Names that match any of some patterns; all of them without patterns.

    Parameters
    ----------
    names : iterable of str
    patterns : str or sequence of str, optional
        See `dask_svcca.patterns.matches`: ``*`` for one level, ``**`` for any text, ``?`` for one character. One text
        may hold several, separated by commas. A name matches itself, whatever characters it has.

    Returns
    -------
    list of str
        In the order of ``names``.

    Examples
    --------
    >>> select(["conv1", "block1.conv1", "block1.relu", "fc"], "**conv?, fc")
    ['conv1', 'block1.conv1', 'fc']
    """
    return list(names) if patterns is None else matching(names, patterns)


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message, at most ``limit`` of them.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2), listing([])
    ("'a', 'b' and 1 more", 'none')
    """
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "none") + more
