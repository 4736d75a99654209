"""A capture at work: what is written of each batch, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import (
    InputsDigest,
    captured,
    check_inputs,
    check_one_parent,
    check_order_of_inputs,
    listing,
    quantised,
)
from dask_svcca.capture.torch.changes import bits, digests_of, quantised_modules, with_other_values
from dask_svcca.capture.torch.layers import Chosen, choose, repeated, still_repeats
from dask_svcca.capture.torch.masks import keep_mask
from dask_svcca.capture.torch.records import MAIN
from dask_svcca.capture.torch.second_pass import SecondPass
from dask_svcca.capture.torch.told import Unread
from dask_svcca.dims import TOKEN
from dask_svcca.errors import CaptureError, MismatchedExamplesError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.torch.hooks import Recorder
    from dask_svcca.capture.torch.records import Feed, Pool, Record
    from dask_svcca.stores.zoo import Representation, Zoo


@dataclass
class Capture:
    """One checkpoint on its way into a zoo, batch by batch."""

    zoo: Zoo
    model: str
    checkpoint: str
    module: Any
    dims: Mapping[str, Sequence[str]]
    pool: Pool | None
    drop: bool
    overwrite: bool
    options: dict[str, Any]
    digests: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    nbytes: int = 0
    chosen: Chosen = field(default_factory=Chosen)
    missing: dict[str, Any] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)
    present: list[dict[str, Any]] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    deviating: list[str] = field(default_factory=list)
    masks: list[npt.NDArray[np.bool_] | None] = field(default_factory=list)
    sure: bool = False
    masked: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    digest: InputsDigest = field(default_factory=InputsDigest)
    tokens: dict[str, int | None] = field(default_factory=dict)
    again: SecondPass | None = None
    unread: Unread = field(default_factory=Unread)

    @property
    def complete(self) -> bool:
        """Whether the zoo has everything, so that only the inputs are looked at."""
        return bool(self.seen) and not self.missing

    def prepare(self, model: Any, recorder: Recorder, feed: Feed) -> None:
        """Keep the first batch for a second pass; called before the model sees it."""
        if not self.seen:
            self.again = SecondPass(model, recorder, feed)

    def take(self, feed: Feed, records: Mapping[str, Record], recorder: Recorder) -> bool:
        """Write what the modules gave for the next examples; whether no more are needed."""
        first = not self.seen
        if first:
            self.masked, self.open = set(feed.masks.keys() - feed.told.keys()), set(feed.open)
            self._begin(feed, records, recorder)
        elif self.missing:
            still_repeats(records, feed, self.chosen, self.model)
            self._check_masked(feed)
        start, self.seen = self.seen, self.seen + feed.examples
        if self.seen > self.zoo.n_examples:
            return True
        self._check_ids(feed, start)
        kept = self.chosen.kept
        self.masks.append(feed.masks.get(kept, feed.told.get(kept)))
        self.sure |= kept in feed.masks.keys() - feed.told.keys() - feed.open
        self.unread.note(feed)
        arrays = {key: bits(recorder.torch, value) for key, value in feed.tensors.items()}
        axis = recorder.example_axis
        self.digest.update(
            {
                key: np.moveaxis(value, axis, 0) if value.ndim > axis and key not in feed.mask_names.values() else value
                for key, value in arrays.items()
            },
            feed.examples,
            None if MAIN in feed.told else feed.mask,
        )
        attributes: dict[str, Any] = dict(self.digests)
        if self.pool is not None:
            attributes["pool"] = self.pool
        if self.seen == self.zoo.n_examples:
            attributes |= self.digest.attributes
            # Nothing is complete before the last examples, so that nothing is kept of other inputs.
            if self.missing:
                check_inputs(self.kept, attributes["inputs_digest"], self._label)
                check_order_of_inputs(self.zoo, self.model, attributes, self._label)
            else:
                self._differ("fed other inputs, or in another order", "inputs_digest", attributes["inputs_digest"])
            if self.missing:
                if self.pool is None:
                    self._keep_mask()
                masks = [values for values in self.zoo.coords.values() if values.ndim == 2 and self.pool is None]
                self.chosen.cautions += self.unread.sentences(masks)
            self._withdraw(recorder)
        for layer in self.missing:
            self._append(layer, feed, records.get(layer), attributes)
        return False

    def _check_masked(self, feed: Feed) -> None:
        """Refuse to pool some batches with a mask that others are not given."""
        differing = ((feed.masks.keys() - feed.told.keys()) ^ self.masked) - feed.open - self.open
        if self.pool is not None and differing:
            raise CaptureError(
                f"some batches for {self.model!r} have the mask {listing(differing)} and others have not: "
                f"give it to all"
            )

    def _keep_mask(self) -> None:
        """Write the mask to the zoo: one that the model made itself only where it leaves tokens out."""
        kept, label = self.chosen.kept, f"{self.model}/{self.checkpoint}"
        if not self.sure:
            if all(mask is None or mask.all() for mask in self.masks):
                return
            # Looked at in the first batch, if it had padding, and else not at all.
            others = [name for name, known in self.chosen.layers.items() if known.sequence != kept]
            if others and self.masks[0] is not None and self.masks[0].all():
                raise CaptureError(
                    f"the first batch for {label!r} has no padding, and a later one has: so that layers of other "
                    f"tokens, such as {others[0]!r}, are told apart, feed one with padding first, or choose layers="
                )
        keep_mask(self.zoo, self.masks, label)

    def finish(self, recorder: Recorder, *, dropped: bool) -> None:
        """Check that all examples came."""
        if self.seen != self.zoo.n_examples:
            hints = " The loader leaves out an incomplete last batch: make it with drop_last=False." if dropped else ""
            if recorder.sequence_first:
                hints += (
                    f" Examples are counted along the second axis of the inputs, since module "
                    f"{recorder.sequence_first!r} has batch_first=False."
                )
            raise MismatchedExamplesError(
                f"the batches for {self.model!r} have {'at least ' if self.seen > self.zoo.n_examples else ''}"
                f"{self.seen} examples, the zoo has {self.zoo.n_examples}. Feed the zoo's examples, each once and in "
                f"the zoo's order.{hints}"
            )

    def _begin(self, feed: Feed, records: Mapping[str, Record], recorder: Recorder) -> None:
        self.chosen, skipped = self._choose(feed, records, recorder, {})
        if self.again is not None and (not self.chosen.layers or any(map(self._wanted, self.chosen.layers))):
            found = self.again.findings(records)
            self.chosen, skipped = self._choose(feed, records, recorder, found)
        self.again = None
        recorder.skipped.update(skipped)
        # After a pass, since some models make their buffers, such as tables of positions, in the first.
        self.digests = digests_of(recorder.torch, self.module)
        weights = self.digests["weights_digest"]
        usable = self.chosen.layers
        self.unread.counts = frozenset(
            value.shape[known.given.index(TOKEN)]
            for layer, known in usable.items()
            if TOKEN in known.given and (value := records[layer].values) is not None
        )
        if not usable:
            reasons = [f"{layer}, {reason}" for layer, reason in recorder.skipped.items()]
            raise CaptureError(f"no module of {self.model!r} gave a representation: {listing(reasons)}")
        self.missing = {layer: known for layer, known in usable.items() if self._wanted(layer)}
        replaced = {(self.checkpoint, layer) for layer in self.missing}
        every = captured(self.zoo, self.model)
        self.kept = [other for other in every if (other["checkpoint"], other["layer"]) not in replaced]
        changed = [
            other["layer"]
            for other in self.kept
            if other["checkpoint"] == self.checkpoint and other.get("weights_digest", weights) != weights
        ]
        if changed and self.missing:
            raise CaptureError(
                f"{self.model!r}, checkpoint {self.checkpoint!r}, is in the zoo already with {listing(changed)}, "
                f"captured from other weights: layers of different weights would stand in one checkpoint. Give the "
                f"checkpoint another name, or capture all of its layers with overwrite=True"
            )
        if self.missing:
            check_one_parent(self.zoo, self.model, self.checkpoint, self.options["parent"], self.missing.keys())
        self.present = [
            other
            for other in self.kept
            if other["checkpoint"] == self.checkpoint and other["layer"] in usable.keys() - self.missing.keys()
        ]
        self._differ("captured from other weights than the model has now", "weights_digest", weights)
        buffers = self.digests["buffers_digest"]
        self._differ("captured with other buffers than the model has now", "buffers_digest", buffers)
        if self.options["step"] is not None:
            self._differ(f"with another step than {self.options['step']:g}", "step", self.options["step"])
        if self.options["parent"] is not None:
            self._differ(f"with another parent than {self.options['parent']!r}", "parent", self.options["parent"])
        if self.present:
            here = (self.model, self.checkpoint)
            entries = {entry.name.layer: entry for entry in self.zoo.entries() if entry.name[:2] == here}
            self._compare_forms(entries)
            there = {other["layer"]: entries[other["layer"]] for other in self.present}
            made = {layer: record for layer in there if (record := records.get(layer)) and record.values is not None}
            given = {layer: usable[layer].arrange(record, self.pool, feed) for layer, record in made.items()}
            self.deviating = with_other_values(self.zoo, there, given)

    def _choose(
        self,
        feed: Feed,
        records: Mapping[str, Record],
        recorder: Recorder,
        found: Mapping[str, Sequence[int] | str],
    ) -> tuple[Chosen, dict[str, str]]:
        skipped = dict(recorder.skipped)
        chosen = choose(
            records,
            feed,
            dims=self.dims,
            pool=self.pool,
            drop=self.drop,
            whole=feed.examples == self.zoo.n_examples,
            lengths={values.shape[1] for values in self.zoo.coords.values() if values.ndim == 2},
            found=found,
            skipped=skipped,
        )
        return chosen, skipped

    def _wanted(self, layer: str) -> bool:
        return self.overwrite or (self.model, self.checkpoint, layer) not in self.zoo

    def _compare_forms(self, entries: Mapping[str, Representation]) -> None:
        """Note what the zoo has in another form than it would be written in."""
        for other in self.present:
            layer = other["layer"]
            known, entry = self.chosen.layers[layer], entries[layer]
            if "token" in known.given and other.get("pool") != self.pool:
                self.others.setdefault(f"pooled otherwise than with pool={self.pool!r}", []).append(layer)
            elif entry.dims != known.dims:
                self.others.setdefault("with other axes", []).append(layer)
            if self.options["dtype"] not in {None, entry.dtype.name}:
                self.others.setdefault(f"not as {self.options['dtype']}", []).append(layer)

    def _differ(self, how: str, key: str, value: Any) -> None:
        layers = [other["layer"] for other in self.present if other.get(key, value) != value]
        if layers:
            self.others[how] = layers

    @property
    def _label(self) -> str:
        return f"{self.model}/{self.checkpoint}"

    @property
    def caution(self) -> str:
        """Sentences on layers that the zoo had already, on masks that do not fit, and on quantised modules."""
        cautions = [self._left]
        if self.missing:
            cautions += [*self.chosen.cautions, quantised(quantised_modules(self.module), self._label)]
        return ". ".join(filter(None, cautions))

    @property
    def _left(self) -> str:
        others = self.others
        if not others and self.deviating:
            # Nothing else explains it.
            others = {"with other values than the model gives now for the same inputs": self.deviating}
        if not others:
            return ""
        what = "; ".join(f"{listing(layers, 2)} {how}" for how, layers in others.items())
        return (
            f"{'' if self.missing else 'nothing was written: '}{self.model!r}, checkpoint {self.checkpoint!r}, is in "
            f"the zoo already, {what}. These activations were left as they are. Replace them with overwrite=True, or "
            f"give the checkpoint another name"
        )

    def _append(self, layer: str, feed: Feed, record: Record | None, attributes: Mapping[str, Any]) -> None:
        known = self.missing[layer]
        values = None if record is None or record.values is None else known.arrange(record, self.pool, feed)
        if record is None or values is None or len(values) != feed.examples:
            raise CaptureError(
                f"module {layer!r} of {self.model!r} gave "
                f"{'nothing' if values is None else f'{len(values)} rows'} for the {feed.examples} examples up to "
                f"{self.seen}, but one row per example before. Leave it out with layers="
            )
        tokens = values.shape[1] if "token" in known.dims else None
        before = self.tokens.setdefault(layer, tokens)
        if tokens != before:
            raise CaptureError(
                f"module {layer!r} of {self.model!r} gave {tokens} tokens for the {feed.examples} examples up to "
                f"{self.seen}, and {before} before. Pad all batches to one length, for example with "
                f"padding='max_length', or keep one vector an example with pool='mean', 'last' or 'first'"
            )
        coarse = record.source not in {"float64", str(values.dtype)}
        self.zoo.append(
            self.model,
            self.checkpoint,
            layer,
            values,
            depth=known.depth,
            dims=known.dims,
            attrs=attributes,
            source_dtype=record.source if coarse else None,
            **self.options,
        )
        self.nbytes += values.size * np.dtype(self.options["dtype"] or values.dtype).itemsize

    def _withdraw(self, recorder: Recorder) -> None:
        """Leave out the layers that had the values of another for all examples."""
        for layer, originals in self.chosen.suspects.items():
            if not originals:
                continue
            recorder.skipped[layer] = repeated(originals[0])
            del self.chosen.layers[layer]
            if self.missing.pop(layer, None) is not None:
                self.zoo.abandon(self.model, self.checkpoint, layer)

    def _check_ids(self, feed: Feed, start: int) -> None:
        if feed.ids is None:
            return
        got = [str(value) for value in np.atleast_1d(feed.ids).tolist()]
        expected = [str(value) for value in self.zoo.examples[start : start + feed.examples].tolist()]
        if got == expected:
            return
        at = next((i for i, pair in enumerate(zip(got, expected, strict=False)) if len(set(pair)) == 2), len(expected))
        differing = (
            f"{got[at]!r} is in the batch and {expected[at]!r} in the zoo"
            if at < min(len(got), len(expected))
            else f"{len(got)} ids for {len(expected)} examples"
        )
        raise MismatchedExamplesError(
            f"the batches for {self.model!r} have other examples than the zoo, or in another order: at {start + at}, "
            f"{differing}. Feed the zoo's examples in the zoo's order"
        )
