"""What goes into a model, and what the zoo keeps of inputs and weights; precision and memory."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, capture, small_zoo, still, torch

from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureError, CaptureWarning, MismatchedExamplesError, StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import create_zoo, open_zoo, store

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

T = 5

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


@pytest.fixture
def x() -> Any:
    return torch.randn(N, 4)


def attributes(zoo: Zoo, layer: str, checkpoint: str = "c") -> dict[str, Any]:
    return _io.read_attributes(zoo.root, RepresentationName("net", checkpoint, layer).path) or {}


def padding() -> Any:
    """Tokens of every example: five, or fewer from the left."""
    mask = torch.ones(N, T, dtype=torch.int64)
    mask[1, 3:] = 0
    mask[4, 1:] = 0
    return mask


class Reader(nn.Module):
    """Takes what BERT takes, by the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        if token_type_ids is not None:
            hidden = hidden + token_type_ids[..., None]
        return self.fc(hidden)


# Order, ids, digests


@pytest.mark.parametrize("kind", ["shuffle", "weighted", "subset", "batches"])
def test_capture_torch__random_order(kind: str, zoo: Zoo, x: Any) -> None:
    data = torch.utils.data
    samplers = {
        "shuffle": {"shuffle": True},
        "weighted": {"sampler": data.WeightedRandomSampler(torch.ones(N), N)},
        "subset": {"sampler": data.SubsetRandomSampler(range(N))},
        "batches": {"batch_sampler": data.BatchSampler(data.RandomSampler(x), 2, drop_last=False)},
    }
    with pytest.raises(MismatchedExamplesError, match=r"the loader for 'net' draws its examples at random \(.*shuffle"):
        capture(nn.Linear(4, 2), data.DataLoader(x, **samplers[kind]), zoo)


def test_capture_torch__loader_in_order(zoo: Zoo, x: Any) -> None:
    data = torch.utils.data
    assert capture(nn.Linear(4, 2), data.DataLoader(x, batch_size=4), zoo).written == 1
    with pytest.raises(MismatchedExamplesError, match=r"have 4 examples, the zoo has 6.*drop_last=False"):
        capture(nn.Linear(4, 2), data.DataLoader(x, batch_size=4, drop_last=True), zoo, "d")


def test_capture_torch__ids(tmp_path: Path, x: Any) -> None:
    zoo = create_zoo(tmp_path / "zoo.zarr", examples=list("abcdef"))
    model = nn.Linear(4, 2)
    batch = {"input": x, "example": list("abcdef")}
    assert capture(model, [batch], zoo).written == 1
    with pytest.raises(MismatchedExamplesError, match="at 0, 'b' is in the batch and 'a' in the zoo"):
        capture(model, [{**batch, "example": list("bacdef")}], zoo, "d")
    assert capture(model, [(x, torch.zeros(N), list("abcdef"))], zoo, "e", ids=2).written == 1
    with pytest.raises(MismatchedExamplesError, match="at 4, 'f' is in the batch and 'e' in the zoo"):
        capture(model, [(x[:4], list("abcd")), (x[4:], list("fe"))], zoo, "f", ids=1)
    assert capture(model, [{"input": x, "key": list("abcdef")}], zoo, "g", ids="key").written == 1
    with pytest.raises(CaptureError, match="have no ids 'name'; they have 'input'"):
        capture(model, [{"input": x}], zoo, "h", ids="name")


def test_capture_torch__inputs_of_all_checkpoints_agree(zoo: Zoo, x: Any) -> None:
    model = nn.Linear(4, 2)
    capture(model, [x], zoo, "one")
    capture(model, x.split(2), zoo, "two")  # however they are cut into batches
    assert attributes(zoo, "Linear", "one")["inputs_digest"] == attributes(zoo, "Linear", "two")["inputs_digest"]
    for changed in (x.flip(0), x + 1e-3):
        with pytest.raises(
            MismatchedExamplesError, match=r"inputs of 'net/three' .*'net/(one|two)/Linear'.*same order"
        ):
            capture(model, [changed], zoo, "three")
    assert ("net", "three", "Linear") not in zoo
    # Another model may be fed the same examples in another form.
    assert capture_torch(model, [x * 2], zoo=zoo, name="other", checkpoint="c").written == 1


class Wrapped:
    """Hides what it iterates over."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def __iter__(self) -> Any:
        return iter(self._inside)


class Shuffling(torch.utils.data.IterableDataset):  # type: ignore[misc]
    def __init__(self, x: Any) -> None:
        self._x = x

    def __iter__(self) -> Any:
        return iter(self._x[torch.randperm(len(self._x))])


@pytest.mark.parametrize("hidden", ["wrapper", "generator", "list", "map", "islice", "chain", "dataset"])
def test_capture_torch__hidden_shuffling_differs_between_models(hidden: str, tmp_path: Path) -> None:
    """Each model gets a permutation of its own: once accepted, with SVCCA 0.10 instead of 1."""
    x = torch.randn(20, 4)
    zoo = create_zoo(tmp_path / "zoo.zarr", examples=range(20))

    def batches() -> Any:
        loader = torch.utils.data.DataLoader(x, 8, shuffle=True)
        return {
            "wrapper": lambda: Wrapped(loader),
            "generator": lambda: (batch for batch in loader),
            "list": lambda: list(loader),
            "map": lambda: map(torch.clone, loader),
            "islice": lambda: itertools.islice(loader, 100),
            "chain": lambda: itertools.chain(loader),
            "dataset": lambda: torch.utils.data.DataLoader(Shuffling(x), 8),
        }[hidden]()

    capture(nn.Linear(4, 3), batches(), zoo)
    message = r"'other/c' is fed the examples that 'net/c/Linear' was captured from, in another order \(digest"
    with pytest.raises(MismatchedExamplesError, match=message):
        capture_torch(nn.Linear(4, 3), batches(), zoo=zoo, name="other", checkpoint="c")
    assert list(zoo.representations.model) == ["net"]


def test_capture_torch__other_models_in_the_same_order(zoo: Zoo, x: Any) -> None:
    zoo.write("written", "c", "fc", x.numpy())
    first, second = (torch.cat([x[:1], x[:1], x[2:]]), torch.cat([x[:1], x[:1], x[2:]])[[1, 0, 2, 3, 4, 5]])
    capture(nn.Linear(4, 2), [first], zoo)
    # Two equal examples that change places are the same order.
    for name, batches in {"a": second.split(4), "b": [first * 2], "d": [first.half()]}.items():
        model = nn.Linear(4, 2).to(batches[0].dtype)
        assert capture_torch(model, batches, zoo=zoo, name=name, checkpoint="c").written == 1


def test_capture_torch__weights_that_changed(zoo: Zoo, x: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    capture(model, [x], zoo)
    before = zoo["net", "c", "1"].values
    assert capture(model, [x], zoo).present == 2
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.warns(CaptureWarning, match=r"nothing was written: 'net', checkpoint 'c'.*overwrite=True") as caught:
        assert capture_torch(model, [x], zoo=zoo, name="net", checkpoint="c").written == 0
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(zoo["net", "c", "1"].values, before)
    with pytest.raises(CaptureError, match="already with '0', captured from other weights"):
        capture(model, [x], zoo, layers="1", overwrite=True)
    assert capture(model, [x], zoo, overwrite=True).written == 2
    np.testing.assert_allclose(zoo["net", "c", "1"].values, model(x).detach(), rtol=1e-5)
    assert capture(model, [x], zoo).present == 2


class Scaled(nn.Module):  # type: ignore[misc]
    """Has a buffer that its state does not hold, an attribute, and a table that grows with the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu, self.scale = nn.Linear(4, 3), nn.ReLU(), 1.0
        self.register_buffer("sign", torch.tensor(1.0), persistent=False)
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Any) -> Any:
        self.table = torch.arange(x.shape[1], dtype=torch.float32)
        return self.relu(self.fc(x) * self.sign * self.scale)


def test_capture_torch__what_changed_without_the_weights(zoo: Zoo, x: Any, recwarn: Any) -> None:
    model = Scaled()
    capture(model, [x], zoo)
    assert (capture(model, [x], zoo).written, len(recwarn)) == (0, 0)
    model.sign.fill_(-1)
    with pytest.warns(CaptureWarning, match="'fc', 'relu' captured with other buffers than the model has now"):
        assert capture(model, [x], zoo).written == 0
    model.sign.fill_(1)
    model.scale = 1.5
    with pytest.warns(CaptureWarning, match="already, 'relu' with other values than the model gives now for the same"):
        assert capture(model, x.split(4), zoo).written == 0
    with pytest.warns(CaptureWarning, match=r"already, 'fc', 'relu' fed other inputs, or in another order\. These"):
        capture(model, [x * 3], zoo)
    capture(model, [x], zoo, overwrite=True)
    assert (capture(model, [x], zoo).written, len(recwarn)) == (0, 0)


def test_capture_torch__rounding_is_not_a_change(zoo: Zoo, x: Any, recwarn: Any) -> None:
    model = nn.Linear(4, 3)
    capture(model, [x], zoo)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert capture(model, [x], zoo).written == 0
    assert len(recwarn) == 0


def test_capture_torch__layers_of_other_weights_are_not_mixed(zoo: Zoo, x: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    capture(model, [x], zoo, layers="0")
    with torch.no_grad():
        model[1].weight.mul_(2)
    with pytest.raises(CaptureError, match="layers of different weights would stand in one checkpoint"):
        capture(model, [x], zoo)


def test_capture_torch__batches_inside_something(zoo: Zoo, x: Any) -> None:
    loader = [[x, torch.zeros(N)]]
    with pytest.raises(CaptureError, match=r"is the number 0 and a list, as enumerate\(loader\) gives: feed"):
        capture(nn.Linear(4, 2), enumerate(loader), zoo)
    with pytest.raises(CaptureError, match=r"a tuple with one list inside, as zip\(loader\) gives, .*TypeError"):
        capture(nn.Linear(4, 2), zip(loader, strict=True), zoo)


# Masks and labels


def test_capture_torch__masks_of_tuples_and_dicts(tmp_path: Path) -> None:
    model, ids, mask = Reader(), torch.randint(20, (N, T)), padding()
    right = model(ids, mask).detach()
    labels = torch.randint(2, (N,))
    kinds = {
        "tuple": [(ids, mask)],
        "labelled": list(zip(ids.split(4), mask.split(4), labels.split(4), strict=True)),
        "dict": [{"input_ids": ids, "attention_mask": mask, "labels": labels}],
        "named": [(mask, labels, ids)],
    }
    for kind, batches in kinds.items():
        zoo = create_zoo(tmp_path / kind, examples=range(N))
        inputs = ("attention_mask", None, "input_ids") if kind == "named" else None
        capture(model, batches, zoo, inputs=inputs)
        np.testing.assert_allclose(zoo["net", "c", "fc"].values, right, rtol=1e-5)
        np.testing.assert_array_equal(zoo.coords["mask"], mask.bool())
        assert zoo["net", "c", "fc"].coords["mask"].dims == ("example", "token")


def test_capture_torch__labels_are_no_mask(zoo: Zoo) -> None:
    model, ids = Reader(), torch.randint(20, (N, T))
    right = model(ids).detach()
    for checkpoint, labels in enumerate((torch.randint(2, (N,)), torch.randn(N, T))):
        capture(model, [(ids, labels)], zoo, str(checkpoint))
        np.testing.assert_allclose(zoo["net", str(checkpoint), "fc"].values, right, rtol=1e-5)
    unclear = torch.tensor([[0, 1, 0, 1, 1]] * N)
    for batch in ((ids, unclear), (ids, padding(), padding()), (ids, torch.randint(20, (N, T)))):
        with pytest.raises(CaptureError, match=r"shape \(6, 5\).*may be an input of the model.*or a label.*inputs="):
            capture(model, [batch], zoo, "unclear")
    capture(model, [(ids, unclear)], zoo, "said", inputs=("input_ids", None))
    assert list(zoo.coords) == []


def test_capture_torch__another_mask_than_the_zoos(tmp_path: Path) -> None:
    model, ids, mask = Reader(), torch.randint(20, (N, T)), padding()
    zoo = create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords={"mask": mask.bool().numpy()})
    capture(model, [(ids, mask)], zoo)
    other = torch.ones_like(mask)
    with pytest.raises(
        MismatchedExamplesError,
        match=r"mask of the tokens of 'other/c' is not the zoo's: the first example to differ is 1",
    ):
        capture_torch(model, [(ids, other)], zoo=zoo, name="other", checkpoint="c")


def test_capture_torch__keys_that_forward_lacks(zoo: Zoo) -> None:
    batch = {"input_ids": torch.randint(20, (N, T)), "mask": padding()}
    with pytest.raises(CaptureError, match=r"have 'mask', which its forward does not take: it takes 'input_ids', 'att"):
        capture(Reader(), [batch], zoo)
    assert capture(Reader(), [batch], zoo, inputs=["input_ids"]).written == 2


def test_capture_torch__what_has_no_examples(zoo: Zoo) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, scale: Any, position_ids: Any, features: Any) -> Any:
            return self.fc(features * scale + position_ids[0, 0])

    batches = [
        {"scale": torch.tensor(2.0), "position_ids": torch.zeros(1, T), "features": torch.randn(n, 4)} for n in (4, 2)
    ]
    assert capture(Net(), batches, zoo).examples == N


def test_capture_torch__lengths_may_be_an_input(zoo: Zoo, x: Any) -> None:
    class Net(nn.Linear):
        def forward(self, x: Any, lengths: Any = None) -> Any:
            return super().forward(x)

    with pytest.raises(CaptureError, match="or a label"):
        capture(Net(4, 2), [(x, torch.ones(N, dtype=torch.int64))], zoo)


# Tokens


def test_capture_torch__batches_of_unequal_length(zoo: Zoo, tmp_path: Path) -> None:
    model, ids, mask = Reader(), torch.randint(20, (N, T)), padding()
    short = [(ids[:1], mask[:1]), (ids[1:2, :3], mask[1:2, :3]), (ids[2:], mask[2:])]
    with pytest.raises(CaptureError, match=r"gave 3 tokens .*, and 5 before\. Pad .*padding='max_length'.*pool='mean'"):
        capture(model, short, zoo)
    hidden = model(ids, mask).detach().numpy()
    keep = mask.bool().numpy()
    right = {
        "mean": np.array([row[kept].mean(0) for row, kept in zip(hidden, keep, strict=True)]),
        "last": np.array([row[kept][-1] for row, kept in zip(hidden, keep, strict=True)]),
        "first": hidden[:, 0],
    }
    for pool, values in right.items():
        capture(model, short, zoo, pool, pool=pool)
        array = zoo["net", pool, "fc"]
        assert array.dims == ("example", "neuron")
        np.testing.assert_allclose(array.values, values, rtol=1e-5)
    assert list(zoo.coords) == []


def test_capture_torch__heads_need_dims(zoo: Zoo) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.heads = nn.Linear(4, 6), nn.Tanh()

        def forward(self, x: Any) -> Any:
            return self.heads(self.qkv(x).view(*x.shape[:2], 2, 3))

    model, x = Heads(), torch.randn(N, T, 4)
    report = capture(model, [x], zoo)
    assert "nothing says what its 4 axes are" in report.skipped["heads"]
    capture(model, [x], zoo, "said", layers="heads", dims={"heads": ("example", "token", "head", "channel")})
    array = zoo["net", "said", "heads"]
    assert array.dims == ("example", "token", "neuron")
    np.testing.assert_allclose(array.values, model.qkv(x).tanh().detach(), rtol=1e-5)
    with pytest.raises(CaptureError, match="'hands', which matches none of the layers"):
        capture(model, [x], zoo, "wrong", dims={"hands": ("example", "token", "head", "channel")})
    with pytest.raises(CaptureError, match="do not describe the 4 axes of 'heads'"):
        capture(model, [x], zoo, "wrong", dims={"heads": ("example", "token", "channel")})


def test_capture_torch__images_by_hand(zoo: Zoo) -> None:
    """Four axes of which nothing is known are not guessed."""
    report = capture(nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Linear(120, 4)), [torch.randn(N, 3, 8, 5)], zoo)
    assert list(zoo.representations.layer) == ["1", "2"]
    assert "nothing says what its 4 axes are: shape (6, 3, 8, 5)" in report.skipped["0"]


@pytest.mark.parametrize("layers", ["fc", None])
def test_capture_torch__encoder_with_padding(layers: str | None, zoo: Zoo) -> None:
    """Its fused step computes on nested tensors: hooks inside would break it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder, self.fc = nn.TransformerEncoder(layer, 2), nn.Linear(4, 3)

        def forward(self, x: Any, padding_mask: Any = None) -> Any:
            return self.fc(self.encoder(x, src_key_padding_mask=padding_mask))

    model, x, padded = Net().eval(), torch.randn(N, T, 4), padding() == 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # once in a process: nested tensors are a prototype
        right = model(x, padded).numpy()
    capture(model, [(x[:4], padded[:4]), (x[4:], padded[4:])], zoo, layers=layers)
    kept = ~padded.numpy() if layers is None else np.ones((N, T), dtype=bool)
    np.testing.assert_allclose(zoo["net", "c", "fc"].values[kept], right[kept], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(zoo.coords["mask"], ~padded.numpy())
    assert zoo.representations.depth["net/c/fc"] == 16


# Models


def test_capture_torch__wrapped_models(zoo: Zoo, x: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    compiled = torch.compile(model, backend="eager")
    partly = nn.Sequential(model[0], torch.compile(model[1], backend="eager"))
    with torch.no_grad():
        compiled(x)
        partly(x)
    wrapped = {"plain": model, "compiled": compiled, "partly": partly, "parallel": nn.DataParallel(model)}
    wrapped["averaged"] = torch.optim.swa_utils.AveragedModel(model)
    for checkpoint, kind in wrapped.items():
        capture(kind, [x], zoo, checkpoint)
    table = zoo.representations
    assert all(list(table[table.checkpoint == checkpoint].layer) == ["0", "1.0", "1.1"] for checkpoint in wrapped)
    assert len({attributes(zoo, "0", checkpoint)["weights_digest"] for checkpoint in wrapped}) == 1


def test_capture_torch__attention_alone(zoo: Zoo) -> None:
    """There are as many tokens as examples, and tokens come first."""
    model, x = nn.MultiheadAttention(4, 2), torch.randn(N, N, 4)
    capture(model, [(x, x, x)], zoo)
    right = model(x, x, x)[0].detach().transpose(0, 1)
    np.testing.assert_allclose(zoo["net", "c", "MultiheadAttention"].values, right, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_capture_torch__compiled_by_torchscript(zoo: Zoo, x: Any) -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(4, 3)), x, check_trace=False)
    with pytest.raises(CaptureError, match="'net' is compiled by TorchScript, which takes no hooks"):
        capture(scripted, [x], zoo)
    report = capture(nn.Sequential(nn.Linear(4, 4), scripted), [x], zoo)
    assert report.skipped["1"] == "it is compiled by TorchScript, which takes no hooks"


def test_capture_torch__one_image_without_an_axis_of_examples(zoo: Zoo) -> None:
    with pytest.raises(CaptureError, match=r"its first axis is not the 6 examples: shape \(6, 4, 5\)"):
        capture(nn.Conv2d(N, N, 1), [torch.randn(N, 4, 5)], zoo)


def test_capture_torch__layer_norm_over_maps(zoo: Zoo) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm([4, 5]), nn.LayerNorm([2, 4, 5]))
    capture(model, [torch.randn(N, 1, 4, 5)], zoo)
    assert {zoo["net", "c", layer].dims[1:] for layer in "012"} == {("height", "width", "channel")}
    assert {zoo["net", "c", layer].shape[1:] for layer in "012"} == {(4, 5, 2)}


def test_capture_torch__encoded_texts_and_labels(zoo: Zoo) -> None:
    model, ids, mask = Reader(), torch.randint(20, (N, T)), padding()
    capture(model, [({"input_ids": ids, "attention_mask": mask}, torch.zeros(N))], zoo)
    np.testing.assert_allclose(zoo["net", "c", "fc"].values, model(ids, mask).detach(), rtol=1e-5)


def test_capture_torch__repeats_within_batches_are_no_repeats(zoo: Zoo) -> None:
    """The second half shows that the activation does something."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.zero_()
    x = torch.ones(N, 4)
    x[3:] = -1
    report = capture(model, x.split(3), zoo)
    assert list(zoo.representations.layer) == ["0", "1"]
    assert report.skipped == {"2": "it repeats '1'"}
    assert open_zoo(zoo.root.store).unfinished == []


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
def test_capture_torch__precision(kind: str, zoo: Zoo, x: Any) -> None:
    dtype = getattr(torch, kind)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).to(dtype)
    capture(model, [x.to(dtype)], zoo)
    array = zoo["net", "c", "0"]
    assert array.dtype == ("float32" if kind == "bfloat16" else kind)
    np.testing.assert_array_equal(array.values, model[0](x.to(dtype)).detach().to(torch.float64).numpy())
    assert attributes(zoo, "0").get("source_dtype", kind) == kind


def test_capture_torch__precision_under_autocast(zoo: Zoo, x: Any) -> None:
    """Numbers in single precision that were computed from rounded ones are no better than these."""
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.LayerNorm(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capture(model, [x], zoo)
    assert [attributes(zoo, layer).get("source_dtype") for layer in "012"] == ["float32", "bfloat16", "bfloat16"]


def test_capture_torch__zoo_by_its_place(tmp_path: Path, x: Any) -> None:
    with pytest.raises(StoreFormatError, match=r"no zoo at .*there is no zarr v3 group"):
        capture(nn.Linear(4, 2), [x], tmp_path / "zoo.zarr")
    create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    assert capture(nn.Linear(4, 2), [x], str(tmp_path / "zoo.zarr")).written == 1
    assert list(open_zoo(tmp_path / "zoo.zarr").representations.layer) == ["Linear"]


def test_capture_torch__memory_of_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for full chunks is bounded for all layers together; every layer is whole at the end."""
    budget = 40_000
    monkeypatch.setattr(store, "PENDING_BYTES", budget)
    most = 0
    bound = store.Zoo._bound

    def watched(self: Any) -> None:
        nonlocal most
        bound(self)
        most = max(most, sum(writer.waiting for writer in self._writers.values()))

    monkeypatch.setattr(store.Zoo, "_bound", watched)
    zoo = create_zoo(tmp_path / "zoo.zarr", examples=range(100))
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(20)])
    x = torch.randn(100, 16)
    capture(model, x.split(7), zoo)
    one_batch = 20 * 7 * 16 * 4
    assert budget / 2 < most <= budget + one_batch
    for layer in range(20):
        np.testing.assert_allclose(zoo["net", "c", str(layer)].values, model[: layer + 1](x).detach(), atol=1e-6)
