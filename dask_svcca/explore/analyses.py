"""What `dask_svcca.analysis` says of one model, as the page draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dask_svcca.analysis.dynamics import learning_dynamics, training_phases
from dask_svcca.explore.values import MOST_VALUES, as_json, evenly

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.explore.data import Explored


def settling(explored: Explored, measure: str, model: str) -> dict[str, Any]:
    """Each layer of a model against its final self during training: see `learning_dynamics`."""
    found = learning_dynamics(explored.of_model(model), model=model, measure=measure)
    return {
        "steps": as_json(found["step"].to_numpy()),
        "layers": [str(layer) for layer in found["layer"].to_numpy()],
        "similarity": as_json(found["similarity_to_final"].transpose("layer", "step").to_numpy()),
        "chance": as_json(found["null_to_final"].transpose("layer", "step").to_numpy())
        if "null_to_final" in found
        else [],
        "settled": as_json(found["settled_step"].to_numpy()),
        "rank": as_json(found["rank"].transpose("layer", "step").to_numpy()[:, -1]) if "rank" in found else [],
        "correlation": as_json(found["depth_correlation"].item()),
    }


def phases(explored: Explored, measure: str, model: str) -> dict[str, Any]:
    """Checkpoints of each layer of a model against one another: see `training_phases`.

    Where that is much, some layers, from the first to the last.
    """
    part = explored.of_model(model)
    layers = list(dict.fromkeys(part["layer_a"].to_numpy().tolist()))
    checkpoints = len(set(part["checkpoint_a"].to_numpy().tolist()))
    room = max(1, MOST_VALUES // max(1, checkpoints) ** 2)
    some = [layers[at] for at in evenly(len(layers), room)]
    found = training_phases(part, model=model, layer=some, measure=measure)
    return {
        "available": len(layers),
        "layers": [str(layer) for layer in found["layer"].to_numpy()],
        "checkpoints": [str(name) for name in found["checkpoint_a"].to_numpy()],
        "values": as_json(found[measure].transpose("layer", "checkpoint_a", "checkpoint_b").to_numpy()),
    }


def classes(explored: Explored, labels: str, model: str) -> dict[str, Any]:
    """How well each layer of a model tells the classes of some labels: see `class_sensitivity`."""
    return explored.classes.of_model(explored.of_model(model), model, labels)


ANALYSES: Final[dict[str, Callable[[Explored, str, str], dict[str, Any]]]] = {
    "settling": settling,
    "phases": phases,
    "classes": classes,
}
"""By name: of a measure or, for classes, of labels; and of a model."""
