"""Parameters of a comparison: what decides its numbers, and is stored with them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dask_svcca.measures import Measure, find_measures, with_companions

Convolutional = Literal["dft", "mean", "positions", "flatten"]
Sequential = Literal["mean", "positions", "last"]
Match = Literal["crop", "fold"]
Precision = Literal["float32", "float64"]
_CHOICES = {
    "conv": get_args(Convolutional),
    "match": get_args(Match),
    "sequence": get_args(Sequential),
    "precision": get_args(Precision),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides the numbers of a comparison.

    Attributes
    ----------
    measures : tuple of str
    variance : float or None
        Share of the variance that the kept directions explain, in (0, 1].
    conv : {"dft", "mean", "positions", "flatten"}
        How arrays with spatial axes are read.
    match : {"crop", "fold"}
        Under ``dft``, how layers of unequal sizes meet.
    sequence : {"mean", "positions", "last"}
        How arrays with tokens are read.
    positions : str
        Under ``positions``, which: ``all``, ``regular N`` or ``random N``.
    spatial_size : tuple of int or None
        Under ``positions``, sizes that all convolutional layers are resampled to.
    mask : str or None
        Coordinate of the zoo, (example, token), that is true for tokens that count.
    precision : {"float32", "float64"}
        Of scores and their products.
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

    def __post_init__(self) -> None:
        if self.variance is not None and not 0 < self.variance <= 1:
            raise ValueError(
                f"variance is the share of the variance to keep, above 0 and up to 1; got {self.variance!r}. "
                f"The paper's is 0.99"
            )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; got {value!r}")
        if not re.fullmatch(r"all|(regular|random) [1-9][0-9]*", self.positions):
            raise ValueError(f"positions is 'all', 'regular N' or 'random N'; got {self.positions!r}")
        if self.spatial_size is not None and (not self.spatial_size or min(self.spatial_size) < 1):
            raise ValueError(f"spatial_size is one size an axis, each at least 1; got {self.spatial_size!r}")

    @property
    def records(self) -> tuple[Measure, ...]:
        """The measures themselves, with their companions."""
        return with_companions(find_measures(self.measures))

    @property
    def leading_only(self) -> bool:
        """Whether no measure looks beyond the directions that the threshold keeps."""
        return all(measure.directions == "kept" for measure in self.records)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored."""
        size = list(self.spatial_size) if self.spatial_size else None
        return {**asdict(self), "measures": list(self.measures), "spatial_size": size}


def make_parameters(measures: str | tuple[str, ...] | list[str], **options: Any) -> Parameters:
    """Parameters from what a caller gave: one measure or several, checked.

    Raises
    ------
    UnknownMeasureError, ValueError

    Examples
    --------
    >>> make_parameters("svcca", variance=0.9).variance
    0.9
    """
    names = tuple(measure.name for measure in find_measures(measures))
    size = options.pop("spatial_size", None)
    return Parameters(measures=names, spatial_size=None if size is None else tuple(map(int, size)), **options)
