"""Batches that are dicts of one argument, named tuples, dataclasses, and the containers of other packages."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import N, capture, small_zoo, still, torch

from dask_svcca.errors import CaptureError, MismatchedExamplesError

if TYPE_CHECKING:
    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


class OneArgument(nn.Module):
    """Takes its whole batch; ``read`` says how."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.fc, self.read = nn.Linear(4, 3), read

    def forward(self, batch: Any) -> Any:
        return self.fc(self.read(batch))


Pair = namedtuple("Pair", ["image", "label"])  # noqa: PYI024 - as loaders of data hand them out
Named = namedtuple("Named", ["label", "input"])  # noqa: PYI024


@dataclass(frozen=True)
class Sample:
    image: Any
    label: Any


def by_key(batch: Any) -> Any:
    return batch["image"]


def by_attribute(batch: Any) -> Any:
    return batch.image


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (dict, by_key),
        (UserDict, by_key),
        (MappingProxyType, by_key),
        (lambda batch: Sample(**batch), by_attribute),
        (lambda batch: {"image": [batch["image"], batch["label"]]}, lambda batch: batch["image"][0]),
        (lambda batch: {"image": {"pixels": batch["image"]}}, lambda batch: batch["image"]["pixels"]),
        (lambda batch: (dict(batch), batch["label"]), by_key),
    ],
    ids=["dict", "UserDict", "proxy", "dataclass", "list", "nested", "with labels"],
)
def test_capture_torch__batch_is_the_one_argument(make: Any, read: Any, zoo: Zoo) -> None:
    model, x, label = OneArgument(read), torch.randn(N, 4), torch.arange(N)
    batches = [make({"image": x[part], "label": label[part]}) for part in (slice(4), slice(4, None))]
    capture(model, batches, zoo)
    right = model.fc(x).detach()
    np.testing.assert_allclose(zoo["net", "c", "fc"].values, right, rtol=1e-5, atol=1e-6)
    assert not hasattr(x, "_dask_svcca_trace")


def test_capture_torch__ids_in_the_one_argument(zoo: Zoo) -> None:
    model, batch = OneArgument(by_key), {"image": torch.randn(N, 4), "example": torch.arange(N)}
    assert capture(model, [batch], zoo).written == 1
    with pytest.raises(MismatchedExamplesError, match="other examples than the zoo"):
        capture(model, [{**batch, "example": torch.arange(N).flip(0)}], zoo)


def test_capture_torch__named_tuple_by_its_names(zoo: Zoo) -> None:
    x, model = torch.randn(N, 4), nn.Sequential(nn.Linear(4, 3))
    assert capture(model, [Named(torch.arange(N), x)], zoo).written == 1
    np.testing.assert_allclose(zoo["net", "c", "0"].values, model(x).detach(), rtol=1e-5, atol=1e-6)
    # Where no name is the model's, the order is.
    assert capture(model, [Pair(x, torch.arange(N))], zoo).caution == ""


def test_capture_torch__dict_for_a_model_of_tensors(zoo: Zoo) -> None:
    words = (
        r"have 'image', which its forward does not take: it takes 'input'; given the whole, it failed with TypeError"
    )
    with pytest.raises(CaptureError, match=words):
        capture(nn.Sequential(nn.Linear(4, 3)), [{"image": torch.randn(N, 4)}], zoo)


def test_capture_torch__batch_encodings(zoo: Zoo) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 4)

        def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
            return self.embed(input_ids)

    class Whole(Reader):
        def forward(self, batch: Any) -> Any:
            return self.embed(batch.input_ids)

    ids, mask = torch.randint(20, (N, 5)), torch.arange(5) < torch.arange(1, N + 1)[:, None]
    for model in (Reader(), Whole()):
        batch = transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask.long()})
        capture(model, [batch], zoo, overwrite=True)
        np.testing.assert_array_equal(zoo["net", "c", "embed"].values, model.embed(ids).detach())
        np.testing.assert_array_equal(zoo.coords["mask"], mask)
