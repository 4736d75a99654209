"""Parameters of a comparison: what decides its numbers, and is stored with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from dask_svcca.measures import find_measures, with_companions
from dask_svcca.readings import ReadingOptions
from dask_svcca.variables import DETAIL_VARIABLES

if TYPE_CHECKING:
    from dask_svcca.measures import Measure
    from dask_svcca.readings.choose import Convolutional, Sequential

Match = Literal["crop", "fold"]
Precision = Literal["float32", "float64"]
Keep = Literal["correlations", "frequencies"]
_CHOICES = {"match": get_args(Match), "precision": get_args(Precision)}

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
        share = _plain(self.variance)
        if share is not None and not (
            isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        ):
            raise ValueError(
                f"variance is the share of the variance to keep, above 0 and up to 1; got {self.variance!r}. "
                f"The paper's is 0.99"
            )
        object.__setattr__(self, "variance", share)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; got {value!r}")
        for name in self.keep:
            if name not in DETAIL_VARIABLES:
                raise ValueError(f"keep is some of {', '.join(map(repr, DETAIL_VARIABLES))}; got {name!r}")
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


def _plain(number: Any) -> Any:
    """A number as JSON has it: that of a NumPy scalar which prints alike; anything else as it is.

    Examples
    --------
    >>> _plain(np.float32(0.99)), _plain(np.int64(1))
    (0.99, 1.0)
    """
    if isinstance(number, np.integer | np.floating):
        return float(str(number))
    return number


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
