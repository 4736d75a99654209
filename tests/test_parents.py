"""Parents: which checkpoint a training began with, from the zoo to the comparison and what is asked of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from cli_runner import run
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.demo import find_networks
from dask_svcca.errors import CaptureError, IncompatibleError

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo

PARENTS = {
    ("base", "end"): "",
    ("child", "step1"): "base/end",
    ("child", "step2"): "base/end",
    ("late", "end"): "child/step2",
}


def write(zoo: Zoo) -> None:
    rng = np.random.default_rng(0)
    for (model, checkpoint), parent in PARENTS.items():
        for depth, layer in enumerate(("conv", "fc")):
            step = float(checkpoint[-1]) if checkpoint[-1].isdecimal() else None
            zoo.write(model, checkpoint, layer, rng.normal(size=(40, 3)), step=step, depth=depth, parent=parent or None)


def expected(labels: Any) -> list[str]:
    return [PARENTS[tuple(str(label).split("/")[:2])] for label in labels]  # type: ignore[index]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """A zoo with a lineage, and its comparison."""
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(40)) as zoo:
        write(zoo)
    dask_svcca.compare(zoo, tmp_path / "comparison.zarr")
    return tmp_path


def test_parent__is_kept_from_the_zoo_to_models(stores: Path) -> None:
    zoo = dask_svcca.open_zoo(stores / "zoo.zarr")
    frame = zoo.representations
    assert frame["parent"].tolist() == expected(frame.index)
    assert zoo["child", "step1", "fc"].attrs["parent"] == "base/end"
    assert "parent" not in zoo["base", "end", "fc"].attrs
    result = dask_svcca.open_comparison(stores / "comparison.zarr")
    for side in "ab":
        assert result[f"parent_{side}"].to_numpy().tolist() == expected(result[f"representation_{side}"].to_numpy())
    # As anybody with xarray has it.
    plain = xr.open_zarr(stores / "comparison.zarr", consolidated=False)
    assert "parent_a" in plain.coords
    found = dask_svcca.model_similarity(result, where={"checkpoint": "**"})
    labels = [
        f"{model}/{checkpoint}" for model, checkpoint in zip(found.model_a.data, found.checkpoint_a.data, strict=True)
    ]
    assert found["parent_a"].to_numpy().tolist() == expected(labels)


def test_parent__stays_when_a_comparison_grows_or_is_joined(stores: Path) -> None:
    with dask_svcca.open_zoo(stores / "zoo.zarr", mode="r+") as zoo:
        zoo.write("last", "end", "fc", np.random.default_rng(1).normal(size=(40, 3)), parent="late/end")
        zoo.rename("base/end/conv", "base/end/stem")
    grown = dask_svcca.compare(zoo, stores / "comparison.zarr")
    other = dask_svcca.compare(zoo, measures="cka")
    for result in (grown, dask_svcca.join(grown, other)):
        known = dict(zip(result["representation_a"].data.tolist(), result["parent_a"].data.tolist(), strict=True))
        assert known["last/end/fc"] == "late/end"
        assert (known["child/step2/fc"], known["base/end/stem"]) == ("base/end", "")


@pytest.mark.parametrize("parent", ["base", "base/end/fc", "/end", "base/", 5, ""])
def test_parent__what_is_not_a_checkpoint_is_refused(parent: Any) -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(3))
    for write_one in (zoo.write, zoo.append):
        with pytest.raises(
            ValueError, match=f"parent is the checkpoint that a training began with, .*; got {parent!r}"
        ):
            write_one("net", "end", "fc", np.eye(3), parent=parent)
    assert not len(zoo)
    assert not zoo.unfinished


def test_parent__a_checkpoint_is_not_its_own() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(3))
    with pytest.raises(ValueError, match="parent='a%2Fb/end' is this checkpoint itself"):
        zoo.write("a/b", "end", "fc", np.eye(3), parent="a%2Fb/end")
    with pytest.raises(ValueError, match="attrs has 'parent', which the zoo itself stores"):
        zoo.write("net", "end", "fc", np.eye(3), attrs={"parent": "base/end"})


def test_parent__damaged_in_a_zoo_is_said(stores: Path) -> None:
    place = stores / "zoo.zarr" / "child" / "step1" / "fc" / "zarr.json"
    document = json.loads(place.read_text())
    document["attributes"]["parent"] = 5
    place.write_text(json.dumps(document))
    zoo = dask_svcca.open_zoo(stores / "zoo.zarr")
    assert [name.label for name in zoo.damaged] == ["child/step1/fc"]


def test_parent__of_a_capture(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    networks = find_networks()
    file, examples = networks / "cnn-s0" / "step00005.onnx", networks / "examples.npz"
    first = next(iter(sorted((networks / "cnn-s0").glob("*.onnx"))))
    file = file if file.exists() else first
    for parent, message in (("base", "got 'base'"), ("net/end", "is this checkpoint itself")):
        with pytest.raises(CaptureError, match=message):
            dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", model="net", checkpoint="end", parent=parent)
    options: dict[str, Any] = {"model": "net", "checkpoint": "end", "layers": "logits"}
    dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", **options, parent="base/end")
    assert dask_svcca.open_zoo(tmp_path / "zoo").representations["parent"].tolist() == ["base/end"]
    with pytest.warns(match="'net/end/logits' with another parent"):
        dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", **options, parent="other/end")
    with pytest.raises(CaptureError, match=r"'net/end/logits' has the parent 'base/end', .* would have 'other/end'"):
        dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", **{**options, "layers": "*"}, parent="other/end")
    dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", **{**options, "layers": "*"})
    assert set(dask_svcca.open_zoo(tmp_path / "zoo").representations["parent"]) == {"base/end"}
    dask_svcca.capture_onnx(file, examples, tmp_path / "zoo", **options, parent="base/end", overwrite=True)


def test_parent__of_a_capture_with_torch() -> None:
    torch = pytest.importorskip("torch")
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    model, batches = torch.nn.Sequential(torch.nn.Linear(3, 2)), [torch.ones(40, 3).cumsum(0)]
    options: dict[str, Any] = {"zoo": zoo, "name": "net", "checkpoint": "end"}
    with pytest.raises(CaptureError, match="parent='net/end' is this checkpoint itself"):
        dask_svcca.capture_torch(model, batches, **options, parent="net/end")
    dask_svcca.capture_torch(model, batches, **options, parent="base/end")
    assert zoo.representations["parent"].tolist() == ["base/end"]
    with pytest.warns(match="with another parent than 'other/end'"):
        dask_svcca.capture_torch(model, batches, **options, parent="other/end")
    zoo.write("net", "end", "more", np.eye(40))
    zoo.delete("net", "end", "0")
    with pytest.raises(CaptureError, match="'net/end/more' has the parent 'base/end'"):
        dask_svcca.capture_torch(model, batches, **options, parent="other/end")
    dask_svcca.capture_torch(model, batches, **options)
    assert zoo.representations["parent"].tolist() == ["base/end"] * 2


def test_parent__is_typed_and_shown(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stores)
    np.save("fc.npy", np.random.default_rng(0).normal(size=(40, 3)))
    run("import fc.npy --zoo zoo.zarr --model tuned --checkpoint end --layer fc --parent child/step2")
    shown = run("info zoo.zarr").stdout
    assert "4 checkpoints of trainings that began with another:" in shown
    assert "child/step1 and 1 more from base/end" in shown
    assert "tuned/end from child/step2" in shown
    report = json.loads(run("info zoo.zarr --json").stdout)
    assert {one["model"]: one["parents"] for one in report["models"]}["child"] == {
        "step1": "base/end",
        "step2": "base/end",
    }
    assert "late/end from child/step2" in run("info comparison.zarr").stdout
    assert json.loads(run("info comparison.zarr --json").stdout)["parents"]["late/end"] == "child/step2"
    message = "parent is the checkpoint that a training began with"
    assert (
        message in run("import fc.npy --zoo zoo.zarr --model x --checkpoint y --layer fc --parent z", status=2).stderr
    )


def test_parent__a_checkpoint_has_one(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    second = "'net/end/fc1' has the parent 'base/end', and another layer of 'net/end' would have 'base/start'"
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(40)) as zoo:
        zoo.write("net", "end", "fc0", x)
        zoo.write("net", "end", "fc1", x, parent="base/end")
        with pytest.raises(IncompatibleError, match=second):
            zoo.write("net", "end", "fc2", x, parent="base/start")
        with pytest.raises(IncompatibleError, match=second):
            zoo.append("net", "end", "fc2", x[:20], parent="base/start")
        zoo.write("net", "end", "fc2", x)
        zoo.write("net", "start", "fc1", x, parent="base/start")
        with pytest.raises(IncompatibleError, match="'net/end/fc1' has the parent 'base/end'"):
            zoo.rename("net/start/fc1", "net/end/fc9")
        zoo.append("net", "other", "fc1", x[:20], parent="base/end")
        with pytest.raises(IncompatibleError, match="'net/other/fc1' has the parent 'base/end'"):
            zoo.write("net", "other", "fc2", x, parent="base/start")
        zoo.append("net", "other", "fc1", x[20:])
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+")
    with pytest.raises(IncompatibleError, match=second):
        zoo.write("net", "end", "fc3", x, parent="base/start")
    assert zoo.representations["parent"].to_dict() == {
        "net/start/fc1": "base/start",
        "net/end/fc0": "",
        "net/end/fc1": "base/end",
        "net/end/fc2": "base/end",
        "net/other/fc1": "base/end",
    }


def test_parent__is_replaced_for_all_layers_together() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    for layer in ("fc1", "fc2"):
        zoo.write("net", "end", layer, x, parent="base/end")
    with pytest.raises(IncompatibleError, match="'net/end/fc2' has the parent 'base/end'"):
        zoo.write("net", "end", "fc1", x, parent="base/start", overwrite=True)
    with pytest.raises(IncompatibleError, match="'net/end/fc2' has the parent 'base/end'"), zoo.together():
        zoo.write("net", "end", "fc1", x, parent="base/start", overwrite=True)
    assert zoo.representations["parent"].tolist() == ["base/end"] * 2
    with zoo.together():
        zoo.write("net", "end", "fc1", x, parent="base/start", overwrite=True)
        zoo.write("net", "end", "fc2", x, overwrite=True)
    assert zoo.representations["parent"].tolist() == ["base/start"] * 2
    zoo.delete("net/end/fc1")
    zoo.write("net", "end", "fc2", x, parent="base/end", overwrite=True)
    zoo.write("net", "end", "fc2", x, overwrite=True)
    assert zoo.representations["parent"].tolist() == ["base/end"]


def test_parent__of_imports_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.savez("layers.npz", fc1=x, fc2=x)
    np.save("more.npy", x)
    run("import layers.npz --zoo zoo.zarr --model net --checkpoint end --parent base/end")
    more = "import more.npy --zoo zoo.zarr --model net --checkpoint end --layer fc3"
    refused = run(f"{more} --parent base/start", status=2).output
    assert "has the parent 'base/end'" in refused
    assert "'base/start'" in refused
    run(more)
    assert dask_svcca.open_zoo("zoo.zarr").representations["parent"].tolist() == ["base/end"] * 3
    run("import layers.npz --zoo zoo.zarr --model net --checkpoint end --parent base/start --overwrite", status=2)
    np.savez("layers.npz", fc1=x, fc2=x, fc3=x)
    run("import layers.npz --zoo zoo.zarr --model net --checkpoint end --parent base/start --overwrite")
    assert dask_svcca.open_zoo("zoo.zarr").representations["parent"].tolist() == ["base/start"] * 3
