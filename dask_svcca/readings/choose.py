"""Which reading a representation gets under the options of a comparison."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from dask_svcca.errors import did_you_mean
from dask_svcca.readings.kinds import First, Flatten, Fourier, Last, Mean, Neurons, Positions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_svcca.readings.kinds import Reading

Convolutional: TypeAlias = Literal["dft", "mean", "positions", "flatten"]
Sequential: TypeAlias = Literal["mean", "positions", "first", "last"]

_SEQUENCES: Final[dict[str, Callable[..., Reading]]] = {"mean": Mean, "first": First, "last": Last}

CHOICES = {"conv": get_args(Convolutional), "sequence": get_args(Sequential)}


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """What decides how representations are read.

    Attributes
    ----------
    conv : {"dft", "mean", "positions", "flatten"}
        How arrays with spatial axes are read.
    sequence : {"mean", "positions", "first", "last"}
        How arrays with tokens are read.
    positions : str
        Which positions are samples, under ``positions``: ``all``, ``regular N`` or ``random N``.
    spatial_size : tuple of int or None
        Sizes to which convolutional layers with as many axes are resampled, under ``positions``.
    mask : str or None
        Coordinate of the zoo, (example, token), that is true for tokens that count.

    Raises
    ------
    ValueError
        For an option out of range.
    """

    conv: Convolutional = "dft"
    sequence: Sequential = "mean"
    positions: str = "all"
    spatial_size: tuple[int, ...] | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if not re.fullmatch(r"all|(regular|random) [1-9][0-9]*", self.positions):
            raise ValueError(f"positions is 'all', 'regular N' or 'random N'; got {self.positions!r}")
        if self.spatial_size is not None and (not self.spatial_size or min(self.spatial_size) < 1):
            raise ValueError(f"spatial_size is one size an axis, each at least 1; got {self.spatial_size!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored."""
        return {
            "conv": self.conv,
            "sequence": self.sequence,
            "positions": self.positions,
            "spatial_size": list(self.spatial_size) if self.spatial_size else None,
            "mask": self.mask,
        }


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError where an option is none of its choices.

    Examples
    --------
    >>> check_choice("conv", "flat", ("dft", "flatten"))
    Traceback (most recent call last):
    ValueError: conv is one of 'dft', 'flatten'; got 'flat'. Did you mean 'flatten'?
    """
    if value not in choices:
        raise ValueError(
            f"{name} is one of {', '.join(map(repr, choices))}; got {value!r}{did_you_mean(value, choices)}"
        )


def choose_reading(dims: Sequence[str], shape: Sequence[int], options: ReadingOptions) -> Reading:
    """How a representation of these dims is read.

    Parameters
    ----------
    dims : sequence of str
        The first is ``example``, the last ``neuron`` or ``channel``.
    shape : sequence of int
    options : ReadingOptions

    Examples
    --------
    >>> choose_reading(("example", "height", "width", "channel"), (100, 8, 8, 16), ReadingOptions(conv="dft")).grid
    (8, 8)
    >>> choose_reading(("example", "neuron"), (100, 16), ReadingOptions())
    Neurons(sizes=())
    """
    sizes = tuple(shape[1:-1])
    if not sizes:
        return Neurons()
    if "token" in dims:
        mask = options.mask or ""
        if options.sequence == "positions":
            return Positions(sizes, mask_name=mask, choice=options.positions)
        return _SEQUENCES[options.sequence](sizes, mask_name=mask)
    if options.conv == "positions":
        size = options.spatial_size or ()
        # A layer with another number of axes stays as it is, and has no samples in common with those resampled.
        return Positions(sizes, choice=options.positions, resampled=size if len(size) == len(sizes) else ())
    if math.prod(sizes) == 1 or options.conv == "flatten":
        # A layer of one position has one frequency, as a dense layer has.
        return Flatten(sizes)
    return Mean(sizes) if options.conv == "mean" else Fourier.of(sizes)
