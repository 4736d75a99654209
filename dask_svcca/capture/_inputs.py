"""The file of examples that is fed to models: npy, or npz with an array for each model input."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import listing
from dask_svcca.capture.arrays import open_arrays
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

IDS = "example"
"""Name of the array that holds the ids of the examples."""

STATE = re.compile(r"(?i)(^|[^a-z])(h|c|hx|cx|hn|cn|hidden|cell|past|cache|memory)([^a-z]|$)|state|past_key")
"""Names of inputs that a recurrent model starts from: zeros, where the file has none."""

ATTENTION, MASK = "attention_mask", "mask"
"""Name of the array that says which tokens count, and of the coordinate of a zoo that does."""

SCAN_ROWS = 1024


@dataclass(frozen=True)
class Inputs:
    """Arrays along the same examples; which of them are a model's inputs, only the model can say.

    Attributes
    ----------
    path : str
    arrays : mapping of str to (example, ...)
        The one array of an npy file is called ``""``, and is the input of any model that has one.
    constants : mapping of str to () array
        Inputs that are one number for all examples.
    """

    path: str
    arrays: Mapping[str, npt.NDArray[Any]]
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, input_names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Arrays for the inputs of a model.

        Inputs that are states may be left out: see `STATE`.

        Raises
        ------
        CaptureError
            Where an input is not in the file, or holds NaN, or a single number is not an input.
        """
        states = {name for name in input_names[1:] if STATE.search(name)}
        if "" in self.arrays:
            required = [name for name in input_names if name not in states]
            if len(required) != 1:
                raise CaptureError(
                    f"{self.path!r} holds one array, the model has {len(required)} inputs: {listing(required)}. "
                    f"Save an npz with an array for each: np.savez(file, name=array, ...)"
                )
            feeds = {required[0]: self.arrays[""]}
        else:
            if stray := [name for name in self.constants if name not in input_names]:
                raise CaptureError(
                    f"{stray[0]!r} of {self.path!r} is a single number, and not an input of the model, which has "
                    f"{listing(input_names)}; all arrays must have one entry per example along their first axis. "
                    f"Leave it out"
                )
            given = {**self.arrays, **self.constants}
            missing = [name for name in input_names if name not in given and name not in states]
            if missing:
                raise CaptureError(
                    f"the model's inputs are {listing(input_names)}; {self.path!r} has no array {listing(missing)}, "
                    f"only {listing(self.arrays)}. Save the npz with the names of the model's inputs"
                )
            feeds = {name: given[name] for name in input_names if name in given}
        for name, array in feeds.items():
            self._refuse_nan(name, array)
        return feeds

    def coords(self, input_names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Arrays that are neither inputs of the models nor ids, to be coordinates such as ``label``.

        An ``attention_mask`` of zeros and ones, (example, token), becomes the coordinate ``mask``, whether or not
        models take it.

        Raises
        ------
        CaptureError
            Where an array has more than one value per example.
        """
        others = {name: array for name, array in self.arrays.items() if name not in {"", IDS, *input_names}}
        attention = self.arrays.get(ATTENTION)
        if attention is not None and attention.ndim == 2 and not np.setdiff1d(attention, (0, 1)).size:
            others.pop(ATTENTION, None)
        else:
            attention = None
        for name, array in others.items():
            if array.ndim != 1:
                raise CaptureError(
                    f"array {name!r} of {self.path!r} is not an input of the models (they have {listing(input_names)}) "
                    f"and cannot be a coordinate, which has one value per example: its shape is {array.shape}. Leave "
                    f"it out"
                )
        return others if attention is None or MASK in others else {**others, MASK: attention.astype(bool)}

    def ids(self, input_names: Sequence[str]) -> npt.NDArray[Any]:
        """Ids of the examples: the array ``example``, or else hashes of what the model sees.

        With hashes, activations of other inputs cannot pass for activations of these. A repeated example gets a number
        after its hash.
        """
        if IDS in self.arrays and IDS not in input_names:
            return self.arrays[IDS]
        feeds = self.feeds(input_names)
        seen: Counter[str] = Counter()
        ids = []
        for example in range(len(self)):
            digest = hashlib.sha256()
            for array in (array for _, array in sorted(feeds.items()) if array.ndim):
                digest.update(f"{array.dtype.str}{array.shape[1:]}".encode())
                digest.update(np.ascontiguousarray(array[example]).data)
            text = digest.hexdigest()[:16]
            seen[text] += 1
            ids.append(text if seen[text] == 1 else f"{text}#{seen[text]}")
        return np.array(ids)

    def _refuse_nan(self, name: str, array: npt.NDArray[Any]) -> None:
        if array.dtype.kind != "f":
            return
        array = np.atleast_1d(array)
        for start in range(0, len(array), SCAN_ROWS):
            nan = np.isnan(array[start : start + SCAN_ROWS])
            if nan.any():
                first = tuple(int(i) for i in np.argwhere(nan)[0])
                which = f"array {name!r}" if "" not in self.arrays else "the array"
                raise CaptureError(
                    f"{which} of {self.path!r} holds NaN, first at index "
                    f"{(first[0] + start, *first[1:])}. Remove or fill these examples"
                )


def load_inputs(path: str | os.PathLike[str]) -> Inputs:
    """Read a file of examples.

    Parameters
    ----------
    path : str or path
        npy with the only input of the models, or npz with an array for each input. Further arrays of an npz along the
        examples become coordinates, such as ``label``; the array ``example`` gives their ids (text or integers).

    Returns
    -------
    Inputs

    Raises
    ------
    CaptureError
        Where the file cannot be read, or its arrays differ in length.

    Examples
    --------
    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/examples.npz"
    >>> np.savez(file, input=np.zeros((2, 1, 8, 8), "float32"), label=[3, 7])
    >>> inputs = load_inputs(file)
    >>> inputs.feeds(["input"])["input"].shape, inputs.coords(["input"])
    ((2, 1, 8, 8), {'label': array([3, 7])})
    """
    file = open_arrays(path)
    arrays = {name: file.load(name) for name in file.headers}
    constants = {name: array for name, array in arrays.items() if not array.ndim and name}
    arrays = {name: array for name, array in arrays.items() if name not in constants}
    lengths = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise CaptureError(
            f"the arrays of {str(path)!r} must all have one entry per example along their first axis; their lengths "
            f"are {lengths}"
        )
    return Inputs(str(path), arrays, constants)
