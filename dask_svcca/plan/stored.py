"""Tasks as JSON, for processes that have nothing in common but a store; nothing but values is read back."""

from __future__ import annotations

import base64
import re
from dataclasses import fields, is_dataclass
from typing import Any, Final

from dask_svcca.errors import StoreFormatError
from dask_svcca.measures import Cosines, Distances, Neighbours
from dask_svcca.plan.memory import SubspaceMemory, TileMemory
from dask_svcca.plan.tasks import GroupTask, PackTask, SubspacePlace, SubspaceTask, TileTask
from dask_svcca.readings.kinds import First, Flatten, Fourier, Last, Mean, Neurons, Positions

_CLASSES: Final = {
    each.__name__: each
    for each in (
        *(SubspaceMemory, TileMemory, GroupTask, PackTask, SubspacePlace, SubspaceTask, TileTask),
        *(Cosines, Distances, Neighbours),
        *(First, Flatten, Fourier, Last, Mean, Neurons, Positions),
    )
}
_NAME: Final = re.compile(r"[0-9A-Za-z_-]+")
_CLASS: Final = "class"


def to_json(value: Any) -> Any:
    """A task as JSON values.

    Examples
    --------
    >>> to_json(SubspacePlace("abc", 3))
    {'class': 'SubspacePlace', 'pack': 'abc', 'position': 3, 'fold': [], 'relation': ''}
    """
    if is_dataclass(value):
        return {
            _CLASS: type(value).__name__,
            **{each.name: to_json(getattr(value, each.name)) for each in fields(value) if each.init},
        }
    if isinstance(value, tuple | list):
        return [to_json(one) for one in value]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {"names": {name: to_json(one) for name, one in value.items()}}
    return value


def from_json(value: Any) -> Any:
    """A task again.

    Raises
    ------
    StoreFormatError
        Where it is not one.

    Examples
    --------
    >>> from_json(to_json(SubspacePlace("abc", 3, (2, 2))))
    SubspacePlace(pack='abc', position=3, fold=(2, 2), relation='')
    """
    if isinstance(value, list):
        return tuple(map(from_json, value))
    if not isinstance(value, dict):
        return value
    if _CLASS not in value:
        if isinstance(value.get("names"), dict):
            return {name: from_json(one) for name, one in value["names"].items()}
        return base64.b64decode(str(value.get("bytes")))
    arguments = {name: from_json(one) for name, one in value.items() if name != _CLASS}
    try:
        task = _CLASSES[value[_CLASS]](**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreFormatError(f"the tasks of the parts are not readable ({error}): begin again with init") from None
    if isinstance(task, PackTask) and not _NAME.fullmatch(task.name):
        raise StoreFormatError(f"{task.name!r} is not a name of a pack: begin again with init")
    return task
