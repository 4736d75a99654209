"""Parameters of a comparison: what decides its numbers, and is stored with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dask_svcca.measures import Measure, find_measures

Convolutional = Literal["mean"]
Sequential = Literal["mean"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides the numbers of a comparison.

    Attributes
    ----------
    measures : tuple of str
    variance : float or None
        Share of the variance that the kept directions explain, in (0, 1].
    conv, sequence : str
        How arrays with spatial axes, or with tokens, are read.
    precision : {"float32", "float64"}
        Of scores and their products.
    """

    measures: tuple[str, ...] = ("svcca",)
    variance: float | None = 0.99
    conv: Convolutional = "mean"
    sequence: Sequential = "mean"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.variance is not None and not 0 < self.variance <= 1:
            raise ValueError(
                f"variance is the share of the variance to keep, above 0 and up to 1; got {self.variance!r}. "
                f"The paper's is 0.99"
            )
        for name, choices in (("conv", Convolutional), ("sequence", Sequential), ("precision", Precision)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}; got {value!r}")

    @property
    def records(self) -> tuple[Measure, ...]:
        """The measures themselves."""
        return find_measures(self.measures)

    @property
    def leading_only(self) -> bool:
        """Whether no measure looks beyond the directions that the threshold keeps."""
        return all(measure.directions == "kept" for measure in self.records)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored."""
        return {**asdict(self), "measures": list(self.measures)}


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
    return Parameters(measures=tuple(measure.name for measure in find_measures(measures)), **options)
