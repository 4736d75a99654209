"""Parameters of a comparison: what decides its numbers, and is stored with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import Enum
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np

from dask_svcca.errors import did_you_mean
from dask_svcca.measures import find_measures, one_name, with_companions
from dask_svcca.readings import CHOICES, ReadingOptions, check_choice
from dask_svcca.variables import DETAIL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.measures import Measure
    from dask_svcca.readings.choose import Convolutional, Sequential

Match = Literal["crop", "fold"]
Precision = Literal["float32", "float64"]
Keep = Literal["correlations", "frequencies"]
_CHOICES = {"match": get_args(Match), "precision": get_args(Precision)}


class MaskChoice(Enum):
    """A mask that is not given by its name."""

    ONLY = "the only mask of the zoo, if it has one"

    def __repr__(self) -> str:
        return f"<{self.value}>"


ONLY_MASK: Final = MaskChoice.ONLY
"""Default of ``mask``: it is used without being asked for, and None declines it."""

Mask: TypeAlias = "str | Literal[MaskChoice.ONLY] | None"

GROWING = ("measures", "keep")
"""Parameters that a comparison may gain values of; all others are fixed when it is made."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides the numbers of a comparison.

    Attributes
    ----------
    measures : tuple of str
    variance : float or None
        Share of the variance that the kept directions explain, in (0, 1].
    conv, sequence, positions, spatial_size, mask
        See `ReadingOptions`.
    match : {"crop", "fold"}
        Under ``dft``, how layers of unequal sizes are compared.
    precision : {"float32", "float64"}
        Precision of scores and their products.
    keep : tuple of {"correlations", "frequencies"}
        What to store of every pair beside its measures: all canonical correlations, or their mean at each spatial
        frequency.
    """

    measures: tuple[str, ...] = ("svcca",)
    variance: float | None = 0.99
    conv: Convolutional = "dft"
    match: Match = "crop"
    sequence: Sequential = "mean"
    positions: str = "all"
    spatial_size: tuple[int, ...] | None = None
    mask: str | None = None
    precision: Precision = "float32"
    keep: tuple[Keep, ...] = ()

    def __post_init__(self) -> None:
        for name, convert in _PLAIN.items():
            object.__setattr__(self, name, convert(name, getattr(self, name)))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in self.keep:
            if name not in DETAIL_VARIABLES:
                raise ValueError(
                    f"keep is some of {', '.join(map(repr, DETAIL_VARIABLES))}; got {name!r}"
                    f"{did_you_mean(name, DETAIL_VARIABLES)}"
                )
        if "frequencies" in self.keep and self.conv != "dft":
            raise ValueError(
                f"keep='frequencies' needs conv='dft', which splits layers by frequency; got {self.conv!r}"
            )
        # `ReadingOptions` checks its options.
        _ = self.reading

    @property
    def reading(self) -> ReadingOptions:
        """How representations are read."""
        return ReadingOptions(self.conv, self.sequence, self.positions, self.spatial_size, self.mask)

    @property
    def records(self) -> tuple[Measure, ...]:
        """The measures themselves, with their companions."""
        return with_companions(find_measures(self.measures))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored."""
        size = list(self.spatial_size) if self.spatial_size else None
        return {**asdict(self), "measures": list(self.measures), "spatial_size": size, "keep": list(self.keep)}

    @property
    def fixed(self) -> dict[str, Any]:
        """Parameters that a comparison cannot change, as stored."""
        return {name: value for name, value in self.to_dict().items() if name not in GROWING}


def make_parameters(measures: str | Iterable[str], **options: Any) -> Parameters:
    """Parameters from what a caller gave: one measure or several, checked.

    Parameters
    ----------
    measures : str or iterable of str
        As for `find_measures`; each by its one name, however it is spelled.
    **options : object
        Fields of `Parameters`.

    Raises
    ------
    UnknownMeasureError, ValueError
    TypeError
        For an option that does not exist.

    Examples
    --------
    >>> make_parameters("svcca", variance=0.9).variance
    0.9
    """
    check_names(options, [field.name for field in fields(Parameters)], "compare")
    names = measures if isinstance(measures, str) else _texts("measures", measures)
    asked = dict.fromkeys(one_name(measure.name) for measure in find_measures(names))
    return Parameters(measures=tuple(asked), **options)


def check_names(options: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raise TypeError, as Python does, for a keyword that a function does not have; and say which it may be.

    Examples
    --------
    >>> check_names({"varience": 0.9}, ["variance"], "compare")
    Traceback (most recent call last):
    TypeError: compare() has no parameter 'varience'. Did you mean 'variance'?
    """
    known = list(known)
    for name in options:
        if name not in known:
            near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise TypeError(f"{function}() has no parameter {name!r}{near}")


def _share(name: str, value: object) -> float | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.floating):
        # The number that prints alike: 0.99 in single precision is meant as 0.99.
        value = float(str(value))
    if value is None:
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ValueError(
            f"{name} is the share of the variance to keep, above 0 and up to 1; got {value!r}. The paper's is 0.99, "
            f"and None (on the command line: none) keeps all"
        )
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        words = {**CHOICES, **_CHOICES, "positions": ("all", "regular N", "random N")}[name]
        raise ValueError(  # noqa: TRY004 - as for other values
            f"{name} is one of {', '.join(map(repr, words))}; got {value!r}"
        )
    # Text of NumPy is not the text of JSON.
    return str(value)


def _name_or_none(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    raise ValueError(f"{name} is the name of a coordinate of the zoo, or None; got {value!r}")


def _texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (str(value),)
    names = list(value) if isinstance(value, Iterable) else [value]
    for one in names:
        if not isinstance(one, str):
            raise ValueError(f"{name} is a name, or several names; got {one!r}")  # noqa: TRY004 - as for other values
    return tuple(map(str, names))


def _details(name: str, value: object) -> tuple[str, ...]:
    return tuple(sorted(set(_texts(name, value))))


def _sizes(name: str, value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = list(value) if isinstance(value, Iterable) else None
    if sizes is None or any(isinstance(size, bool | np.bool_) or not isinstance(size, Integral) for size in sizes):
        raise ValueError(f"{name} is one size an axis, whole numbers such as (8, 8); got {value!r}")
    return tuple(map(int, sizes))


_PLAIN: Final[Mapping[str, Callable[[str, object], object]]] = {
    "measures": _texts,
    "variance": _share,
    "spatial_size": _sizes,
    "mask": _name_or_none,
    "keep": _details,
    **dict.fromkeys(("conv", "match", "sequence", "positions", "precision"), _text),
}
"""Makes values as JSON has them of what a caller gave, and refuses what is none: they are stored, and compared."""
