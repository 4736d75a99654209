"""Class sensitivity of one model at a time, for the labels of the zoo that a comparison is of."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from dask_svcca.analysis.sensitivity import class_sensitivity
from dask_svcca.errors import DaskSvccaError, InvalidQuestionError
from dask_svcca.explore.values import MOST_VALUES, as_json, evenly
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores.zoo.create import open_zoo

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from dask_svcca.stores.comparison import ComparisonStore
    from dask_svcca.stores.zoo import Zoo

MOST_CLASSES: Final = 1000
"""Classes that labels have, at most; with more they are names of examples rather than classes."""

SHOWN_CLASSES: Final = 50
"""Classes that one answer has, at most."""

HELD: Final = 8
"""Models whose classes are in memory at a time."""


class Classes:
    """Labels of the zoo of a comparison, and how well layers tell them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._seen: object = None
        self._zoo: Zoo | None = None
        self.labels: list[str] = []

    def refresh(self, comparison: ComparisonStore) -> None:
        """Look at the zoo anew; what was computed of another zoo, or of less, is forgotten."""
        attributes = comparison.root.attrs
        zoo, labels = None, []
        # A comparison is read without its zoo, which may be elsewhere or gone; then there are no labels.
        with contextlib.suppress(DaskSvccaError):
            zoo = open_zoo(str(attributes["zoo"]))
            labels = [name for name, values in zoo.coords.items() if _are_classes(values)]
        seen = attributes.get(SEAL), None if zoo is None else dict(zoo.root.attrs)
        with self._lock:
            if seen != self._seen:
                self._known.clear()
            self._seen, self._zoo, self.labels = seen, zoo, sorted(labels, key=lambda name: name != "label")

    def of_model(self, part: xr.Dataset, model: str, labels: str) -> dict[str, Any]:
        """How well each layer of a model tells each class, as JSON has it: see `class_sensitivity`.

        Parameters
        ----------
        part : xarray.Dataset
            Of the comparison: the model alone.
        model : str
        labels : str

        Raises
        ------
        InvalidQuestionError
            Where there are no such labels.
        """
        if self._zoo is None or labels not in self.labels:
            raise InvalidQuestionError(
                f"the zoo of this comparison has no labels {labels!r}; it has {', '.join(self.labels) or 'none'}"
            )
        # One at a time: whoever asks for the same waits for it.
        with self._lock:
            known = self._known.pop((model, labels), None)
            found = _as_json(class_sensitivity(part, zoo=self._zoo, labels=labels)) if known is None else known
            for old in list(self._known)[: 1 - HELD]:
                del self._known[old]
            self._known[model, labels] = found
        return found


def _are_classes(values: np.ndarray[Any, Any]) -> bool:
    if values.ndim != 1 or values.dtype.kind == "f":
        return False
    return 1 < len(set(values.tolist())) <= min(MOST_CLASSES, len(values) - 1)


def _as_json(found: xr.Dataset) -> dict[str, Any]:
    """Some classes where there are many, and some checkpoints, from the first to the last."""
    found = found.isel(model=0)
    available = {name: found.sizes[name] for name in ("checkpoint", "class")}
    found = found.isel({"class": slice(SHOWN_CLASSES)})
    room = max(2, MOST_VALUES // (found.sizes["layer"] * found.sizes["class"]))
    found = found.isel(checkpoint=evenly(found.sizes["checkpoint"], room))
    return {
        "available": available,
        "layers": found["layer"].to_numpy().tolist(),
        "checkpoints": found["checkpoint"].to_numpy().tolist(),
        "steps": as_json(found["step"].to_numpy()),
        "classes": [str(one) for one in found["class"].to_numpy().tolist()],
        "values": as_json(found["sensitivity"].transpose("checkpoint", "layer", "class").to_numpy()),
        "chance": as_json(found["chance"].transpose("checkpoint", "layer").to_numpy()),
        "rank": as_json(found["rank"].transpose("checkpoint", "layer").to_numpy()),
        "untrained": as_json(found["untrained"].transpose("layer", "class").to_numpy()),
        "first_step": as_json(found["first_step"].item()),
    }
