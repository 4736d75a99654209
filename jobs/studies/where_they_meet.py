"""Where in training do two architectures meet? From previews alone, and then exactly.

Two networks meet where the layers of one have their likes in the other: for each layer of the cnn, the most similar one
of the residual network by linear CKA, and the mean of that over the layers. Of all pairs of checkpoints there are
estimates within seconds, which say where to look; the exact values, the most telling first, say whether that was right.

The most similar of several is similar by chance, too, and by estimates a little more than it is. So the study says how
similar the two are before training, and how similar two trainings of the cnn are when the architectures meet.

Run ``python jobs/studies/where_they_meet.py --output DIR``.
"""

from __future__ import annotations

import re
import time
import warnings
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from demo_zoo import MAIN_LAYERS, capture, output_folder

import dask_svcca

if TYPE_CHECKING:
    import xarray as xr

SEEDS = ("s0", "s1")
MEETINGS = [(f"cnn-{a}", f"resnet-{b}") for a, b in product(SEEDS, SEEDS)]
"""Each training of one architecture with each of the other."""

SAME = ("cnn-s0", "cnn-s1")
INTERVAL = 1.96
"""Standard errors within which nineteen in twenty estimates are."""


def meetings(result: xr.Dataset, first: str, second: str) -> pd.DataFrame:
    """How similar two networks are, by checkpoints.

    Parameters
    ----------
    result : xarray.Dataset
        From `dask_svcca.compare`.
    first, second : str
        Models.

    Returns
    -------
    pandas.DataFrame
        A row for each pair of checkpoints: ``step_a``, ``step_b``; ``cka``, the mean over layers of the first of that
        with the most similar one of the second; ``estimate``, the same by estimates, and ``error``, the mean of their
        standard errors, which is no less than that of the mean.
    """
    places = {}
    for side, model in (("a", first), ("b", second)):
        layers = result[f"layer_{side}"].to_numpy().astype(str)
        main = np.array([re.fullmatch(MAIN_LAYERS, layer) is not None for layer in layers])
        own = np.flatnonzero(main & (result[f"model_{side}"].to_numpy().astype(str) == model))
        steps = result[f"step_{side}"].to_numpy()[own]
        places[side] = {step: own[steps == step] for step in np.unique(steps)}
    exact, estimate, error = (result[name].to_numpy() for name in ("cka", "cka_estimate", "cka_estimate_error"))
    rows = []
    for step_a, step_b in product(places["a"], places["b"]):
        block = np.ix_(places["a"][step_a], places["b"][step_b])
        nearest = estimate[block].argmax(axis=1)[:, np.newaxis]
        rows.append(
            {
                "model_a": first,
                "model_b": second,
                "step_a": int(step_a),
                "step_b": int(step_b),
                "cka": exact[block].max(axis=1).mean(),
                "estimate": estimate[block].max(axis=1).mean(dtype=np.float64),
                "error": np.take_along_axis(error[block], nearest, axis=1).mean(dtype=np.float64),
            }
        )
    return pd.DataFrame(rows)


def where(frame: pd.DataFrame, value: str) -> tuple[int, int]:
    """Steps of the two networks at which they are most alike, on average over the seeds."""
    step_a, step_b = frame.groupby(["step_a", "step_b"])[value].mean().idxmax()
    return int(step_a), int(step_b)


def main() -> None:
    """Preview, compare, print and write ``where_they_meet.csv``."""
    folder = output_folder(__doc__)
    zoo = capture(folder)
    store = str(folder / "where-they-meet.zarr")
    started = time.perf_counter()
    preview = dask_svcca.compare(zoo, store, measures="cka", conv="mean", preview=True).load()
    seconds = time.perf_counter() - started
    known = pd.concat([meetings(preview, *models) for models in MEETINGS], ignore_index=True)
    found = where(known, "estimate")
    count = preview.sizes["representation_a"]
    print(f"Estimates of all {count * (count + 1) // 2:,} pairs of {count} layers: {seconds:.0f} s, sketches included.")
    print(
        f"By previews alone, the architectures are most alike at step {found[0]} of the cnn and {found[1]} of the "
        f"residual network."
    )

    with warnings.catch_warnings():
        # Layers of any kind are compared here by averages over positions; the papers read them in another way.
        warnings.simplefilter("ignore", dask_svcca.errors.ReadingWarning)
        exact = dask_svcca.compare(zoo, store, measures="cka", conv="mean", order="by estimate").load()
    frame = pd.concat([meetings(exact, *models) for models in MEETINGS], ignore_index=True)
    frame.to_csv(folder / "where_they_meet.csv", index=False)
    columns = ["cka", "estimate", "error"]
    together = frame[frame.step_a == frame.step_b].groupby("step_a")[columns].mean()
    print(f"\nAt the same step of both, mean of {len(MEETINGS)} pairs of trainings\n")
    print(together.rename_axis("step").to_string(float_format="{:.3f}".format))

    truly = where(frame, "cka")
    print(f"\nExactly, they are most alike at step {truly[0]} of the cnn and {truly[1]} of the residual network.")
    away = (preview.cka_estimate - exact.cka).to_numpy()
    pairs = np.triu_indices(len(away), 1)
    inside = np.abs(away) <= INTERVAL * preview.cka_estimate_error.to_numpy()
    print(
        f"Estimates of single pairs are off by {np.sqrt((away[pairs] ** 2).mean()):.3f} (rms), and "
        f"{inside[pairs].mean():.1%} are within {INTERVAL} standard errors."
    )
    means = frame.groupby(["step_a", "step_b"]).cka.mean()
    again = meetings(exact, *SAME).set_index(["step_a", "step_b"]).cka
    print(
        f"The mean is {means[means.index.min()]:.2f} before training and {means[truly]:.2f} where they meet; two "
        f"trainings of the cnn have {again[truly[0], truly[0]]:.2f} at that step."
    )


if __name__ == "__main__":
    main()
