"""What is in a store, as values: for ``dask-svcca info --json``, and for its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.stores._names import checkpoint_label
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore

if TYPE_CHECKING:
    import pandas as pd

    from dask_svcca.stores.zoo import Zoo


def describe(store: str, kind: str, *, layers: bool, timing: bool) -> dict[str, Any]:
    """What is in a zoo, a comparison, or a store of subspaces or sketches, as JSON values."""
    if kind == "comparison":
        return _describe_comparison(ComparisonStore.open(store), timing=timing)
    if kind == "subspaces":
        return _describe_subspaces(SubspaceStore.open(store))
    if kind == "sketches":
        return _describe_sketches(store)
    from dask_svcca.stores.zoo import open_zoo  # noqa: PLC0415 - it takes as long to import as a comparison to describe

    return _describe_zoo(open_zoo(store), layers=layers)


def _describe_zoo(zoo: Zoo, *, layers: bool) -> dict[str, Any]:
    frame = zoo.representations
    return {
        "examples": zoo.n_examples,
        "coordinates": {name: str(values.dtype) for name, values in zoo.coords.items()},
        "representations": len(frame),
        "nbytes": int(frame["nbytes"].sum()),
        "models": [
            {
                "model": model,
                "checkpoints": list(part["checkpoint"].unique()),
                "steps": sorted(part["step"].dropna().unique()),
                "parents": parents_of(part),
                "layers": part["layer"].nunique(),
                "representations": len(part),
                "nbytes": int(part["nbytes"].sum()),
            }
            for model, part in frame.groupby("model", sort=False)
        ],
        **({"layers": layer_rows(zoo)} if layers else {}),
        "unfinished": zoo.unfinished,
    }


def parents_of(frame: pd.DataFrame) -> dict[str, str]:
    """The parent of each checkpoint of a model that has one."""
    given = frame[frame["parent"] != ""]
    return dict(zip(given["checkpoint"], given["parent"], strict=True))


def layer_rows(zoo: Zoo) -> list[dict[str, Any]]:
    """Layers of each model: shape and axes of an example, and in how many checkpoints there are such."""
    frame = zoo.representations
    columns = ["model", "layer", "shape", "dims", "dtype"]
    first = frame.drop_duplicates(columns)
    counts = frame.groupby(columns, sort=False).size()
    return [
        {
            "model": model,
            "layer": layer,
            "shape": shape[1:],
            "dims": dims[1:],
            "dtype": dtype,
            "checkpoints": int(count),
        }
        for (model, layer, shape, dims, dtype), count in zip(first[columns].to_numpy(), counts, strict=True)
    ]


def _describe_comparison(comparison: ComparisonStore, *, timing: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(comparison.root.attrs)
    labels, problems = comparison.column("representation"), comparison.column("problem")
    return {
        "zoo": str(attributes["zoo"]),
        "examples": attributes["n_examples"],
        "representations": len(labels),
        "models": list(dict.fromkeys(map(str, comparison.column("model")))),
        "parents": lineage_of(comparison),
        "parameters": comparison.parameters,
        "subspaces": comparison.subspaces or None,
        "pairs": {status.name.lower(): count for status, count in comparison.count_pairs().items()},
        "problems": {str(label): str(problem) for label, problem in zip(labels, problems, strict=True) if problem},
        **({"runs": runs_of(comparison)} if timing else {}),
    }


def runs_of(comparison: ComparisonStore) -> list[dict[str, Any]]:
    """Where the time of its latest runs went, and of the parts that were planned last."""
    from dask_svcca.run.slices import runs_of_parts  # noqa: PLC0415 - only timing needs what it imports

    runs: list[dict[str, Any]] = list(comparison.root.attrs.get("runs", []))  # type: ignore[arg-type]
    return sorted([*runs, *runs_of_parts(comparison)], key=lambda run: str(run["finished"]))


def lineage_of(comparison: ComparisonStore) -> dict[str, str]:
    """The parent of each checkpoint that has one, by their labels."""
    columns = comparison.columns("model", "checkpoint", "parent")
    rows = zip(*(map(str, columns[name]) for name in ("model", "checkpoint", "parent")), strict=True)
    return {checkpoint_label(model, checkpoint): parent for model, checkpoint, parent in rows if parent}


def _describe_subspaces(subspaces: SubspaceStore) -> dict[str, Any]:
    index = subspaces.read_index()
    entries = [record.entry for record in index.records.values()]
    return {
        "identity": dict(subspaces.root.attrs["identity"]),  # type: ignore[arg-type]
        "made": sum(not entry.problem for entry in entries),
        "failed": sum(bool(entry.problem) for entry in entries),
        "packs": len(index.packs),
    }


def _describe_sketches(store: str) -> dict[str, Any]:
    from dask_svcca.sketches.store import DIM, SketchStore  # noqa: PLC0415 - no other store needs what it imports

    sketches = SketchStore.open(store)
    labels, problems = sketches.column(DIM), sketches.column("problem")
    return {
        "examples": sketches.attributes["n_examples"],
        "representations": len(labels),
        "measure": sketches.attributes["measure"],
        "size": sketches.family.size,
        "seed": sketches.family.seed,
        "first": str(labels[0]) if len(labels) else None,
        "problems": {str(label): str(problem) for label, problem in zip(labels, problems, strict=True) if problem},
    }
