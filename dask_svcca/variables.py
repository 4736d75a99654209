"""Every variable a comparison stores, declared once: from here come dtype, fill value, attributes and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt


class PairStatus(IntEnum):
    """What became of a pair. Anything but MISSING, PARTIAL and ESTIMATED is final for these inputs and parameters.

    FAILED: one of the two could not be compared with anything; its ``problem`` says why. INCOMPATIBLE_GRIDS: sizes of
    convolutional layers that neither crop nor fold. INCOMPATIBLE_SAMPLES: only one of the two has positions as samples,
    or their positions differ. SATURATED: there are values, but with so few samples that at least one of them is the
    same whatever the data; the attribute ``saturates`` of a measure says when. PARTIAL: some measures have values;
    those that were added later do not yet. ESTIMATED: nothing is computed yet, and measures have no values; variables
    of other names have estimates, such as ``cka_estimate``.
    """

    MISSING = 0
    DONE = 1
    FAILED = 2
    INCOMPATIBLE_GRIDS = 3
    INCOMPATIBLE_SAMPLES = 4
    SATURATED = 5
    PARTIAL = 6
    ESTIMATED = 7


VALUED: Final = (PairStatus.DONE, PairStatus.SATURATED)

PENDING: Final = (PairStatus.MISSING, PairStatus.ESTIMATED)
"""Of which nothing is computed yet."""

UNFINISHED: Final = (*PENDING, PairStatus.PARTIAL)
"""Of which something is to be computed."""


def have_status(status: npt.NDArray[np.uint8], states: Iterable[PairStatus]) -> npt.NDArray[np.bool_]:
    """Which pairs have one of some states, in a fortieth of the time of `numpy.isin`.

    Parameters
    ----------
    status : numpy.ndarray
        `PairStatus` values.
    states : iterable of PairStatus

    Examples
    --------
    >>> have_status(np.array([0, 1, 5], np.uint8), VALUED)
    array([False,  True,  True])
    """
    found = np.zeros(status.shape, dtype=np.bool_)
    for state in states:
        # Compared with a member of an enumeration, bytes would be converted one by one.
        found |= status == np.uint8(state)
    return found


@dataclass(frozen=True, slots=True)
class Variable:
    """Declaration of one stored variable.

    Attributes
    ----------
    name : str
        Without the suffix ``_a`` or ``_b`` that a variable along one axis gets.
    kind : {"pair", "representation", "axis"}
        Dims: ``(representation_a, representation_b)``, one of the two, or neither.
    dtype : str
        ``string``, or a NumPy dtype.
    fill : int, float or str
        Value of elements that were never written.
    description : str
        Stored as ``long_name``, which figures of xarray have as labels, and what follows a colon as ``comment``.
    units : str
        ``1`` for shares and correlations; empty for none.
    coordinate : bool
        Whether xarray shows it as a coordinate.
    dims : tuple of str
        Further dims, after those of its kind.
    """

    name: str
    kind: Literal["pair", "representation", "axis"]
    dtype: str
    fill: float | str
    description: str
    units: str = ""
    coordinate: bool = False
    dims: tuple[str, ...] = ()

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes stored with the variable."""
        name, _, comment = self.description.partition(": ")
        attributes: dict[str, Any] = {"long_name": name, **({"comment": comment} if comment else {})}
        if self.units:
            attributes["units"] = self.units
        return attributes


REPRESENTATION_VARIABLES: Final = (
    Variable("representation", "representation", "string", "", "label: model/checkpoint/layer", coordinate=True),
    Variable("model", "representation", "string", "", "model", coordinate=True),
    Variable("checkpoint", "representation", "string", "", "checkpoint", coordinate=True),
    Variable("layer", "representation", "string", "", "layer", coordinate=True),
    Variable("step", "representation", "float64", np.nan, "training step of the checkpoint", coordinate=True),
    Variable("depth", "representation", "float64", np.nan, "position of the layer in the network", coordinate=True),
    Variable(
        "parent",
        "representation",
        "string",
        "",
        "label of the checkpoint that the training of this one began with: model/checkpoint; empty for none",
        coordinate=True,
    ),
    Variable("neurons", "representation", "int64", -1, "number of neurons, or of channels of a conv layer"),
    Variable("samples", "representation", "int64", -1, "number of samples that entered the covariance"),
    Variable(
        "rank",
        "representation",
        "int64",
        -1,
        "directions kept by the variance threshold: with multiplicities, 0 where no measure asked for directions",
    ),
    Variable("variance_kept", "representation", "float64", np.nan, "share of the variance in the kept directions", "1"),
    Variable("digest", "representation", "string", "", "digest of the activations compared"),
    Variable("subspace", "representation", "string", "", "key of its subspace: digest and reading"),
    Variable(
        "problem",
        "representation",
        "string",
        "",
        "why this representation could not be compared, or not by all measures; empty if it was",
    ),
)

DETAIL_VARIABLES: Final = {
    "correlations": Variable(
        "correlations",
        "pair",
        "float32",
        np.nan,
        "canonical correlations of the kept directions, descending, each as often as its frequency counts; their mean "
        "is svcca. NaN after the last",
        "1",
        dims=("component",),
    ),
    "frequencies": Variable(
        "svcca_by_frequency",
        "pair",
        "float32",
        np.nan,
        "mean canonical correlation at each spatial frequency of convolutional layers: sum(r) / min(k, l) of its kept "
        "directions. 0 where only one layer keeps any, NaN where neither does or the frequency is not compared",
        "1",
        dims=("frequency_y", "frequency_x"),
    ),
}
"""What a comparison can store of every pair beside its measures, by the name that ``keep`` takes."""

ESTIMATED_MEASURE: Final = "cka"
"""The only measure of which there are estimates."""

ESTIMATE: Final = Variable(
    "cka_estimate",
    "pair",
    "float32",
    np.nan,
    "estimate of cka from sketches, made before it is computed: it is not exact. NaN where there is none",
    "1",
)

ESTIMATE_ERROR: Final = Variable("cka_estimate_error", "pair", "float32", np.nan, "standard error of cka_estimate", "1")

ESTIMATE_VARIABLES: Final = (ESTIMATE, ESTIMATE_ERROR)
"""What a comparison stores of pairs before they are computed, where that is asked for; never in place of a measure."""

FREQUENCY_AXES: Final = tuple(
    Variable(name, "axis", "int64", 0, f"cycles over the {length} of the layer", dims=(name,))
    for name, length in (("frequency_y", "height"), ("frequency_x", "width"))
)

PAIR_STATUS: Final = Variable("pair_status", "pair", "uint8", int(PairStatus.MISSING), "what became of the pair")

SKETCH: Final = "sketch"
COARSE: Final = "coarse"
"""The numbers of sketches, (representation, feature)."""

STORED_NAMES: Final = frozenset(
    {
        PAIR_STATUS.name,
        *(variable.name for variable in (*DETAIL_VARIABLES.values(), *FREQUENCY_AXES, *ESTIMATE_VARIABLES)),
        *(f"{variable.name}_{side}" for variable in REPRESENTATION_VARIABLES for side in "ab"),
    }
)
"""Names of all variables of a comparison except its measures."""

STATUS_ATTRIBUTES: Final = {
    "flag_values": [int(status) for status in PairStatus],
    "flag_meanings": " ".join(status.name.lower() for status in PairStatus),
}
