"""Parameters of a comparison: what decides its numbers, and is stored with them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dask_svcca.measures import Measure, find_measures, with_companions
from dask_svcca.variables import KEPT_VARIABLES

Convolutional = Literal["dft", "mean", "positions", "flatten"]
Sequential = Literal["mean", "positions", "last"]
Match = Literal["crop", "fold"]
Precision = Literal["float32", "float64"]
Keep = Literal["correlations", "frequencies"]
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
        Under ``positions``, sizes that convolutional layers with as many axes are resampled to.
    mask : str or None
        Coordinate of the zoo, (example, token), that is true for tokens that count.
    precision : {"float32", "float64"}
        Of scores and their products.
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
        if self.variance is not None and not 0 < self.variance <= 1:
            raise ValueError(
                f"variance is the share of the variance to keep, above 0 and up to 1; got {self.variance!r}. "
                f"The paper's is 0.99"
            )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; got {value!r}")
        for name in self.keep:
            if name not in KEPT_VARIABLES:
                raise ValueError(f"keep is some of {', '.join(map(repr, KEPT_VARIABLES))}; got {name!r}")
        if "frequencies" in self.keep and self.conv != "dft":
            raise ValueError(
                f"keep='frequencies' needs conv='dft', which splits layers by frequency; got {self.conv!r}"
            )
        if not re.fullmatch(r"all|(regular|random) [1-9][0-9]*", self.positions):
            raise ValueError(f"positions is 'all', 'regular N' or 'random N'; got {self.positions!r}")
        if self.spatial_size is not None and (not self.spatial_size or min(self.spatial_size) < 1):
            raise ValueError(f"spatial_size is one size an axis, each at least 1; got {self.spatial_size!r}")

    @property
    def records(self) -> tuple[Measure, ...]:
        """The measures themselves, with their companions."""
        return with_companions(find_measures(self.measures))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored."""
        size = list(self.spatial_size) if self.spatial_size else None
        return {**asdict(self), "measures": list(self.measures), "spatial_size": size, "keep": list(self.keep)}


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
    keep: Any = options.pop("keep", ())
    return Parameters(
        measures=names,
        spatial_size=None if size is None else tuple(map(int, size)),
        keep=tuple(sorted({keep} if isinstance(keep, str) else set(keep))),  # type: ignore[arg-type]
        **options,
    )
