"""Two sequences in one batch: no layer stands under the mask of another sequence, and none is pooled under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, small_zoo, still, torch

from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureError, CaptureWarning, MismatchedExamplesError

if TYPE_CHECKING:
    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

T = 5
FIRST = torch.arange(T) < torch.tensor([5, 3, 5, 4, 1, 2])[:, None]
SECOND = torch.arange(T) < torch.tensor([2, 5, 1, 5, 3, 4])[:, None]

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


def capture(model: Any, batch: Any, zoo: Any, **options: Any) -> Any:
    return capture_torch(model, [batch], zoo=zoo, name="net", checkpoint="c", **options)


def ids(tokens: int = T) -> Any:
    return torch.randint(1, 20, (N, tokens))


class Translator(nn.Module):
    """An encoder and a decoder that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 4))
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(20, 4), "key": nn.Linear(4, 4), "out": nn.Linear(4, 3)})

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
    ) -> Any:
        hidden = self.encoder(input_ids)
        own = self.decoder["embed"](input_ids.flip(1) if decoder_input_ids is None else decoder_input_ids)
        keys = self.decoder["key"](hidden)
        return self.decoder["out"](own + torch.softmax(own @ keys.transpose(1, 2), -1) @ keys)


def outputs(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What plain hooks see."""
    found: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _m, _a, output, name=name: found.update({name: output.detach().numpy()}))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model.eval()(**batch)
    for handle in handles:
        handle.remove()
    return found


def both(length: int = T, **others: Any) -> dict[str, Any]:
    return {"input_ids": ids(), "attention_mask": FIRST.long(), "decoder_input_ids": ids(length), **others}


ENCODER = {"encoder.0", "encoder.1", "decoder.key"}
DECODER = {"decoder.embed", "decoder.out"}


@pytest.mark.parametrize("masked", [True, False])
def test_capture_torch__decoder_of_as_many_tokens_is_left_out(masked: bool, zoo: Zoo) -> None:
    batch = both(decoder_attention_mask=SECOND.long()) if masked else both()
    whose = "of the mask 'decoder_attention_mask'" if masked else "of 'decoder_input_ids', which has no mask"
    with pytest.warns(CaptureWarning, match=rf"'decoder.embed', 'decoder.out' were left out: .*{whose}") as caught:
        report = capture(Translator(), batch, zoo)
    assert {*zoo.representations.layer} == ENCODER
    assert {
        layer for layer, reason in report.skipped.items() if "'attention_mask', which has as many" in reason
    } == DECODER
    assert report.caution == str(caught[0].message)
    np.testing.assert_array_equal(zoo.coords["mask"], FIRST)


def test_capture_torch__decoder_of_other_tokens_is_said(zoo: Zoo) -> None:
    batch = both(3, decoder_attention_mask=SECOND[:, :3].long())
    words = r"'decoder.embed', 'decoder.out' have 3 tokens an example, and the mask 'attention_mask' 5.*mask=None"
    with pytest.warns(CaptureWarning, match=words):
        capture(Translator(), batch, zoo)
    assert {*zoo.representations.layer} == ENCODER | DECODER


def test_capture_torch__decoder_alone_has_its_mask(zoo: Zoo) -> None:
    batch = both(decoder_attention_mask=SECOND.long())
    model = Translator()
    with pytest.warns(CaptureWarning, match="'decoder.key' was left out.*of the mask 'attention_mask'"):
        capture(model, batch, zoo, layers="decoder.**")
    assert {*zoo.representations.layer} == DECODER
    np.testing.assert_array_equal(zoo.coords["mask"], SECOND)
    # The encoder's is another, and the zoo has one.
    with pytest.raises(MismatchedExamplesError, match="is not the zoo's"):
        capture(model, batch, zoo, layers="encoder.*")


@pytest.mark.parametrize("pool", ["mean", "last", "first"])
def test_capture_torch__each_pooled_under_its_own_mask(pool: Any, zoo: Zoo) -> None:
    model, batch = Translator(), both(decoder_attention_mask=SECOND.long())
    expected = outputs(model, batch)
    capture(model, batch, zoo, pool=pool)
    for layers, mask in ((ENCODER, FIRST), (DECODER, SECOND)):
        for layer in layers:
            rows = [row[keep] for row, keep in zip(expected[layer], mask.numpy(), strict=True)]
            right = np.stack([{"mean": row.mean(0), "last": row[-1], "first": row[0]}[pool] for row in rows])
            np.testing.assert_allclose(zoo["net", "c", layer].values, right, rtol=1e-5, atol=1e-6, err_msg=layer)
    assert "mask" not in zoo.coords


def test_capture_torch__tokens_made_inside_a_decoder(zoo: Zoo) -> None:
    batch = {"input_ids": ids(), "attention_mask": FIRST.long()}
    with pytest.warns(CaptureWarning, match=r"part of a decoder, .*decoder_input_ids and decoder_attention_mask"):
        report = capture(Translator(), batch, zoo)
    assert {*zoo.representations.layer} == {"encoder.0", "encoder.1"}
    assert report.skipped.keys() >= DECODER
    pooled = capture(Translator(), batch, zoo, pool="mean", overwrite=True)
    assert "nothing says whose tokens it has: pool='mean'" in pooled.skipped["decoder.out"]


def test_capture_torch__mask_of_some_batches(zoo: Zoo) -> None:
    whole = both(decoder_attention_mask=SECOND.long())
    parts = [{key: value[rows] for key, value in whole.items()} for rows in (slice(4), slice(4, None))]
    del parts[1]["decoder_attention_mask"]
    with pytest.raises(CaptureError, match="some batches for 'net' have the mask 'decoder' and others have not"):
        capture_torch(Translator(), parts, zoo=zoo, name="net", checkpoint="c", pool="mean")


class Towers(nn.Module):
    """Images and texts, each on their own; and texts that read images."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.vision = nn.Conv2d(2, 4, 2, 2), nn.Linear(4, 3)
        self.embed, self.text, self.mixed = nn.Embedding(20, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, input_ids: Any, pixel_values: Any, attention_mask: Any = None) -> Any:
        seen = self.vision(self.patch(pixel_values).flatten(2).transpose(1, 2))
        read = self.text(self.embed(input_ids))
        return self.mixed(read + seen.mean(1, keepdim=True))


def images(width: int) -> Any:
    return torch.randn(N, 2, 2, 2 * width)


def test_capture_torch__towers_of_as_many_tokens(zoo: Zoo) -> None:
    batch = {"input_ids": ids(), "pixel_values": images(T), "attention_mask": FIRST.long()}
    words = r"'vision' was left out: .*those of 'pixel_values', which has no mask"
    with pytest.warns(CaptureWarning, match=rf"{words}.*'mixed' was computed from 'pixel_values' too"):
        capture(Towers(), batch, zoo)
    assert {*zoo.representations.layer} == {"patch", "embed", "text", "mixed"}


def test_capture_torch__towers_of_other_tokens(zoo: Zoo) -> None:
    batch = {"input_ids": ids(), "pixel_values": images(T + 1), "attention_mask": FIRST.long()}
    model = Towers()
    with pytest.warns(CaptureWarning, match="'vision' has 6 tokens an example, and the mask 'attention_mask' 5"):
        capture(model, batch, zoo, layers="vision, text")
    expected = outputs(model, batch)["vision"]
    capture(model, batch, zoo, layers="vision", pool="mean", overwrite=True)
    np.testing.assert_allclose(zoo["net", "c", "vision"].values, expected.mean(1), rtol=1e-5, atol=1e-6)


def test_capture_torch__mask_of_a_prefix(zoo: Zoo) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.look = nn.Embedding(20, 4), nn.Linear(2, 4)

        def forward(
            self, text_ids: Any, text_mask: Any, audio: Any, audio_attention_mask: Any, causal_mask: Any
        ) -> Any:
            return self.embed(text_ids).mean(1) + self.look(audio).mean(1)

    batch = {"text_ids": ids(), "text_mask": FIRST, "audio": torch.randn(N, T, 2), "audio_attention_mask": SECOND}
    batch["causal_mask"] = torch.ones(T, T).tril()
    model = Net()
    expected = outputs(model, batch)
    capture(model, batch, zoo, pool="mean")
    for layer, mask in (("embed", FIRST), ("look", SECOND)):
        right = np.stack([row[keep].mean(0) for row, keep in zip(expected[layer], mask.numpy(), strict=True)])
        np.testing.assert_allclose(zoo["net", "c", layer].values, right, rtol=1e-5, atol=1e-6)


def test_capture_torch__mask_of_the_zoo_and_tokens_of_images(zoo: Zoo) -> None:
    embed = nn.Embedding(20, 4)

    class Text(nn.Sequential):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return super().forward(input_ids)

    capture_torch(Text(embed), [{"input_ids": ids(), "attention_mask": FIRST}], zoo=zoo, name="text", checkpoint="c")
    # Without a mask of its own, tokens of the same input have the zoo's.
    capture_torch(nn.Sequential(embed), [ids()], zoo=zoo, name="other", checkpoint="c")
    vision = nn.Sequential(nn.Conv2d(2, 4, 2, 2), nn.Flatten(2), nn.Threshold(0, 0))
    with pytest.warns(CaptureWarning, match=r"the zoo has a mask of 5 tokens, and '2' has as many, which are not"):
        capture(vision, images(T), zoo)


def test_capture_torch__waves_under_their_mask(zoo: Zoo) -> None:
    class Waves(nn.Sequential):
        def forward(self, input_values: Any, attention_mask: Any) -> Any:
            return super().forward(input_values[:, None])

    batch = {"input_values": torch.randn(N, 2 * T), "attention_mask": FIRST.repeat_interleave(2, 1)}
    with pytest.warns(CaptureWarning, match="'0' has 5 tokens an example, and the mask 'attention_mask' 10"):
        capture(Waves(nn.Conv1d(1, 4, 2, 2)), batch, zoo)
