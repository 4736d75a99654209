"""The file of examples that is fed to models: npy, or npz with an array for each model input."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import listing
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

IDS = "example"
"""Name of the array that holds the ids of the examples."""

SCAN_ROWS = 1024


@dataclass(frozen=True)
class Inputs:
    """Arrays along the same examples; which of them are a model's inputs, only the model can say.

    Attributes
    ----------
    path : str
    arrays : mapping of str to (example, ...)
        The one array of an npy file is called ``""``, and is the input of any model that has one.
    """

    path: str
    arrays: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, input_names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Arrays for the inputs of a model.

        Raises
        ------
        CaptureError
            Where an input is not in the file, or holds NaN.
        """
        if "" in self.arrays:
            if len(input_names) != 1:
                raise CaptureError(
                    f"{self.path!r} holds one array, the model has {len(input_names)} inputs: {listing(input_names)}. "
                    f"Save an npz with an array for each: np.savez(file, name=array, ...)"
                )
            feeds = {input_names[0]: self.arrays[""]}
        else:
            missing = [name for name in input_names if name not in self.arrays]
            if missing:
                raise CaptureError(
                    f"the model's inputs are {listing(input_names)}; {self.path!r} has no array {listing(missing)}, "
                    f"only {listing(self.arrays)}. Save the npz with the names of the model's inputs"
                )
            feeds = {name: self.arrays[name] for name in input_names}
        for name, array in feeds.items():
            self._refuse_nan(name, array)
        return feeds

    def coords(self, input_names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Arrays that are neither inputs of the models nor ids, to be coordinates such as ``label``.

        Raises
        ------
        CaptureError
            Where an array has more than one value per example.
        """
        others = {name: array for name, array in self.arrays.items() if name not in {"", IDS, *input_names}}
        for name, array in others.items():
            if array.ndim != 1:
                raise CaptureError(
                    f"array {name!r} of {self.path!r} is not an input of the models (they have {listing(input_names)}) "
                    f"and cannot be a coordinate, which has one value per example: its shape is {array.shape}. Leave "
                    f"it out"
                )
        return others

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
            for _, array in sorted(feeds.items()):
                digest.update(f"{array.dtype.str}{array.shape[1:]}".encode())
                digest.update(np.ascontiguousarray(array[example]).data)
            text = digest.hexdigest()[:16]
            seen[text] += 1
            ids.append(text if seen[text] == 1 else f"{text}#{seen[text]}")
        return np.array(ids)

    def _refuse_nan(self, name: str, array: npt.NDArray[Any]) -> None:
        if array.dtype.kind != "f":
            return
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
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        else:
            arrays = {"": np.lib.format.open_memmap(path, mode="r")}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CaptureError(
            f"cannot read {str(path)!r}: {error}. It must be npy, or npz with one array for each model input, of "
            f"numbers or text (no Python objects)"
        ) from error
    lengths = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise CaptureError(
            f"the arrays of {str(path)!r} must all have one entry per example along their first axis; their lengths "
            f"are {lengths}"
        )
    return Inputs(str(path), arrays)
