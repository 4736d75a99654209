"""Masks of tokens in all the forms in which models take them, and what must not pass for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, capture, small_zoo, still, torch

from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureError, CaptureWarning, MismatchedExamplesError

if TYPE_CHECKING:
    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

T = 5
LENGTHS = torch.tensor([5, 3, 5, 4, 1, 2])

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


def tokens() -> Any:
    return torch.arange(T) < LENGTHS[:, None]


def texts() -> Any:
    """Ids of tokens; those of padding are zero."""
    return torch.randint(1, 20, (N, T)) * tokens()


def fixed(forward: Any) -> Any:
    """A network of an embedding and a linear layer with that ``forward``."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(20, 4), nn.Linear(4, 3)

    Net.forward = forward  # type: ignore[method-assign]
    return Net()


def reader(self: Any, input_ids: Any, attention_mask: Any = None) -> Any:
    return self.fc(self.embed(input_ids))


def typed(self: Any, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
    assert token_type_ids is None
    return self.fc(self.embed(input_ids))


def labelled(self: Any, input_ids: Any = None, attention_mask: Any = None, labels: Any = None) -> Any:
    assert labels is None
    return self.fc(self.embed(input_ids))


def anything(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.fc(self.embed(args[0]))


# Labels


@pytest.mark.parametrize("forward", [reader, typed, labelled], ids=["mask only", "types", "labels"])
@pytest.mark.parametrize("kind", ["zeros", "tail", "first"])
def test_capture_torch__labels_that_look_like_a_mask(forward: Any, kind: str, zoo: Zoo) -> None:
    labels = torch.zeros(N, T, dtype=torch.int64)
    if kind == "tail":
        labels = (~tokens()).long()
    if kind == "first":
        labels[:, 0] = 1
    with pytest.raises(CaptureError, match=r"may be an input of the model.*or a label.*inputs="):
        capture(fixed(forward), [(torch.randint(20, (N, T)), labels)], zoo)
    assert list(zoo.coords) == []


def test_capture_torch__mask_beside_labels_is_told_by_padding(zoo: Zoo) -> None:
    capture(fixed(labelled), [(texts(), tokens().long(), torch.zeros(N, dtype=torch.int64))], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], tokens())
    with pytest.raises(CaptureError, match="or a label"):
        capture(fixed(labelled), [(torch.randint(20, (N, T)), tokens().long())], zoo, "d")


@pytest.mark.parametrize("name", ["context", "lens"])
def test_capture_torch__optional_inputs_are_not_labels(name: str, zoo: Zoo) -> None:
    class Net(nn.Linear):
        def forward(self, x: Any, context: Any = None) -> Any:
            return super().forward(x)

    class Lengths(nn.Linear):
        def forward(self, x: Any, lens: Any = None) -> Any:
            return super().forward(x)

    x, second = torch.randn(N, 4), torch.randn(N, 4) if name == "context" else LENGTHS
    model = Net(4, 2) if name == "context" else Lengths(4, 2)
    with pytest.raises(CaptureError, match=rf"takes 'x', '{name}', or a label"):
        capture(model, [(x, second)], zoo)
    assert capture(model, [(x, second)], zoo, inputs=("x", name)).written == 1


def test_capture_torch__labels_stay_out_of_switches(zoo: Zoo) -> None:
    class Net(nn.Linear):
        def forward(self, x: Any, attn_mask: Any = None, scale: bool | None = None, y: Any = None) -> Any:
            assert attn_mask is scale is y is None
            return super().forward(x)

    for checkpoint, labels in enumerate((torch.arange(N), torch.eye(N)[:, :3])):
        assert capture(Net(4, 2), [(torch.randn(N, 4), labels)], zoo, str(checkpoint), overwrite=True).written == 1
        zoo.delete("net", str(checkpoint), "Net")


def test_capture_torch__wrapper_of_anything(zoo: Zoo) -> None:
    with pytest.raises(CaptureError, match="takes anything, or a label"):
        capture(fixed(anything), [(texts(), tokens())], zoo)
    assert capture(fixed(anything), [texts()], zoo).written == 2


# Forms


@pytest.mark.parametrize("kind", ["additive", "infinite", "deep", "deep additive", "half", "tuple"])
def test_capture_torch__forms_of_a_mask(kind: str, zoo: Zoo) -> None:
    mask, ids = tokens(), texts()
    forms = {
        "additive": (1 - mask.float()) * -1e9,
        "infinite": torch.zeros(N, T).masked_fill(~mask, -torch.inf),
        "deep": mask[:, None, None, :],
        "deep additive": (1 - mask.float())[:, None, None, :] * -1e9,
        "half": (1 - mask.bfloat16()) * -1e9,
        "tuple": (1 - mask.float()) * -1e9,
    }
    given = forms[kind]
    batch = (ids, given) if kind == "tuple" else {"input_ids": ids, "attention_mask": given}
    model = fixed(reader)
    capture(model, [batch], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], mask)
    capture(model, [batch], zoo, "mean", pool="mean")
    hidden = model.fc(model.embed(ids)).detach()
    right = torch.stack([row[: int(length)].mean(0) for row, length in zip(hidden, LENGTHS, strict=True)])
    np.testing.assert_allclose(zoo["net", "mean", "fc"].values, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entry", ["dict", "tuple"])
def test_capture_torch__padding_mask_that_is_added(entry: str, zoo: Zoo) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def forward(self, src: Any, src_key_padding_mask: Any = None) -> Any:
            return self.layer(src, src_key_padding_mask=src_key_padding_mask)

    x, mask = torch.randn(N, T, 4), torch.zeros(N, T).masked_fill(~tokens(), -torch.inf)
    model = Net().eval()
    capture(model, [(x, mask) if entry == "tuple" else {"src": x, "src_key_padding_mask": mask}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], tokens())
    with torch.no_grad():
        right = model(x, mask)
    np.testing.assert_allclose(zoo["net", "c", "layer.norm2"].values[tokens()], right[tokens()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mask", "input_mask", "pad_mask"])
def test_capture_torch__masks_that_the_model_needs(name: str, zoo: Zoo) -> None:
    forwards = {
        "mask": lambda self, ids, mask: self.fc(self.embed(ids)),
        "input_mask": lambda self, ids, input_mask: self.fc(self.embed(ids)),
        "pad_mask": lambda self, ids, pad_mask: self.fc(self.embed(ids)),
    }
    mask = ~tokens() if name == "pad_mask" else tokens()
    capture(fixed(forwards[name]), [(texts(), mask)], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], tokens())


@pytest.mark.parametrize("kind", ["weights", "window", "other sense"])
def test_capture_torch__masks_that_say_nothing_plain(kind: str, zoo: Zoo) -> None:
    ids = torch.randint(20, (N, T))
    batches = {
        "weights": {"input_ids": ids, "attention_mask": torch.rand(N, T)},
        "window": {"input_ids": ids, "attention_mask": torch.ones(N, 1, T, T).tril().triu(-1)},
        "other sense": {"input_ids": ids, "mask": ~tokens()},
    }
    model = fixed(lambda self, input_ids, mask: self.fc(self.embed(input_ids))) if kind == "other sense" else None
    with pytest.raises(CaptureError, match=r"mask' of 'net', shape .*does not say plainly which tokens are padding"):
        capture(model or fixed(reader), [batches[kind]], zoo)


# Pooling, and the zoo's mask


@pytest.mark.parametrize("pool", ["mean", "last", "first"])
def test_capture_torch__pool_of_other_tokens(pool: Any, zoo: Zoo) -> None:
    """A token in front of the others: the mask does not say which of them are padding."""

    def forward(self: Any, input_ids: Any, attention_mask: Any = None) -> Any:
        hidden = self.embed(input_ids)
        return self.fc(torch.cat([hidden[:, :1], hidden], 1))

    report = capture(fixed(forward), [(texts(), tokens())], zoo, pool=pool)
    assert report.skipped == {
        "fc": f"it has 6 tokens an example and the mask 5: pool={pool!r} cannot tell its tokens from padding"
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_capture_torch__masks_in_both_orders(order: tuple[int, int], zoo: Zoo) -> None:
    masks = (tokens(), torch.ones(N, T, dtype=torch.bool))
    capture(fixed(reader), [(texts(), masks[order[0]])], zoo, "a")
    with pytest.raises(MismatchedExamplesError, match="is not the zoo's: the first example to differ is 1"):
        capture_torch(fixed(reader), [(texts(), masks[order[1]])], zoo=zoo, name="other", checkpoint="b")


# What the zoo has already


@pytest.mark.parametrize("change", ["inputs", "step", "dtype", "pool"])
def test_capture_torch__what_is_left_as_it_is_is_said(change: str, zoo: Zoo) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(N, T, 4)
    assert capture(model, [x], zoo, step=1).caution == ""
    options: dict[str, Any] = {"step": 1}
    options |= {"inputs": {}, "step": {"step": 2}, "dtype": {"dtype": "float16"}, "pool": {"pool": "mean"}}[change]
    words = {
        "inputs": "fed other inputs, or in another order",
        "step": "with another step than 2",
        "dtype": "not as float16",
        "pool": "pooled otherwise than with pool='mean'",
    }
    batches = x.split(4) if change != "inputs" else x.flip(0).split(4)
    with pytest.warns(CaptureWarning, match=rf"nothing was written: 'net', .* '0' {words[change]}\.") as caught:
        report = capture(model, batches, zoo, **options)
    assert (report.written, report.present) == (0, 1)
    assert report.caution == str(caught[0].message)
    assert capture(model, x.split(4), zoo, step=1).caution == ""


# Batches


@pytest.mark.parametrize("kind", ["own", "iterator", "progress"])
def test_capture_torch__random_order_in_disguise(kind: str, zoo: Zoo) -> None:
    data, x = torch.utils.data, torch.randn(N, 4)

    class Shuffled:
        def __iter__(self) -> Any:
            return iter(torch.randperm(N).tolist())

        def __len__(self) -> int:
            return N

    class Progress:
        """As of tqdm."""

        def __init__(self, iterable: Any) -> None:
            self.iterable = iterable

        def __iter__(self) -> Any:
            return iter(self.iterable)

    shuffled = data.DataLoader(x, shuffle=True)
    kinds = {
        "own": data.DataLoader(x, sampler=Shuffled()),
        "iterator": iter(shuffled),
        "progress": Progress(shuffled),
    }
    with pytest.raises(MismatchedExamplesError, match="draws its examples at random"):
        capture(nn.Linear(4, 2), kinds[kind], zoo)


def test_capture_torch__sampler_in_order(zoo: Zoo) -> None:
    data, x = torch.utils.data, torch.randn(N, 4)
    assert capture(nn.Linear(4, 2), data.DataLoader(x, sampler=range(N), batch_size=4), zoo).written == 1


@pytest.mark.parametrize("batches", [torch.ones(N, 4), np.ones((N, 4)), {"input": torch.ones(N, 4)}])
def test_capture_torch__one_batch_is_not_batches(batches: Any, zoo: Zoo) -> None:
    with pytest.raises(
        CaptureError, match=r"are one .*, which is a single batch: give a list of batches, such as \[x\]"
    ):
        capture(nn.Linear(4, 2), batches, zoo)


def test_capture_torch__names_are_text(zoo: Zoo) -> None:
    with pytest.raises(CaptureError, match="checkpoint=3 is not a text: name it as in checkpoint='checkpoint3'"):
        capture(nn.Linear(4, 2), [torch.ones(N, 4)], zoo, 3)  # type: ignore[arg-type]


def test_capture_torch__arguments_by_name_only(zoo: Zoo) -> None:
    class One(nn.Linear):
        def forward(self, *, pixels: Any) -> Any:
            return super().forward(pixels)

    class Two(nn.Linear):
        def forward(self, x: Any, *, scale: Any) -> Any:
            return super().forward(x * scale)

    x = torch.randn(N, 4)
    assert capture(One(4, 2), [x], zoo).written == 1
    for model, batch in ((Two(4, 2), x), (Two(4, 2), (x, x)), (One(4, 2), (x, x))):
        with pytest.raises(CaptureError, match=r"takes '(scale|pixels)' by name only: feed dicts with these keys"):
            capture(model, [batch], zoo, "d")
    assert capture_torch(Two(4, 2), [(x, x)], zoo=zoo, name="two", checkpoint="c", inputs=("x", "scale")).written == 1
