"""A second pass, of a few examples in another order: whether a module's output has a row of its own for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture.torch.feeds import taken
from dask_svcca.dims import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.torch.hooks import Recorder
    from dask_svcca.capture.torch.records import Feed, Record

COMPANY = (
    "its values for an example depend on the other examples, or change from run to run: is it random, or is its first "
    "axis something else, such as time?"
)

SHARE = 1e-2
"""Part of the variation between examples by which the values for one may differ in other company."""

ROUNDING = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Part of their norm by which values may differ: sums are taken in another order where there are more examples."""

ACCELERATED = 1e-2
"""The same for single precision outside the CPU, where products may be taken in less than that."""

COARSE = 0.2
"""The same where weights or activations are rounded to 8 bits, with a scale that all examples of a batch share."""


class SecondPass:
    """The first batch once more, before the model has seen it.

    Parameters
    ----------
    model : torch.nn.Module
    recorder : Recorder
    feed : Feed
        The batch. It is copied, since a model may change its input.
    """

    def __init__(self, model: Any, recorder: Recorder, feed: Feed) -> None:
        self._model, self._recorder = model, recorder
        self._feed = None if _related(feed) else self._taken(feed, range(feed.examples))
        self._rounding = dict(ROUNDING)
        if any(tensor.device.type != "cpu" for tensor in feed.tensors.values()):
            self._rounding["float32"] = ACCELERATED
        if any("quantized.dynamic" in type(module).__module__ for module in model.modules()):
            self._rounding = {}

    def findings(self, records: Mapping[str, Record]) -> dict[str, tuple[int, ...] | str]:
        """For each layer the axes that may be its examples, or why it has none; nothing where it was not found out.

        Examples are given in another number. Where a model cannot be run so, or gives as many rows as before, all of
        them are given, in another order. Inputs that only happen to be as many as the examples, such as a mask for
        attention between as many tokens, are left as they are where it does not work out otherwise.
        """
        found: dict[str, tuple[int, ...] | str] = {}
        refused: set[str] = set()
        feed = self._feed
        if feed is None:
            return found
        for order in _orders(feed.examples):
            for alone in (False, True)[: len(feed.tensors)]:
                for layer, again in self._run(feed, order, alone=alone).items():
                    record, before = records.get(layer), found.get(layer)
                    if record is None or record.values is None or again.values is None:
                        continue
                    if layer in refused or isinstance(before, tuple):
                        continue
                    rounding = self._rounding.get(record.source, COARSE)
                    verdict = _compared(record, record.values, again.values, feed.examples, order, rounding)
                    # Other inputs as they are, beside the examples in another order, may be those of other examples.
                    doubtful = alone and len(order) == feed.examples
                    if isinstance(verdict, tuple) or (before is None and not doubtful):
                        found[layer] = verdict
                if found and all(isinstance(verdict, tuple) for verdict in found.values()):
                    return found
            # In the company of the same examples, say, values that depend on it are the same.
            refused.update(layer for layer, verdict in found.items() if verdict == COMPANY)
            if found and all(isinstance(verdict, tuple) or layer in refused for layer, verdict in found.items()):
                break
        return found

    def _taken(self, feed: Feed, order: Sequence[int], *, alone: bool = False) -> Feed | None:
        try:
            return taken(self._recorder.torch, feed, order, self._recorder.example_axis, alone=alone)
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # Of a kind whose examples cannot be picked.
            return None

    def _run(self, feed: Feed, order: Sequence[int], *, alone: bool) -> dict[str, Record]:
        """What the modules give for some examples; nothing where the model does not take them."""
        torch, recorder = self._recorder.torch, self._recorder
        few = self._taken(feed, order, alone=alone)
        if few is None:
            return {}
        skipped = dict(recorder.skipped)
        devices = {tensor.device for tensor in few.tensors.values() if tensor.device.type == "cuda"}
        try:
            # What a model draws at random for later batches is what it would draw without this pass.
            with torch.random.fork_rng([*devices]):
                return recorder.run(self._model, few)
        except Exception:  # noqa: BLE001 - a model may say in any way that it takes no other batch
            return {}
        finally:
            recorder.skipped.clear()
            recorder.skipped.update(skipped)


def _orders(examples: int) -> Iterator[list[int]]:
    """Examples of a second pass: in another number and order; in another number; in another order.

    Examples
    --------
    >>> [*_orders(8)], [*_orders(2)]
    ([[7, 0, 4], [0, 4, 7], [7, 6, 5, 4, 3, 2, 1, 0]], [[1, 0, 1], [0, 1, 1], [1, 0]])
    """
    last = examples - 1
    few = [last, 0, examples // 2] if examples > 3 else {1: [0, 0], 2: [1, 0, 1], 3: [2, 0]}[examples]
    yield few
    # Some models take their examples by descending length only.
    yield sorted(few)
    if examples > 1:
        yield [*range(last, -1, -1)]


def _related(feed: Feed) -> bool:
    """Whether an input relates the examples to each other, such as the edges of a graph between them."""
    main = feed.tensors.get(feed.main)
    tokens = None if main is None or main.ndim < 2 else main.shape[1]
    for name, tensor in feed.tensors.items():
        sizes = tuple(tensor.shape)
        edges = len(sizes) == 2 and 2 in sizes and feed.examples not in sizes and not tensor.is_floating_point()
        square = sizes == (feed.examples, feed.examples) != (feed.examples, tokens)
        if name != feed.main and (edges or square or str(tensor.layout) != "torch.strided"):
            return True
    return feed.examples == 0


def _compared(
    record: Record,
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    examples: int,
    order: Sequence[int],
    rounding: float,
) -> tuple[int, ...] | str:
    """Axes along which a layer has the examples in both passes, or why there is none."""
    sizes = list(zip(first.shape, second.shape, strict=False))
    places = [place for place, counts in enumerate(sizes) if counts == (examples, len(order))]
    if first.ndim != second.ndim or not places:
        return (
            f"its first axis is not the {examples} examples: shape {first.shape}, and {second.shape} for {len(order)}"
        )
    agreeing = [
        place for place in places if _agree(*_cropped(first.take(order, place), second, record), place, rounding)
    ]
    return tuple(agreeing) or COMPANY


def _cropped(
    first: npt.NDArray[Any], second: npt.NDArray[Any], record: Record
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Both without the tokens that only one has: some models leave out the padding that is common to a batch."""
    if first.ndim == 3 and record.axes is not None and record.axes[1] in {None, TOKEN}:
        tokens = min(first.shape[1], second.shape[1])
        return first[:, :tokens], second[:, :tokens]
    return first, second


def _agree(first: npt.NDArray[Any], second: npt.NDArray[Any], axis: int, rounding: float) -> bool:
    if first.shape != second.shape:
        return False
    first, second = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(first) & np.isfinite(second)
    first, second = np.where(finite, first, 0), np.where(finite, second, 0)
    spread = np.linalg.norm(first - first.mean(axis, keepdims=True))
    return bool(np.linalg.norm(first - second) <= SHARE * spread + rounding * np.linalg.norm(first))
