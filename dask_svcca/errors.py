"""Every error this package raises on purpose, and every warning.

All errors derive from `DaskSvccaError`, so that one ``except`` catches what is about the data or the request, and
nothing else. Their messages name the representation or store, both values that disagree, and what to do.
"""


class DaskSvccaError(Exception):
    """Base of all errors raised on purpose by this package."""


class StoreFormatError(DaskSvccaError):
    """A store is not a zoo or a comparison of ours, or was written by another version."""


class StoreAccessError(DaskSvccaError, OSError):
    """Whether a store is there, or what is in it, cannot be read: missing rights, a disk or a network that fails."""


class RepresentationExistsError(DaskSvccaError):
    """A representation of this model, checkpoint and layer is already in the zoo."""


class RepresentationNotFoundError(DaskSvccaError, KeyError):
    """No such representation in the zoo or comparison."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class IncompleteRepresentationError(DaskSvccaError):
    """A representation was begun and not finished: fewer rows than the zoo has examples."""


class MismatchedExamplesError(DaskSvccaError):
    """Two representations, or a representation and its zoo, saw different examples."""


class InvalidActivationsError(DaskSvccaError, ValueError):
    """Activations that cannot be compared: not finite, constant, too few examples, or of an unexpected shape."""


class UnreadableActivationsError(DaskSvccaError, OSError):
    """Activations that are in the zoo and cannot be read, or are not those that were written."""


class IncompatibleError(DaskSvccaError, ValueError):
    """A representation has no such reading: for example a DFT of an array without spatial axes."""


class ParametersChangedError(DaskSvccaError):
    """A comparison was made with other parameters, or from other inputs, than those asked for now."""


class UnknownMeasureError(DaskSvccaError, ValueError):
    """No measure of that name is registered."""


class MeasureExistsError(DaskSvccaError, ValueError):
    """Another measure of that name is registered already."""


class InvalidMeasureError(DaskSvccaError, ValueError):
    """A measure cannot be registered as it is: its name, or one of its options, is not valid."""


class MeasureModuleError(DaskSvccaError):
    """A module that is to register measures is not found, cannot be imported, or registers none."""


class FewSamplesWarning(UserWarning):
    """Representations have so few samples a direction that chance alone correlates them."""


class MemoryLimitError(DaskSvccaError, MemoryError):
    """A task would need more memory than a worker has; raised before anything runs."""


class CaptureError(DaskSvccaError, ValueError):
    """Activations cannot be captured: a model, a file of inputs, or the two together, are not what capture needs."""


class MissingPackageError(DaskSvccaError, ImportError):
    """An optional package is not there, or cannot be imported; the message names the extra that brings it."""


class ClusterError(DaskSvccaError):
    """No scheduler answers, a local cluster cannot have what was asked of it, or workers die of a task."""
