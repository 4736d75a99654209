"""Every error this package raises on purpose, and every warning.

All errors derive from `DaskSvccaError`, so that one ``except`` catches what is about the data or the request, and
nothing else. Their messages name the representation or store, both values that disagree, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


class DaskSvccaError(Exception):
    """Base of all errors raised on purpose by this package."""


class StoreFormatError(DaskSvccaError):
    """A store is not of the expected kind, or was written by another version of this package."""


class DamagedStoreError(StoreFormatError):
    """Something in a store is not what was written, or is missing: results, coordinates, or attributes.

    Attributes
    ----------
    key : str
        The file, below the root of the store; empty where it may be one of several.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        # By default an exception is pickled by its message alone.
        return type(self), (str(self), self.key)


class StoreAccessError(DaskSvccaError, OSError):
    """A store cannot be accessed: missing rights, or a disk or network that fails."""


class DiskSpaceError(StoreAccessError):
    """The disk has less room than a comparison would write; raised before anything is written."""


class StoreInUseError(DaskSvccaError):
    """Another run is at work on a comparison or on shared subspaces, or another process writes the same checkpoint."""


class RepresentationExistsError(DaskSvccaError):
    """A representation of this model, checkpoint and layer is already in the zoo."""


class RepresentationNotFoundError(DaskSvccaError, KeyError):
    """The zoo or comparison has no such representation."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class IncompleteRepresentationError(DaskSvccaError):
    """A representation was begun and not finished: it has fewer examples than its zoo."""


class MismatchedExamplesError(DaskSvccaError):
    """Two representations, or a representation and its zoo, saw different examples."""


class InvalidActivationsError(DaskSvccaError, ValueError):
    """Activations that cannot be compared: not finite, constant, too few examples, or of an unexpected shape."""


class UnreadableActivationsError(DaskSvccaError, OSError):
    """Activations that are in the zoo and cannot be read, or are not those that were written."""


class DamagedSubspacesError(DaskSvccaError, OSError):
    """Stored subspaces cannot be read: a file is missing, or is not what was written.

    Attributes
    ----------
    pack : str
        Those that were made together with them; empty where it is the access that failed.
    """

    def __init__(self, message: str, pack: str = "") -> None:
        super().__init__(message)
        self.pack = pack


class IncompatibleError(DaskSvccaError, ValueError):
    """Two representations cannot be compared, or one lacks what was asked of it."""


class InvalidQuestionError(DaskSvccaError, ValueError):
    """A question to a comparison is not valid: what it is about, or one of its options."""


class ParametersChangedError(DaskSvccaError):
    """A comparison was made with other parameters, or from other inputs, than are asked for now."""


class UnknownMeasureError(DaskSvccaError, ValueError):
    """No measure of that name is registered."""


class MeasureExistsError(DaskSvccaError, ValueError):
    """Another measure of that name is registered already."""


class InvalidMeasureError(DaskSvccaError, ValueError):
    """A measure cannot be registered as it is: its name, or one of its options, is not valid."""


class MeasureModuleError(DaskSvccaError):
    """A module that should register measures is not found, cannot be imported, or registers none."""


class FewSamplesWarning(UserWarning):
    """So few samples per direction that chance alone correlates them, or so few examples that p-values are rough."""


class FailedRepresentationWarning(UserWarning):
    """Representations that could not be compared, and have NaN in place of numbers."""


class ReadingWarning(UserWarning):
    """A measure of convolutional layers that are read in another way than in the paper of the measure."""


class DeviceFailedWarning(UserWarning):
    """A device failed, and tasks were computed on the CPU in the end; the message says how many, and why."""


class MemoryLimitError(DaskSvccaError, MemoryError):
    """A task would need more memory than a worker has; raised before anything runs."""


class CaptureError(DaskSvccaError, ValueError):
    """Activations cannot be captured: a model or a file of inputs is not valid, or they do not fit each other."""


class UnalignedExamplesWarning(UserWarning):
    """Arrays whose examples have names beside others without: they are compared row by row, as they stand."""


class OnlyEstimatesWarning(UserWarning):
    """A question found no value, and there are estimates, which it was not asked for."""


class CaptureWarning(UserWarning):
    """A capture left older activations as they were, or has layers of other tokens than the mask, or quantised."""


class MissingPackageError(DaskSvccaError, ImportError):
    """An optional package is missing or cannot be imported; the message names the extra that installs it."""


class DeviceError(DaskSvccaError, ValueError):
    """A device has no such name, or is not there: PyTorch or the GPU is missing; raised before anything runs."""


class DeviceFailedError(DaskSvccaError, RuntimeError):
    """A device, such as a GPU, failed at an operation: it ran out of memory, or cannot be used any more."""


class InvalidJobError(DaskSvccaError, ValueError):
    """A job file cannot be read, or says what is not valid."""


class JobError(DaskSvccaError):
    """A job that is not known, was cancelled, belongs to another user, or cannot be reached."""


class ClusterError(DaskSvccaError):
    """No scheduler answers, a local cluster cannot be as large as asked, or a task kills its workers."""


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """Question after a value that is not valid, with the nearest one that is; empty where none is near.

    Examples
    --------
    >>> did_you_mean("varience", ("variance", "precision")), did_you_mean("x", ("variance",))
    (". Did you mean 'variance'?", '')
    >>> did_you_mean("CKA", ("svcca", "cka"))
    ". Did you mean 'cka'?"
    """
    # Not at the top: no other message needs it.
    import difflib  # noqa: PLC0415

    known = list(map(str, choices))
    # Papers write CKA, and to difflib that is far from 'cka'.
    same = [choice for choice in known if choice.casefold() == str(value).casefold()]
    near = same or difflib.get_close_matches(str(value), known, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""
