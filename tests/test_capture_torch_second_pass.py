"""A second pass tells rows that are the examples from rows of something else, and what depends on other examples."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import Lambda, N, capture, small_zoo, still, torch

from dask_svcca.errors import CaptureError
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

nn = torch.nn
F = torch.nn.functional

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.transpose(0, 1).contiguous()


def cells(self: Any, x: Any, out: Any) -> Any:
    hidden = torch.zeros(len(x), 4)
    for step in range(x.shape[1]):
        hidden = self.cell(x[:, step], hidden)
        out[step] = hidden
    return out


ALONG_TIME: dict[str, Callable[[Any, Any], Any]] = {
    "new_zeros": lambda s, x: cells(s, x, x.new_zeros(x.shape[1], x.shape[0], 4)),
    "zeros_like": lambda s, x: cells(s, x, torch.zeros_like(x.transpose(0, 1))),
    "copied": lambda s, x: torch.empty_like(x.transpose(0, 1)).copy_(x.transpose(0, 1)),
    "in place": lambda s, x: (x * 1).transpose_(0, 1),
    "swapped in place": lambda s, x: (x * 1).swapdims_(0, 1),
    "transpose_copy": lambda s, x: torch.transpose_copy(x, 0, 1),
    "permute_copy": lambda s, x: torch.permute_copy(x, (1, 0, 2)),
    "aten": lambda s, x: torch.ops.aten.transpose.int(x, 0, 1),
    "rotated": lambda s, x: torch.rot90(x, 1, (0, 1)),
    "autograd": lambda s, x: s.inner(x),
    "numpy": lambda s, x: s.numpy(x),
    "distances": lambda s, x: torch.cdist(x.transpose(0, 1), x.transpose(0, 1))[..., :4],
    "scattered": lambda s, x: torch.zeros_like(x).index_copy(0, torch.arange(len(x)), x.transpose(0, 1)),
    "states": lambda s, x: s.rnn(x)[1],
    "merged": lambda s, x: x.transpose(0, 1).reshape(x.shape[1], -1)[:, :4],
}

FOLLOWED = {"new_zeros", "zeros_like", "in place", "swapped in place", "transpose_copy", "permute_copy", "aten"} | {
    "autograd",
    "copied",
}
"""Those whose axes are known: time is stored as tokens."""


@pytest.mark.parametrize("kind", ALONG_TIME)
def test_capture_torch__rows_along_time(kind: str, zoo: Zoo) -> None:
    """As many steps as examples, and a function that nothing is known of."""
    model = Lambda(
        lambda s, x: s.out(ALONG_TIME[kind](s, s.fc(x))),
        fc=nn.Linear(4, 4),
        cell=nn.GRUCell(4, 4),
        rnn=nn.GRU(4, 4, num_layers=3, bidirectional=True, batch_first=True),
        inner=Lambda(lambda s, x: Turned.apply(x)),
        numpy=Lambda(lambda s, x: torch.from_numpy(x.numpy().swapaxes(0, 1).copy())),
        out=nn.Linear(4, 3),
    )
    x = torch.randn(N, N, 4)
    report = capture(model, [x], zoo, layers="fc, out")
    if kind in FOLLOWED:
        right = model(x).detach().transpose(0, 1)
        np.testing.assert_allclose(zoo["net", "c", "out"].values, right, rtol=1e-5, atol=1e-6)
        return
    assert report.written == 1
    assert re.search("first axis is not the 6 examples|is not the examples|which of its axes", report.skipped["out"])


def test_capture_torch__rows_along_time_are_named(zoo: Zoo) -> None:
    model = Lambda(lambda s, x: s.out((x * 1).transpose_(0, 1)), fc=nn.Linear(4, 4), out=nn.Linear(4, 3))
    x, dims = torch.randn(N, N, 4), {"out": ("token", "example", "neuron")}
    assert capture(model, [x], zoo, layers="out", dims=dims).written == 1
    np.testing.assert_allclose(zoo["net", "c", "out"].values, model.out(x).detach(), rtol=1e-5, atol=1e-6)
    with pytest.raises(CaptureError, match="its first axis is not the examples, which are along axis 1: shape"):
        capture(model, [x], zoo, overwrite=True, layers="out", dims={"out": ("example", "token", "neuron")})


def test_capture_torch__batch_within_the_second_axis(zoo: Zoo) -> None:
    """Video as (frame, example and patch, channel), with as many frames as examples."""

    def forward(self: Any, x: Any) -> Any:
        examples, frames, patches, channels = x.shape
        hidden = self.fc(x.permute(1, 0, 2, 3).reshape(frames, examples * patches, channels))
        return self.head(hidden.reshape(frames, examples, patches, 7).mean((0, 2)))

    report = capture(Lambda(forward, fc=nn.Linear(5, 7), head=nn.Linear(7, 3)), [torch.randn(N, N, 4, 5)], zoo)
    assert list(zoo.representations.index) == ["net/c/head"]
    assert report.skipped["fc"] == "its first axis is not the 6 examples: shape (6, 24, 7), and (6, 12, 7) for 3"


OTHERS: dict[str, Callable[[], Any]] = {
    "batch norm": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "softmax": lambda: nn.Softmax(0),
    "products": lambda: Lambda(lambda s, x: x @ x.T),
    "mean": lambda: Lambda(lambda s, x: x - x.mean(0)),
    "attention": lambda: Lambda(lambda s, x: F.scaled_dot_product_attention(x, x, x)),
    "reversed": lambda: Lambda(lambda s, x: x.flip(0) * 2),
    "rolled": lambda: Lambda(lambda s, x: x.roll(1, 0) * 2),
    "permuted": lambda: Lambda(lambda s, x: x.index_select(0, torch.tensor([2, 1, 0, *range(3, N)])) * 2),
    "random": lambda: Lambda(lambda s, x: F.dropout(x)),
    "per number": lambda: Lambda(lambda s, x: x / len(x)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_capture_torch__depends_on_other_examples(kind: str, zoo: Zoo) -> None:
    model = Lambda(lambda s, x: s.last(s.inner(s.fc(x))), fc=nn.Linear(4, 4), inner=OTHERS[kind](), last=nn.Tanh())
    report = capture(model, [torch.randn(N, 4)], zoo)
    assert list(zoo.representations.index) == ["net/c/fc"]
    reason = "its values for an example depend on the other examples, or change from run to run"
    assert all(report.skipped[layer].startswith(reason) for layer in ("inner", "last"))


def edges(self: Any, x: Any, edge_index: Any) -> Any:
    source, target = edge_index
    return self.out(torch.zeros(len(x), 5).index_add(0, target, self.fc(x)[source]))


def test_capture_torch__nodes_of_one_graph(zoo: Zoo) -> None:
    """The examples are related by what goes in: no second pass without some of them says anything."""
    model, x = Lambda(edges, fc=nn.Linear(4, 5), out=nn.Linear(5, 3)), torch.randn(N, 4)
    index = torch.randint(N, (2, 20))
    assert capture(model, [(x, index)], zoo, inputs=("x", "edge_index")).written == 2
    np.testing.assert_allclose(zoo["net", "c", "out"].values, model(x, index).detach(), rtol=1e-5, atol=1e-6)


def test_capture_torch__nodes_of_one_graph_by_a_matrix(zoo: Zoo) -> None:
    model = Lambda(lambda s, x, adjacency: s.out(adjacency @ s.fc(x)), fc=nn.Linear(4, 5), out=nn.Linear(5, 3))
    adjacency = (torch.rand(N, N) < 0.5).float()
    batch = {"x": torch.randn(N, 4), "adjacency": adjacency}
    assert capture(model, [batch], zoo, inputs=("x", "adjacency")).written == 2


def packed(rnn: Any, x: Any, lengths: Any) -> Any:
    output, _ = rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
    return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]


ALIKE: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "mask between tokens": (
        lambda s, x, between: s.out(F.scaled_dot_product_attention(*[s.fc(x)] * 3, attn_mask=between)),
        lambda: {"x": torch.randn(N, N, 4), "between": torch.ones(N, N).tril() > 0},
    ),
    "positions": (
        lambda s, x, positions: s.out(s.fc(x) + s.places(positions)),
        lambda: {"x": torch.randn(N, N, 4), "positions": torch.arange(N)[None]},
    ),
    "first state": (
        lambda s, x, first: s.out(s.rnn(s.fc(x), first)[0]),
        lambda: {"x": torch.randn(N, 5, 4), "first": torch.randn(1, N, 4)},
    ),
    "lengths": (
        lambda s, x, lengths: s.out(s.fc(x) * torch.tensor(lengths)[:, None, None]),
        lambda: {"x": torch.randn(N, 5, 4), "lengths": [1, 2, 3, 4, 5, 6]},
    ),
    "a mask for each head": (
        lambda s, inputs_embeds, pairs: s.out(
            s.heads(*[s.fc(inputs_embeds)] * 3, attn_mask=pairs, need_weights=False)[0]
        ),
        lambda: {"inputs_embeds": torch.randn(N, 5, 4), "pairs": torch.randn(2 * N, 5, 5)},
    ),
    "by length": (
        lambda s, x, lengths: s.out(packed(s.rnn, s.fc(x), lengths)),
        lambda: {"x": torch.randn(N, 5, 4), "lengths": torch.tensor([5, 5, 4, 3, 3, 2])},
    ),
    "one batch size": (
        lambda s, x: s.out(s.fc(x).view(N, -1)[:, :4]),
        lambda: {"x": torch.randn(N, 5, 4)},
    ),
    "changed in place": (lambda s, x: s.out(s.fc(x.mul_(2))), lambda: {"x": torch.randn(N, 5, 4)}),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_capture_torch__other_inputs(kind: str, zoo: Zoo) -> None:
    """Inputs of as many rows as there are examples, along other axes, or only by chance."""
    function, batch = ALIKE[kind]
    model = Lambda(
        function,
        fc=nn.Linear(4, 4),
        out=nn.Linear(4, 3),
        places=nn.Embedding(N, 4),
        rnn=nn.GRU(4, 4, batch_first=True),
        heads=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    fed = batch()
    right = model(**{key: value.clone() if hasattr(value, "clone") else value for key, value in fed.items()})
    capture(model, [fed], zoo, layers="fc, out", inputs=list(fed))
    np.testing.assert_allclose(zoo["net", "c", "out"].values, right.detach(), rtol=1e-5, atol=1e-6)
    assert len(zoo.representations) == 2


@pytest.mark.parametrize("size", [4, 5, N])
def test_capture_torch__last_token_at_any_batch_size(size: int, tmp_path: Path) -> None:
    """An index by two arrays says nothing of the axes that it leaves: here the rows are the examples."""
    model = Lambda(
        lambda s, x: s.out(s.fc(x)[torch.arange(len(x)), torch.full((len(x),), 2)]),
        fc=nn.Linear(4, 5),
        out=nn.Unflatten(1, (5, 1)),
    )
    examples = 3 * size
    with create_zoo(tmp_path / "zoo.zarr", examples=range(examples)) as zoo:
        x = torch.randn(examples, N, 4)
        capture(model, x.split(size), zoo, layers="out")
    np.testing.assert_allclose(zoo["net", "c", "out"].values, model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, N])
def test_capture_torch__batches_of_few(size: int, zoo: Zoo) -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Softmax(0), nn.Linear(5, 2)), torch.randn(N, 4)
    report = capture(model, x.split(size), zoo)
    assert list(zoo.representations.index) == ["net/c/0"]
    assert report.skipped.keys() == {"1", "2"}


def test_capture_torch__one_more_pass_of_few_examples(zoo: Zoo) -> None:
    """Once, for the first batch, and not where all is written already; what comes at random stays the same."""
    sizes = []

    def forward(self: Any, x: Any) -> Any:
        sizes.append(len(x))
        return self.fc(x) + 0 * torch.rand(1)

    model, x = Lambda(forward, fc=nn.Linear(4, 5)), torch.randn(N, 4)
    torch.manual_seed(1)
    capture(model, x.split(3), zoo)
    after = torch.rand(1)
    assert sizes == [3, 2, 3]
    torch.manual_seed(1)
    torch.rand(2)
    assert torch.equal(after, torch.rand(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capture(model, x.split(3), zoo)
    assert sizes == [3, 2, 3, 3]
