"""Plans made of values alone: representations, comparisons and subspaces that no store holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.selection import Selection
from dask_svcca.plan.subspaces import Budget
from dask_svcca.readings import Fourier, choose_reading
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores._state import ComparisonState
from dask_svcca.stores.subspaces import Pack, SubspaceEntry, SubspaceIndex, SubspaceRecord, subspace_key
from dask_svcca.stores.zoo import Representation
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import TileTask

GIGABYTE = 2**30
DIMS = {2: ("example", "neuron"), 3: ("example", "token", "neuron"), 4: ("example", "height", "width", "channel")}


def representation(
    model: str = "net0",
    checkpoint: str = "step0",
    layer: str = "fc0",
    shape: tuple[int, ...] = (500, 24),
    *,
    chunk_examples: int = 500,
    **changes: Any,
) -> Representation:
    name = RepresentationName(model, checkpoint, layer)
    made = Representation(
        name, DIMS[len(shape)], shape, np.dtype("float32"), chunk_examples, None, None, f"digest of {name.label}"
    )
    return replace(made, **changes)


def representations(
    models: int = 2, checkpoints: int = 3, layers: int = 2, shape: tuple[int, ...] = (500, 24), **options: Any
) -> list[Representation]:
    """A zoo of dense layers, whose checkpoints do not sort by name as they do by step."""
    return [
        representation(f"net{m}", f"step{8 * c}", f"fc{l}", shape, step=8.0 * c, depth=float(l), **options)
        for m in range(models)
        for c in range(checkpoints)
        for l in range(layers)
    ]


def state_of(items: Sequence[Representation], status: Any = PairStatus.MISSING, **changes: Any) -> ComparisonState:
    """A comparison of some representations by svcca, with one status of all pairs or a matrix of them."""
    parameters = Parameters()
    made = ComparisonState(
        place="comparison",
        parameters=parameters.to_dict(),
        versions={measure.name: measure.version for measure in parameters.records},
        details={},
        settled=(),
        growing=False,
        tile=8,
        examples_digest="examples",
        n_examples=500,
        labels=tuple(item.label for item in items),
        digests=tuple(item.digest for item in items),
        status=np.broadcast_to(np.asarray(status, np.uint8), (len(items), len(items))).copy(),
        subspaces="",
    )
    return replace(made, **changes)


def keys_of(item: Representation, parameters: Parameters | None = None, fold: tuple[int, ...] = ()) -> str:
    """Key of the subspace of a representation, or of it folded on a coarser grid."""
    reading = choose_reading(item.dims, item.shape, (parameters or Parameters()).reading)
    if fold:
        assert isinstance(reading, Fourier)
        reading = reading.folded(fold)
    return subspace_key(item.identity, reading.identity)


def index_of(items: Sequence[Representation], *, name: str = "there", **entry: Any) -> SubspaceIndex:
    """A store of subspaces with one pack, of the subspaces of some representations."""
    records = tuple(
        SubspaceRecord(name, position, SubspaceEntry(keys_of(item), **{"with_loadings": True, **entry}), 0, 0, 0)
        for position, item in enumerate(items)
    )
    root: Any = None
    return SubspaceIndex({name: Pack(root, name, records, 500, np.dtype("float32"), {})}, 1000)


def plan_of(
    items: Sequence[Representation],
    *,
    selected: Any = True,
    state: ComparisonState | None = None,
    index: SubspaceIndex | None = None,
    workers: int = 2,
    memory: int = GIGABYTE,
    **parameters: Any,
) -> Plan:
    mask = np.broadcast_to(np.asarray(selected, dtype=bool), (len(items), len(items)))
    return make_plan(items, Selection.of(mask), state, index, Parameters(**parameters), Budget(workers, memory))


def pairs_of(tile: TileTask, plan: Plan) -> list[tuple[int, int]]:
    """Pairs that a tile is asked for, by row of the comparison."""
    shape = len(plan.groups[tile.row].places), len(plan.groups[tile.column].places)
    mask = np.unpackbits(np.frombuffer(tile.selected, np.uint8), count=shape[0] * shape[1]).reshape(shape)
    return [(tile.row * tile.side + int(i), tile.column * tile.side + int(j)) for i, j in np.argwhere(mask)]
