"""How a representation is written: all that is said of it, checked and made plain JSON before anything is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from dask_svcca.dims import check_names
from dask_svcca.precision import epsilon_of
from dask_svcca.stores._documents import Compression
from dask_svcca.stores._names import checkpoint_label
from dask_svcca.stores.zoo.index import RESERVED

if TYPE_CHECKING:
    from collections.abc import Sequence

Stored: TypeAlias = Literal["float16", "float32", "float64"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a representation is written; see `Zoo.write`.

    Raises
    ------
    ValueError
        For what is out of range, or cannot be stored.
    """

    step: float | None
    depth: float | None
    dims: Sequence[str] | None
    attrs: Mapping[str, Any] | None
    compression: Compression
    dtype: Stored | None
    source_dtype: str | None = None
    parent: str | None = None

    def __post_init__(self) -> None:
        for name in ("step", "depth"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.dims is not None:
            check_names(self.dims)
        if self.attrs is not None and not isinstance(self.attrs, Mapping):
            raise ValueError(f"attrs is a mapping of text to values; got {self.attrs!r}")
        attrs = _plain(self.attrs or {}, "attrs")
        taken = [name for name in attrs if name in RESERVED]
        if taken:
            raise ValueError(
                f"attrs has {taken[0]!r}, which the zoo itself stores of a representation; leave it out, or pass it as "
                f"an argument of its own"
            )
        object.__setattr__(self, "attrs", attrs)
        if self.compression not in get_args(Compression):
            choices = ", ".join(map(repr, get_args(Compression)))
            raise ValueError(f"compression is one of {choices}; got {self.compression!r}")
        if self.dtype is not None and self.dtype not in get_args(Stored):
            raise ValueError(f"dtype is one of {', '.join(map(repr, get_args(Stored)))}; got {self.dtype!r}")
        if self.source_dtype is not None:
            epsilon_of(self.source_dtype)


def check_parent(parent: Any, model: str, checkpoint: str) -> None:
    """Refuse what is not the label of a checkpoint, or is that of the checkpoint itself.

    Raises
    ------
    ValueError
    """
    if parent is None:
        return
    if not isinstance(parent, str) or parent.count("/") != 1 or not all(parent.split("/")):
        raise ValueError(
            f"parent is the checkpoint that a training began with, as 'model/checkpoint', where a slash in a name is "
            f"%2F; got {parent!r}"
        )
    if parent == checkpoint_label(model, checkpoint):
        raise ValueError(
            f"parent={parent!r} is this checkpoint itself; give the one that its training began with, or leave it out"
        )


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    plain = value.item() if isinstance(value, np.generic) else value
    valid = isinstance(plain, Real) and not isinstance(plain, bool)
    try:
        valid = valid and math.isfinite(plain)
    except OverflowError:
        valid = False
    if not valid:
        raise ValueError(f"{name} must be a finite number, or None for none; got {value!r}")
    return int(plain) if isinstance(plain, Integral) else float(plain)


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{where}[{position}]") for position, entry in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    raise ValueError(
        f"{where} is {value!r}, which cannot be stored: attributes are text, finite numbers, booleans, None, and lists "
        f"and dicts of these with text as keys"
    )
