"""What every way of capturing shares: the report, choosing layers by name, and the axes of a tensor."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from dask_svcca.dims import as_dims, dims_of
from dask_svcca.errors import (
    CaptureError,
    IncompatibleError,
    MismatchedExamplesError,
    MissingPackageError,
    did_you_mean,
)
from dask_svcca.patterns import matching, unmatched
from dask_svcca.stores import _io
from dask_svcca.stores._names import encode
from dask_svcca.stores.zoo.options import check_parent
from dask_svcca.stores.zoo.parents import one_parent, parents_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.stores._names import RepresentationName
    from dask_svcca.stores.zoo import Zoo

__all__ = [
    "CaptureReport",
    "InputsDigest",
    "as_dims",
    "captured",
    "check_begin",
    "check_inputs",
    "check_layers",
    "check_one_parent",
    "check_order_of_inputs",
    "dims_of",
    "inputs_digests",
    "listing",
    "other_capture",
    "quantised",
    "require",
    "select",
    "weights_digest",
]


_OTHERS = {
    "weights_digest": "of a model of other weights",
    "inputs_digest": "of other inputs",
    "step": "with another step",
    "parent": "with another parent",
    "dtype": "in another type",
    "dims": "with other axes",
    "shape": "of another shape",
}
"""Attributes of a representation, and what is said of one that has another value than a capture would give it."""


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What became of one checkpoint.

    Attributes
    ----------
    model, checkpoint : str
    written : int
        Representations added to the zoo.
    present : int
        Representations that the zoo had already.
    skipped : mapping of str to str
        Tensors that cannot be representations, and why.
    examples : int
    nbytes : int
        Size of the activations written, before compression.
    seconds : float
    caution : str
        Sentences on representations that the zoo had already, and that this capture would not give, and on quantised
        values; empty if there are none.
    """

    model: str
    checkpoint: str
    written: int
    present: int
    examples: int
    nbytes: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    caution: str = ""


class InputsDigest:
    """Digest of what a model was fed, example by example: it does not depend on how they were cut into batches.

    Examples
    --------
    >>> whole, parts = InputsDigest(), InputsDigest()
    >>> x = np.arange(12, dtype="float32").reshape(4, 3)
    >>> whole.update({"x": x}, 4)
    >>> parts.update({"x": x[:3]}, 3)
    >>> parts.update({"x": x[3:]}, 1)
    >>> whole.hexdigest() == parts.hexdigest()
    True
    """

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()
        self._sum = 0

    def update(
        self, arrays: Mapping[str, npt.NDArray[Any]], examples: int, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Take the next examples.

        Parameters
        ----------
        arrays : mapping of str to (example, ...)
            One that has another length, such as position ids, does not count.
        examples : int
        mask : (example, token) array of bool, optional
            Of arrays with these axes only what is not padding counts.
        """
        along = {name: array for name, array in sorted(arrays.items()) if array.shape[:1] == (examples,)}
        for example in range(examples):
            alone = xxhash.xxh3_128()
            for array in along.values():
                row = array[example]
                if mask is not None and array.shape == mask.shape:
                    row = row[mask[example]]
                for part in (f"{array.dtype.name} {row.shape}".encode(), np.ascontiguousarray(row).data):
                    self._digest.update(part)
                    alone.update(part)
            self._sum = (self._sum + alone.intdigest()) % 2**128

    def hexdigest(self) -> str:
        """Digest of the examples so far."""
        return self._digest.hexdigest()

    @property
    def attributes(self) -> dict[str, str]:
        """Digests of the examples so far, as they are stored: of their order, and of their set in whatever order."""
        return {"inputs_digest": self.hexdigest(), "inputs_set_digest": f"{self._sum:032x}"}


def captured(zoo: Zoo, model: str, checkpoint: str | None = None) -> Iterator[dict[str, Any]]:
    """Attributes of the complete representations of one model, or of one checkpoint, read one by one."""
    parts = [encode(model)] if checkpoint is None else [encode(model), encode(checkpoint)]
    path = "/".join(parts)
    if _io.read_attributes(zoo.root, path) is None:
        return
    for _, attributes in _io.walk_attributes(zoo.root, depth=3 - len(parts), below=path):
        if attributes and attributes.get("complete"):
            yield attributes


def check_begin(parent: str | None, model: str, checkpoint: str) -> None:
    """Refuse what cannot be the checkpoint that a training began with.

    Raises
    ------
    CaptureError
    """
    try:
        check_parent(parent, model, checkpoint)
    except ValueError as error:
        raise CaptureError(str(error)) from None


def check_one_parent(zoo: Zoo, model: str, checkpoint: str, parent: str | None, layers: Collection[str]) -> None:
    """Refuse to write some layers beside others of the checkpoint that have another parent.

    Raises
    ------
    CaptureError
    """
    try:
        one_parent(parents_in(zoo.root, model, checkpoint), parent, model, checkpoint, layers)
    except IncompatibleError as error:
        raise CaptureError(str(error)) from None


def check_inputs(others: Iterable[Mapping[str, Any]], digest: str, label: str) -> None:
    """Refuse inputs that are not those of what was captured before.

    Parameters
    ----------
    others : iterable of mapping
        Attributes of representations of the same model, whose checkpoints must have seen the same inputs: they agree
        with one another, and the first that has a digest is enough. Other models may be fed the same examples in
        another form.
    digest : str
    label : str
        Name for messages.

    Raises
    ------
    MismatchedExamplesError
    """
    for other in others:
        stored = other.get("inputs_digest")
        if stored == digest:
            return
        if stored is not None:
            raise MismatchedExamplesError(
                f"the inputs of {label!r} (digest {digest[:8]}) are not those that "
                f"'{other['model']}/{other['checkpoint']}/{other['layer']}' was captured from (digest {stored[:8]}): "
                f"another order, other examples, or a random augmentation. Feed all checkpoints of a model the same "
                f"inputs in the same order"
            )


def check_order_of_inputs(zoo: Zoo, model: str, digests: Mapping[str, str], label: str) -> None:
    """Refuse inputs that another model was fed in another order.

    The same set of examples with another digest is a permutation, whatever the models. Other models may be fed the
    same examples in another form: of these nothing is known.

    Parameters
    ----------
    zoo : Zoo
    model : str
        The model that is captured.
    digests : mapping of str to str
        See `InputsDigest.attributes`.
    label : str
        Name for messages.

    Raises
    ------
    MismatchedExamplesError
    """
    firsts = {(entry.name.model, entry.name.checkpoint): entry.name for entry in reversed(zoo.entries())}
    known: set[str] = {model}
    for name in reversed(firsts.values()):
        if name.model in known:
            continue
        other = _io.read_attributes(zoo.root, name.path) or {}
        if "inputs_digest" not in other:
            continue
        known.add(name.model)
        same = other.get("inputs_set_digest") == digests["inputs_set_digest"]
        if same and other["inputs_digest"] != digests["inputs_digest"]:
            raise MismatchedExamplesError(
                f"{label!r} is fed the examples that {name.label!r} was captured from, in another order (digest "
                f"{digests['inputs_digest'][:8]}, and {other['inputs_digest'][:8]}): their rows would not belong "
                f"together. Feed all models the zoo's examples in the zoo's order, from a loader that does not "
                f"shuffle, and replace with overwrite=True what was captured in a wrong order"
            )


def require(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises
    ------
    MissingPackageError
        Where it cannot be imported, naming the extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"capturing needs the package {package!r}, which cannot be imported ({error}); "
            f"pip install 'dask-svcca[{extra}]'"
        ) from error


def select(names: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Names that match any of some patterns; all of them without patterns.

    Parameters
    ----------
    names : iterable of str
    patterns : str or sequence of str, optional
        See `dask_svcca.patterns.matches`: ``*`` for one level, ``**`` for any text, ``?`` for one character. One text
        may hold several, separated by commas. A name matches itself, whatever characters it has.

    Returns
    -------
    list of str
        In the order of ``names``.

    Examples
    --------
    >>> select(["conv1", "block1.conv1", "block1.relu", "fc"], "**conv?, fc")
    ['conv1', 'block1.conv1', 'fc']
    """
    return list(names) if patterns is None else matching(names, patterns)


def check_layers(names: Iterable[str], patterns: str | Sequence[str] | None, where: str, more: str = "") -> None:
    """Refuse patterns of which one matches no layer.

    Parameters
    ----------
    names : iterable of str
        What there is.
    patterns : str or sequence of str, optional
    where : str
        What has these names, in messages.
    more : str
        Sentences behind the message.

    Raises
    ------
    CaptureError
        The message names the pattern and the nearest name.
    """
    names = list(names)
    missing = [] if patterns is None else unmatched(names, patterns)
    if missing:
        near = did_you_mean(missing[0], names)
        raise CaptureError(
            f"no layer of {where} matches {' or '.join(map(repr, missing))}; it has {listing(names)}{near}"
            f"{'.' if more and not near else ''}{more}"
        )


def weights_digest(weights: Iterable[tuple[str, bytes | memoryview]]) -> str:
    """Digest of the weights of a model: it tells whether they changed.

    Parameters
    ----------
    weights : iterable of (str, bytes)
        Names and bytes, in an order that stays.

    Examples
    --------
    >>> weights_digest([("fc", b"0123")]) == weights_digest([("fc", b"0124")])
    False
    """
    digest = xxhash.xxh3_128()
    for name, values in weights:
        digest.update(f"{name} {len(values)} ".encode())
        digest.update(values)
    return digest.hexdigest()


def inputs_digests(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    """Digests of what a model is fed, example by example: they tell whether other examples were, or in another order.

    Parameters
    ----------
    inputs : mapping of str to (example, ...) array
        Arrays without axes are the same for all examples, and do not count.

    Returns
    -------
    dict of str to str
        See `InputsDigest.attributes`.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> there, back = inputs_digests({"x": x}), inputs_digests({"x": x[::-1]})
    >>> {name: there[name] == back[name] for name in there}
    {'inputs_digest': False, 'inputs_set_digest': True}
    """
    digest = InputsDigest()
    digest.update(inputs, max(len(array) if array.ndim else 0 for array in inputs.values()))
    return digest.attributes


def other_capture(zoo: Zoo, expected: Mapping[RepresentationName, Mapping[str, Any]]) -> str:
    """Sentence on representations that are not what a capture would give; empty if there are none.

    Parameters
    ----------
    zoo : Zoo
    expected : mapping of RepresentationName to mapping
        Representations that the zoo has, and attributes that the capture which leaves them as they are would have
        given them: ``weights_digest``, ``inputs_digest``, ``step``, ``parent``, ``dtype``, ``dims`` and ``shape``.
    """
    others: dict[str, list[str]] = {key: [] for key in _OTHERS}
    for name, wanted in expected.items():
        attributes = _io.read_attributes(zoo.root, name.path) or {}
        for key, value in wanted.items():
            if attributes.get(key, value) != value:
                others[key].append(name.label)
    parts = [f"{listing(labels, 2)} {_OTHERS[key]}" for key, labels in others.items() if labels]
    if not parts:
        return ""
    return (
        f"the zoo has {', and '.join(parts)}, and keeps them as they are. Capture under another name, or replace them "
        f"with overwrite=True (--overwrite)"
    )


def quantised(names: Iterable[str], label: str) -> str:
    """Sentence on layers that compute on quantised values; empty if there are none.

    Parameters
    ----------
    names : iterable of str
    label : str
        Model and checkpoint.
    """
    names = list(names)
    if not names:
        return ""
    return (
        f"{listing(names, 2)} of {label!r} compute on quantised values: they and all behind them are rounded to few "
        f"levels, which fills directions that the activations do not have. Compare them by a share of the variance, as "
        f"by default, and not with variance=None; or capture the model before it was quantised"
    )


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message, at most ``limit`` of them.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2), listing([])
    ("'a', 'b' and 1 more", 'none')
    """
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "none") + more
