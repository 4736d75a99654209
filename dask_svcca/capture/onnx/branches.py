"""Branches of an ``If`` whose condition is the same for all examples: the one that is taken, in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.capture.onnx.network import open_network
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from dask_svcca.capture.onnx.network import Feeds, Network

NESTED = 8
"""Largest depth of branches inside branches."""


def open_branches(network: Network, feeds: Feeds) -> Network:
    """A network of which the branches are opened that these inputs take, where that does not depend on the examples.

    Where a condition cannot be computed, or the opened model cannot be loaded, the network stays as it is.
    """
    taken: dict[str, bool] = {}
    for _ in range(NESTED):
        conditions = _settled_conditions(network, feeds) - taken.keys()
        if not conditions:
            break
        try:
            names = sorted(conditions)
            values = network.run_once(
                names, {name: array[:1] if array.ndim else array for name, array in feeds.items()}
            )
            taken |= {name: bool(values[name].reshape(-1)[0]) for name in names}
            network = open_network(network.path, taken)
        except CaptureError:
            break
    return network


def _settled_conditions(network: Network, feeds: Feeds) -> set[str]:
    """Conditions that the values of the examples have no part in."""
    varying = {name for name in network.inputs if name not in feeds or feeds[name].ndim}
    settled = set()
    for node in network.graph.node:
        bodies = any(attribute.g.node or attribute.graphs for attribute in node.attribute)
        if node.op_type == "If" and node.input[0] not in varying and node.input[0] in network.types:
            settled.add(node.input[0])
        if bodies or (node.op_type not in {"Shape", "Size"} and varying.intersection(node.input)):
            varying.update(node.output)
    return settled
