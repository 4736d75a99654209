"""Padding under names that say nothing: known from where the model hands it, or said; never silently averaged over."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, capture, small_zoo, still, torch

from dask_svcca import compare
from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureError, CaptureWarning
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

T = 5
LENGTHS = torch.tensor([5, 3, 5, 4, 1, 2])
TOKENS = torch.arange(T) < LENGTHS[:, None]

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


def network(forward: Any, **modules: Any) -> Any:
    """A network of these modules and a linear layer, with that ``forward``."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 7)
            for name, module in modules.items():
                setattr(self, name, module)

    Net.forward = forward  # type: ignore[method-assign]
    return Net()


def encoder(*, batch_first: bool = True) -> Any:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any, attention_mask: Any) -> Any:
        return self.inner(x) * attention_mask[..., None]


def handing(kind: str) -> tuple[Any, Any]:
    """A network that hands its second input on as a mask, and that input."""
    if kind == "encoder":
        return network(lambda s, x, pad: s.fc(s.a(x, src_key_padding_mask=pad)), a=encoder()), ~TOKENS
    if kind == "whole numbers":
        forward = lambda s, x, valid: s.fc(s.a(x, src_key_padding_mask=valid == 0))  # noqa: E731 - one line, like others
        return network(forward, a=encoder()), TOKENS.long()
    if kind == "by position":
        attention = nn.MultiheadAttention(4, 2, batch_first=True)
        return network(lambda s, x, src_mask: s.fc(s.a(x, x, x, src_mask)[0]), a=attention), ~TOKENS
    if kind == "added":
        forward = lambda s, x, is_pad: s.fc(  # noqa: E731 - as above
            s.a(x, src_key_padding_mask=torch.zeros(is_pad.shape).masked_fill(is_pad, -torch.inf))
        )
        return network(forward, a=encoder()), ~TOKENS
    if kind == "own block":
        return network(lambda s, x, valid: s.fc(s.a(x, attention_mask=valid)), a=nn.Sequential(Block())[0]), TOKENS
    nested = network(lambda s, x, p: s.a(x, src_key_padding_mask=p), a=encoder())
    return network(lambda s, x, padding: s.fc(s.b(x, padding)), b=nested), ~TOKENS


KINDS = ["encoder", "whole numbers", "by position", "added", "own block", "nested"]


@pytest.mark.parametrize("size", [N, 2, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_told__an_input_that_is_handed_on_as_a_mask_is_one(kind: str, size: int, zoo: Zoo) -> None:
    model, second = handing(kind)
    x = torch.randn(N, T, 4)
    batches = list(zip(x.split(size), second.split(size), strict=True))
    report = capture(model, batches, zoo)
    assert report.caution == ""
    np.testing.assert_array_equal(zoo.coords["mask"], TOKENS)
    assert capture(model, batches, zoo).written == 0
    assert capture(model, batches, zoo, "pooled", pool="mean", layers="fc").caution == ""
    hidden = zoo["net", "c", "fc"].values
    right = [row[:length].mean(axis=0) for row, length in zip(hidden, LENGTHS.tolist(), strict=True)]
    np.testing.assert_allclose(zoo["net", "pooled", "fc"].values, right, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_told__a_comparison_leaves_out_the_padding(tmp_path: Path) -> None:
    count = 40
    lengths = torch.randint(1, T + 1, (count, 1))
    pad, x = torch.arange(T) >= lengths, torch.randn(count, T, 4)
    zoo = create_zoo(tmp_path / "zoo.zarr", examples=range(count))
    model = network(lambda s, x, pad: s.fc(s.a(x, src_key_padding_mask=pad)), a=encoder())
    capture(model, [(x, pad)], zoo, layers="fc, a.layers.0.linear1")
    names = ("net/c/a.layers.0.linear1", "net/c/fc")
    means = {
        name: np.array([row[: int(size)].mean(0) for row, size in zip(zoo[name].values, lengths, strict=True)])
        for name in names
    }
    found, right = compare(zoo, measures="cka"), compare(means, measures="cka")
    assert float(found.cka[0, 1]) == pytest.approx(float(right.cka[0, 1]), abs=1e-5)
    assert abs(float(found.cka[0, 1]) - float(compare(zoo, measures="cka", mask=None).cka[0, 1])) > 1e-3


@pytest.mark.parametrize("size", [N, 1])
def test_told__a_mask_that_the_model_makes(size: int, zoo: Zoo) -> None:
    model = network(
        lambda s, ids: s.fc(s.a(s.embed(ids), src_key_padding_mask=ids == 0)), a=encoder(), embed=nn.Embedding(20, 4)
    )
    ids = torch.randint(1, 20, (N, T))
    capture(model, ids.split(size), zoo, "full")
    assert list(zoo.coords) == []
    batches = (ids * TOKENS).split(size)
    assert capture_torch(model, batches, zoo=zoo, name="other", checkpoint="c").caution == ""
    np.testing.assert_array_equal(zoo.coords["mask"], TOKENS)
    assert capture_torch(model, batches, zoo=zoo, name="other", checkpoint="c").written == 0


@pytest.mark.parametrize("kind", ["batch first", "tokens first", "sorted", "sorted inside"])
def test_told__lengths_of_a_packed_sequence(kind: str, zoo: Zoo) -> None:
    first, pack = kind != "tokens first", nn.utils.rnn.pack_padded_sequence

    def forward(self: Any, x: Any, lengths: Any) -> Any:
        if kind == "sorted inside":
            lengths, order = lengths.sort(descending=True)
            x = x[order]
        packed = pack(self.before(x), lengths, batch_first=first, enforce_sorted="sorted" in kind)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.a(packed)[0], batch_first=first, total_length=T)
        return self.fc(hidden)

    lengths = LENGTHS.sort(descending=True).values if kind == "sorted" else LENGTHS
    x = torch.randn(N, T, 4)
    model = network(forward, a=nn.GRU(4, 4, batch_first=first), before=nn.Linear(4, 4))
    batch = (x if first else x.transpose(0, 1), lengths)
    if kind == "sorted inside":
        # Rows in the order of their lengths are not the examples.
        with pytest.raises(CaptureError, match="before, its values for an example depend on the other examples"):
            capture(model, [batch], zoo, layers="before")
        return
    assert capture(model, [batch], zoo, layers="before, fc").caution == ""
    np.testing.assert_array_equal(zoo.coords["mask"], torch.arange(T) < lengths[:, None])


def test_told__each_sequence_of_a_translator_has_its_mask(zoo: Zoo) -> None:
    def forward(self: Any, src: Any, tgt: Any, one: Any, other: Any) -> Any:
        masks = {"src_key_padding_mask": one, "tgt_key_padding_mask": other, "memory_key_padding_mask": one}
        return self.fc(self.t(src, tgt, **masks))

    model = network(forward, t=nn.Transformer(4, 2, 1, 1, 8, batch_first=True))
    batch = (torch.randn(N, T, 4), torch.randn(N, T, 4), ~TOKENS, ~TOKENS.flip(0))
    with pytest.warns(CaptureWarning, match="its tokens are those of the mask 'other', and the mask 'one', which has"):
        capture(model, [batch], zoo)
    np.testing.assert_array_equal(zoo.coords["mask"], TOKENS)
    assert all("encoder" in layer for layer in zoo.representations.layer)


# What nothing tells is said.


def own(self: Any, x: Any, gate: Any) -> Any:
    hidden = self.fc(x)
    return (hidden * gate.reshape(*gate.shape[:2], 1)).sum(1)


@pytest.mark.parametrize("pool", [None, "mean"])
@pytest.mark.parametrize("kind", ["bool", "float", "int", "deep", "in parts"])
def test_unread__an_input_of_yes_and_no_is_said(kind: str, pool: Any, zoo: Zoo) -> None:
    forms = {"float": TOKENS.float(), "int": TOKENS.long(), "deep": TOKENS[..., None]}
    size = 1 if kind == "in parts" else N
    x, gate = torch.randn(N, T, 4), forms.get(kind, TOKENS)
    with pytest.warns(
        CaptureWarning, match=r"input 'gate' says yes or no of each of 5 tokens.*'attention_mask'.*'padding_mask'"
    ):
        capture(network(own), list(zip(x.split(size), gate.split(size), strict=True)), zoo, pool=pool)
    assert list(zoo.coords) == []


def test_unread__what_hides_nothing_or_is_known_is_not_said(tmp_path: Path) -> None:
    x, everything = torch.randn(N, T, 4), torch.ones(N, T, dtype=torch.bool)
    typed = network(lambda s, x, token_type_ids: s.fc(x))
    causal = network(lambda s, x, allowed: s.fc(x))
    square = torch.randn(T, T, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, (model, batch) in enumerate(
            [
                (network(own), (x, everything)),
                (network(own), (x, ~everything)),
                (typed, (x, TOKENS.long())),
                (causal, (square, torch.ones(T, T).tril())),
                (network(lambda s, x, lengths: s.fc(x)), (x, torch.full((N,), T))),
            ]
        ):
            zoo = create_zoo(tmp_path / str(number), examples=range(len(batch[0])))
            assert capture(model, [batch], zoo).caution == ""
        zoo = create_zoo(tmp_path / "known", examples=range(N), coords={"mask": TOKENS.numpy()})
        assert capture(network(own), [(x, TOKENS)], zoo).caution == ""


def test_unread__modules_that_disagree_tell_nothing(zoo: Zoo) -> None:
    model = network(
        lambda s, x, one, two: s.fc(s.a(x, src_key_padding_mask=one) + s.b(x, src_key_padding_mask=two)),
        a=encoder(),
        b=encoder(),
    )
    with pytest.warns(CaptureWarning, match=r"input 'one' says yes or no.*input 'two' says yes or no"):
        capture(model, [(torch.randn(N, T, 4), ~TOKENS, TOKENS)], zoo)
    assert list(zoo.coords) == []
