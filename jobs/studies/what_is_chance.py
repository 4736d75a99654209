"""How much of an SVCCA similarity is chance? The same layers on fewer and fewer examples.

Two independent layers are not dissimilar to SVCCA: with few examples for each direction, some direction of one always
correlates with some direction of the other. ``null_svcca`` says by a formula, from the ranks and the number of examples
alone, what independent layers would score; ``permutation_null`` says it by shuffling the examples of one layer. The
study compares the trained cnn of one seed with that of the other, layer by layer, on 500 examples and fewer, and looks
at both.

Run ``python jobs/studies/what_is_chance.py --output DIR``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd
from demo_zoo import STEPS, capture, output_folder

import dask_svcca
from dask_svcca.errors import FewSamplesWarning

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = (500, 250, 120, 60, 30)
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5", "logits")
MODELS = ("cnn-s0", "cnn-s1")
CHECKPOINT = f"step{STEPS[-1]:05}"
READINGS = {"mean": "averaged over positions", "flatten": "positions as neurons"}
CONTRAST = 0.1
"""How far above shuffled examples a layer has to be to count as similar."""


def fewer_examples(zoo: dask_svcca.Zoo, count: int, folder: Path) -> dask_svcca.Zoo:
    """The trained layers of the two networks, on the first examples."""
    store = str(folder / f"zoo-{count}.zarr")
    with dask_svcca.create_zoo(store, examples=zoo.examples[:count], exist_ok=True) as part:
        for model in MODELS:
            for layer in LAYERS:
                if (model, CHECKPOINT, layer) not in part:
                    part.write(model, CHECKPOINT, layer, zoo[model, CHECKPOINT, layer][:count])
    return dask_svcca.open_zoo(store)


def similarities(zoo: dask_svcca.Zoo, conv: str, store: str) -> pd.DataFrame:
    """One row a layer: what it scores with its counterpart, and what chance gives by formula and by shuffling."""
    with warnings.catch_warnings():
        # That there are few samples is the subject.
        warnings.simplefilter("ignore", FewSamplesWarning)
        result = dask_svcca.compare(zoo, store, conv=conv, pairs=f"between {MODELS[0]} {MODELS[1]}")
    pairs = [tuple(f"{model}/{CHECKPOINT}/{layer}" for model in MODELS) for layer in LAYERS]
    null = dask_svcca.permutation_null(store, pairs, permutations=49)
    rows = []
    for index, (a, b) in enumerate(pairs):
        found = result.sel(representation_a=a, representation_b=b)
        rows.append(
            {
                "layer": LAYERS[index],
                "examples": zoo.n_examples,
                "directions": int(min(found.rank_a, found.rank_b)),
                "svcca": float(found.svcca),
                "by_formula": float(found.null_svcca),
                "by_shuffling": float(null.svcca_null.isel(pair=index).mean()),
                "p": float(null.svcca_p.isel(pair=index)),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Compare, print and write ``what_is_chance.csv``."""
    folder = output_folder(__doc__)
    whole = capture(folder, STEPS[-1:])
    frames = []
    for count in EXAMPLES:
        zoo = fewer_examples(whole, count, folder)
        for conv in READINGS:
            store = str(folder / f"what-is-chance-{conv}-{count}.zarr")
            frames.append(similarities(zoo, conv, store).assign(conv=conv))
    frame = pd.concat(frames, ignore_index=True)
    frame.to_csv(folder / "what_is_chance.csv", index=False)

    columns = dict.fromkeys(("directions", "svcca", "by_formula", "by_shuffling"), "mean") | {"p": "max"}
    for conv, description in READINGS.items():
        print(f"\n{MODELS[0]} and {MODELS[1]}, {description}; means over {len(LAYERS)} layers, and the largest p\n")
        means = frame[frame.conv == conv].groupby("examples").agg(columns).sort_index(ascending=False)
        print(means.to_string(float_format="{:.2f}".format))
    print()
    for conv, description in READINGS.items():
        chosen = frame[frame.conv == conv]
        most, fewest = (chosen[chosen.examples == count] for count in (max(EXAMPLES), min(EXAMPLES)))
        clear = int((most.svcca - most.by_shuffling > CONTRAST).sum())
        clear_with_few = int((fewest.svcca - fewest.by_shuffling > CONTRAST).sum())
        print(
            f"{description[0].upper()}{description[1:]}: on {max(EXAMPLES)} examples these layers score "
            f"{most.svcca.mean():.2f} and shuffled ones {most.by_shuffling.mean():.2f}; on {min(EXAMPLES)}, "
            f"{fewest.svcca.mean():.2f} and {fewest.by_shuffling.mean():.2f}. {clear} of {len(LAYERS)} layers are more "
            f"than {CONTRAST} above the shuffled ones on {max(EXAMPLES)} examples, {clear_with_few} on {min(EXAMPLES)}."
        )
    difference = (frame.by_formula - frame.by_shuffling).abs()
    print(f"Formula and shuffles differ by {difference.mean():.3f} on average, {difference.max():.3f} at most.")


if __name__ == "__main__":
    main()
