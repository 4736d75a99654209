"""The checkpoint that a training began with: one for all layers of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.errors import IncompatibleError
from dask_svcca.stores import _io
from dask_svcca.stores._names import RepresentationName, checkpoint_label, decode, encode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import zarr


def parents_in(root: zarr.Group, model: str, checkpoint: str) -> dict[str, str]:
    """Parent of each complete layer of a checkpoint in a zoo; empty for none."""
    path = f"{encode(model)}/{encode(checkpoint)}"
    if _io.read_attributes(root, path) is None:
        return {}
    return {
        decode(layer.rpartition("/")[2]): str(attributes.get("parent") or "")
        for layer, attributes in _io.walk_attributes(root, depth=1, below=path)
        if attributes and attributes.get("complete")
    }


def one_parent(
    parents: Mapping[str, str],
    parent: str | None,
    model: str,
    checkpoint: str,
    replaced: Collection[str],
) -> str | None:
    """Parent of layers that are to be written, which is that of their checkpoint.

    Parameters
    ----------
    parents : mapping of str to str
        Parent of each layer that the checkpoint has; empty for none.
    parent : str, optional
        Default: that of the checkpoint, if it has one.
    model, checkpoint : str
    replaced : collection of str
        Layers that are written, and so may have another parent than before.

    Raises
    ------
    IncompatibleError
        Where a layer that stays has another parent.

    Examples
    --------
    >>> one_parent({"fc1": "base/end"}, None, "net", "end", ["fc2"])
    'base/end'
    """
    if parent is None:
        return next(filter(None, parents.values()), None)
    for layer, other in sorted(parents.items()):
        if layer not in replaced and other not in {"", parent}:
            label = RepresentationName(model, checkpoint, layer).label
            raise IncompatibleError(
                f"{label!r} has the parent {other!r}, and another layer of {checkpoint_label(model, checkpoint)!r} "
                f"would have {parent!r}: a checkpoint has one parent. Give {other!r} or none; write all layers anew "
                f"and together with overwrite=True (--overwrite); or write to a checkpoint of another name"
            )
    return parent
