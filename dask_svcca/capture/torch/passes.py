"""A model's passes over its batches: what it was fed, and what its modules gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.capture.torch.hooks import SequenceFirstError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dask_svcca.capture.torch.batches import Feeder
    from dask_svcca.capture.torch.hooks import Recorder
    from dask_svcca.capture.torch.records import Feed, Record


def passes(
    model: Any,
    batches: Iterable[Any],
    feeder: Feeder,
    recorder: Recorder,
    *,
    complete: Callable[[], bool],
    before: Callable[[Feed], None],
) -> Iterator[tuple[Feed, dict[str, Record]]]:
    """Each batch as it was fed, and what the modules gave; nothing where all is ``complete`` but for the inputs.

    ``before`` is called with each batch before the model sees it.

    Raises
    ------
    CaptureError
        Where a mask cannot be read, or the model cannot take a dict as its one argument.
    """
    for batch in batches:
        feed = feeder.feed(batch)
        if complete():
            yield feed, {}
            continue
        before(feed)
        try:
            records = recorder.run(model, feed)
        except SequenceFirstError:
            feeder.example_axis = recorder.example_axis = 1
            feed = feeder.feed(batch)
            before(feed)
            records = recorder.run(model, feed)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if feed.refused is not None:
                raise feed.refused from error
            problem = feeder.as_whole(feed, error) if feed.whole else feeder.inside_another(batch, error)
            if problem is None:
                raise
            raise problem from error
        if feeder.learn(feed, recorder.told):
            feed = feeder.feed(batch)
            before(feed)
            records = recorder.run(model, feed)
        if feed.refused is not None:
            raise feed.refused
        yield feeder.heard(feed, recorder.told), records
