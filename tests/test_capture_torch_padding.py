"""Masks under any name and in either sense: what is padding, the ids of the tokens say too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, capture, small_zoo, still, torch

from dask_svcca.errors import CaptureError, CaptureWarning

if TYPE_CHECKING:
    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

T = 5
LENGTHS = torch.tensor([5, 3, 5, 4, 1, 2])
MASK = torch.arange(T) < LENGTHS[:, None]
FEATURES = torch.linspace(-1, 1, N * T * 4).view(N, T, 4)

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


def texts() -> Any:
    """Ids of tokens; those of padding are zero."""
    return torch.randint(1, 20, (N, T)) * MASK


def takes(*names: str) -> Any:
    """A network whose ``forward`` takes arguments of these names, the first its input."""
    space: dict[str, Any] = {}
    arguments = ", ".join([names[0], *(f"{name}=None" for name in names[1:])])
    exec(f"def forward(self, {arguments}):\n    return self.fc(self.embed({names[0]}))", space)
    model = type("Net", (nn.Module,), {"forward": space["forward"]})()
    model.embed = nn.Embedding(20, 4) if names[0] != "features" else nn.Identity()
    model.fc = nn.Linear(4, 3)
    return model


def split(batch: dict[str, Any], size: int = 4) -> list[dict[str, Any]]:
    return [{key: value[rows] for key, value in batch.items()} for rows in (slice(size), slice(size, None))]


TOKENS = ["attention_mask", "non_pad_mask", "not_pad_mask", "nonpadding_mask", "unpadded_mask", "not_padding_mask"]
TOKENS += ["no_pad_mask", "not_padding", "is_not_pad", "valid_mask", "token_mask", "src_mask", "key_mask", "x_mask"]
TOKENS += ["seq_mask", "text_mask", "inputs_mask", "valid", "is_token", "mask"]


@pytest.mark.parametrize("name", [*TOKENS, "encoder_mask", "pad_mask", "padding", "m"])
def test_capture_torch__true_is_a_token_as_the_ids_say(name: str, zoo: Zoo) -> None:
    batch = {"input_ids": texts(), name: MASK}
    model = takes("input_ids", name)
    capture(model, split(batch), zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)
    capture(model, split(batch), zoo, pool="mean", overwrite=True)
    hidden = model.fc(model.embed(batch["input_ids"])).detach()
    right = [row[: int(length)].mean(0) for row, length in zip(hidden, LENGTHS, strict=True)]
    np.testing.assert_allclose(zoo["net", "c", "fc"].values, torch.stack(right), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["pad_mask", "padding_mask", "src_key_padding_mask", "is_pad", "mask", "invalid_mask"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_capture_torch__true_is_padding_as_the_ids_say(name: str, side: str, zoo: Zoo) -> None:
    ids, mask = (texts(), MASK) if side == "right" else (texts().flip(1), MASK.flip(1))
    capture(takes("input_ids", name), split({"input_ids": ids, name: ~mask}), zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], mask)


@pytest.mark.parametrize("name", TOKENS)
def test_capture_torch__true_is_a_token_by_the_name(name: str, zoo: Zoo) -> None:
    """Features have no ids that could say it."""
    capture(takes("features", name), [{"features": FEATURES, name: MASK}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)


@pytest.mark.parametrize("name", ["pad_mask", "padding_mask"])
def test_capture_torch__all_tokens_are_padding(name: str, zoo: Zoo) -> None:
    model = takes("features", name)
    with pytest.raises(CaptureError, match=rf"'{name}' of 'net' says of example 0 .* all of its tokens are padding"):
        capture(model, [{"features": FEATURES, name: MASK}], zoo)
    capture(model, [{"features": FEATURES, name: ~MASK}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)


@pytest.mark.parametrize("name", ["attention_mask", "non_pad_mask", "key_padding_mask", "added"])
def test_capture_torch__name_and_ids_contradict_each_other(name: str, zoo: Zoo) -> None:
    mask = MASK if name == "key_padding_mask" else ~MASK
    if name == "added":
        name, mask = "padding_mask", torch.zeros(N, T).masked_fill(MASK, -torch.inf)
    with pytest.raises(CaptureError, match=f"the mask '{name}' of 'net' and 'input_ids' contradict each other"):
        capture(takes("input_ids", name), [{"input_ids": texts(), name: mask}], zoo)
    assert list(zoo.coords) == []


def test_capture_torch__sense_that_changes(zoo: Zoo) -> None:
    one, other = split({"input_ids": texts(), "pad_mask": MASK})
    other["pad_mask"] = ~other["pad_mask"]
    with pytest.raises(CaptureError, match="true for padding in some batches and for tokens in others"):
        capture(takes("input_ids", "pad_mask"), [one, other], zoo)


@pytest.mark.parametrize("name", ["valid", "pad_mask", "mask", "padding_mask"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pool", [None, "first"])
def test_capture_torch__modules_know_better_than_names(name: str, side: str, pool: Any, zoo: Zoo) -> None:
    tokens = MASK if side == "right" else MASK.flip(1)
    space: dict[str, Any] = {}
    turned = "~" if "pad" in name else ""
    exec(f"def forward(s, x, {name}): return s.fc(s.layer(x, src_key_padding_mask={turned}{name}))", space)
    model = type("Net", (nn.Module,), {"forward": space["forward"]})()
    model.layer, model.fc = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 3)
    batch = {"x": FEATURES, name: tokens if turned else ~tokens}
    capture(model, split(batch), zoo, pool=pool, layers="fc")
    if pool is None:
        np.testing.assert_array_equal(zoo.coords["mask"], tokens)
    else:
        with torch.no_grad():
            whole = model.eval()(*batch.values())
        right = whole[torch.arange(N), tokens.int().argmax(1)]
        np.testing.assert_allclose(zoo["net", "c", "fc"].values, right, rtol=1e-4, atol=1e-5)


# Masks that the model does not take


@pytest.mark.parametrize(
    "kind", ["dict", "tuple", "None", "lengths", "lengths left", "column of lengths", "padding", "beside a dict"]
)
def test_capture_torch__mask_that_the_model_does_not_take(kind: str, zoo: Zoo) -> None:
    ids, mask, inputs = texts(), MASK, ["input_ids"]
    if kind == "lengths left":
        ids, mask = ids.flip(1), mask.flip(1)
    batches = {
        "dict": {"input_ids": ids, "attention_mask": mask},
        "padding": {"input_ids": ids, "labels": mask.flip(1), "key_padding_mask": ~mask},
        "lengths": {"input_ids": ids, "lengths": LENGTHS},
        "column of lengths": {"input_ids": ids, "seq_lens": LENGTHS[:, None].float()},
        "lengths left": {"input_ids": ids, "seq_len": LENGTHS},
    }
    parts: list[Any] = split(batches.get(kind, batches["dict"]))
    if kind in {"tuple", "None"}:
        parts = [tuple(part.values()) for part in parts]
    if kind == "beside a dict":
        parts = [({"input_ids": part["input_ids"]}, part["attention_mask"]) for part in parts]
    options = {"tuple": {}, "None": {"inputs": ("input_ids", None)}}.get(kind, {"inputs": inputs})
    capture(takes("input_ids"), parts, zoo, **options)
    np.testing.assert_array_equal(zoo.coords["mask"], mask)


def test_capture_torch__weights_that_the_model_does_not_take(zoo: Zoo) -> None:
    batch = {"input_ids": texts(), "attention_mask": torch.rand(N, T)}
    with pytest.raises(CaptureError, match=r"does not say plainly which tokens are padding.*leave it out of the batch"):
        capture(takes("input_ids"), [batch], zoo, inputs=["input_ids"])


def test_capture_torch__mask_beside_the_whole_batch(zoo: Zoo) -> None:
    class Net(nn.Sequential):
        def forward(self, batch: Any) -> Any:
            return super().forward(batch["ids"])

    capture(Net(nn.Embedding(20, 4)), [{"ids": texts(), "valid": MASK, "lens": LENGTHS}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)


@pytest.mark.parametrize("kind", ["plain", "pad_mask"])
@pytest.mark.parametrize("entry", ["dict", "tuple"])
@pytest.mark.parametrize("ids", [True, False])
def test_capture_torch__mask_of_tokens_that_come_first(kind: str, entry: str, ids: bool, zoo: Zoo) -> None:
    """torch's own layers take (token, example) by default, and masks with the examples first all the same."""
    name, mask = ("src_key_padding_mask", ~MASK) if kind == "plain" else ("pad_mask", MASK if ids else ~MASK)
    space: dict[str, Any] = {}
    exec(f"def forward(self, src, {name}=None):\n    return self.layer(self.embed(src))", space)
    model = type("Net", (nn.Module,), {"forward": space["forward"]})()
    model.embed = nn.Embedding(20, 4) if ids else nn.Identity()
    model.layer = nn.TransformerEncoderLayer(4, 2, 8)
    batch = {"src": (texts() if ids else FEATURES).transpose(0, 1), name: mask}
    capture(model, [batch if entry == "dict" else tuple(batch.values())], zoo, layers="layer.norm2")
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)
    with torch.no_grad():
        right = model.eval()(batch["src"]).transpose(0, 1)
    np.testing.assert_allclose(zoo["net", "c", "layer.norm2"].values, right, rtol=1e-5, atol=1e-6)


def test_capture_torch__mask_that_is_the_other_way_round(zoo: Zoo) -> None:
    batch = {"input_ids": texts(), "attention_mask": MASK.T}
    with pytest.raises(CaptureError, match="does not say plainly"):
        capture(takes("input_ids", "attention_mask"), [batch], zoo)


def test_capture_torch__each_sequence_has_its_ids(zoo: Zoo) -> None:
    src, tgt = texts(), texts().flip(0)
    model = takes("src", "src_pad_mask", "tgt", "tgt_pad_mask")
    capture(model, [{"src": src, "src_pad_mask": MASK, "tgt": tgt, "tgt_pad_mask": MASK.flip(0)}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)
    model = takes("src", "tgt", "tgt_key_padding_mask")
    with pytest.raises(CaptureError, match="'tgt_key_padding_mask' of 'net' and 'tgt' contradict each other"):
        capture(model, [{"src": src, "tgt": tgt, "tgt_key_padding_mask": MASK.flip(0)}], zoo)


# What is not a mask


@pytest.mark.parametrize("kind", ["special", "global", "causal", "types", "labels"])
def test_capture_torch__what_is_not_a_mask(kind: str, zoo: Zoo) -> None:
    ids = torch.randint(2, 20, (N, T))
    ids[:, 0] = 1
    first = (torch.arange(T) == 0).expand(N, T)
    batch = {
        "special": {"special_tokens_mask": first},
        "global": {"global_attention_mask": first},
        "causal": {"src_mask": torch.ones(N, N, dtype=torch.bool).tril()},
        "types": {"token_type_ids": torch.ones(N, T, dtype=torch.int64)},
        "labels": {"labels": ~first},
    }[kind]
    if kind == "causal":
        ids = torch.randint(2, 20, (N, N))
    name = next(iter(batch))
    report = capture(takes("input_ids", name), [{"input_ids": ids, **batch}], zoo)
    assert report.written == 2
    assert list(zoo.coords) == []


@pytest.mark.parametrize("kind", ["predicted", "lengths", "left out", "left out lengths", "entry"])
def test_capture_torch__what_may_be_a_mask_is_said(kind: str, zoo: Zoo) -> None:
    ids = torch.randint(2, 18, (N, T))
    predicted = (torch.arange(T) == 2).expand(N, T)
    ids[predicted] = 19
    name, values = {
        "predicted": ("token_mask", predicted),
        "lengths": ("lengths", LENGTHS),
        "left out": ("flags", MASK),
        "left out lengths": ("lengths", LENGTHS),
        "entry": ("entry 1", MASK),
    }[kind]
    batch: Any = {"input_ids": ids, name: values}
    left = kind not in {"predicted", "lengths"}
    options = {"inputs": ["input_ids"]} if left and kind != "entry" else {}
    with pytest.warns(CaptureWarning, match=rf"the input '{name}' .* nothing says whether the others are padding"):
        capture(
            takes("input_ids") if left else takes("input_ids", name),
            [tuple(batch.values()) if kind == "entry" else batch],
            zoo,
            **options,
        )
    assert list(zoo.coords) == []


# Batches


@pytest.mark.parametrize("name", ["m", "valid_mask", "lengths", "pad_mask"])
@pytest.mark.parametrize("full", ["first", "last", "both"])
def test_capture_torch__batches_without_padding(name: str, full: str, zoo: Zoo) -> None:
    lengths = LENGTHS.clone()
    rows = {"first": slice(3), "last": slice(3, None), "both": slice(None)}[full]
    lengths[rows] = T
    mask = torch.arange(T) < lengths[:, None]
    batch = {"input_ids": torch.randint(1, 20, (N, T)) * mask, name: lengths if name == "lengths" else mask}
    for options in ({}, {"pool": "last", "overwrite": True}):
        capture(takes("input_ids", name), split(batch, 3), zoo, **options)
    if full == "both" and name in {"m", "lengths"}:
        # It may be anything that is one everywhere.
        assert list(zoo.coords) == []
    else:
        np.testing.assert_array_equal(zoo.coords["mask"], mask)


# Forms


@pytest.mark.parametrize("kind", ["rounded", "column", "deep column", "causal", "causal added", "left", "both", "all"])
def test_capture_torch__masks_of_queries_and_columns(kind: str, zoo: Zoo) -> None:
    ids, mask = (texts().flip(1), MASK.flip(1)) if kind == "left" else (texts(), MASK)
    lower = torch.ones(T, T, dtype=torch.bool).tril()
    causal = (mask[:, None, :] & lower)[:, None]
    forms = {
        "rounded": (1 - mask.float()).bfloat16() * -1e4,
        "column": mask[:, :, None],
        "deep column": mask[:, None, :, None].long(),
        "causal": causal[:, 0],
        "causal added": torch.zeros(N, 1, T, T).masked_fill(~causal, -1e9),
        "left": causal,
        "both": mask[:, None, :] & mask[:, :, None],
        "all": mask[:, None, None, :].expand(N, 1, T, T),
    }
    capture(takes("input_ids", "attention_mask"), [{"input_ids": ids, "attention_mask": forms[kind]}], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], mask)


def test_capture_torch__causal_mask_says_nothing_of_padding(zoo: Zoo) -> None:
    batch = {"input_ids": texts(), "attention_mask": torch.ones(N, 1, T, T).tril()}
    assert capture(takes("input_ids", "attention_mask"), [batch], zoo).written == 2
    assert list(zoo.coords) == []
    capture(takes("input_ids", "attention_mask", "valid"), [batch | {"valid": MASK}], zoo, overwrite=True)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)


def test_capture_torch__padding_mask_of_a_tuple_in_the_other_sense(zoo: Zoo) -> None:
    ids, model = texts(), takes("input_ids", "pad_mask")
    capture(model, [(ids[:4], MASK[:4]), (ids[4:], MASK[4:])], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], MASK)
    with pytest.raises(CaptureError, match="may be an input of the model"):
        capture(takes("features", "pad_mask"), [(FEATURES, MASK)], zoo)


def test_capture_torch__label_of_each_token_is_not_a_column_mask(zoo: Zoo) -> None:
    labels = torch.randint(2, (N, T, 1))
    with pytest.raises(CaptureError, match="may be an input of the model"):
        capture(takes("input_ids", "attention_mask"), [(torch.randint(20, (N, T)), labels)], zoo)
