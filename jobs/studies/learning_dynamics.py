"""Which layers settle first? SVCCA of every layer with its final self, during training.

Raghu et al. (2017) saw layers settle from the bottom up. Layers close to the input, though, are more alike to their
final selves from the start: they have less of a way to go. So there are two questions, with a table each. How similar
is a layer to its final self? And what share of its own way has it made, from where it started to 1?

Run ``python jobs/studies/learning_dynamics.py --output DIR``.
"""

from __future__ import annotations

import re
from itertools import permutations

import numpy as np
import pandas as pd
from demo_zoo import MAIN_LAYERS, capture, output_folder

import dask_svcca

LEVEL = 0.05
"""An order is reported where no more than this share of all orders of the layers would fit depth as well."""


def similarity_to_final(zoo: dask_svcca.Zoo, store: str) -> pd.DataFrame:
    """SVCCA of each layer at each step with itself at the last step.

    Returns
    -------
    pandas.DataFrame
        Columns ``architecture``, ``model``, ``layer``, ``depth``, ``step``, ``svcca``.
    """
    result = dask_svcca.compare(zoo, store, measures="svcca", conv="mean", pairs="final")
    frames = []
    for architecture in dict.fromkeys(model.rpartition("-s")[0] for model in zoo.representations["model"]):
        # Layers are in order of depth, which is another in each architecture.
        found = dask_svcca.learning_dynamics(result, model=f"{architecture}-*", measure="svcca")
        main = [layer for layer in found.layer.to_numpy() if re.fullmatch(MAIN_LAYERS, layer)]
        similarity = found.similarity_to_final.sel(layer=main)
        frame = similarity.assign_coords(depth=("layer", np.arange(len(main)))).to_dataframe("svcca").reset_index()
        frames.append(frame.assign(architecture=architecture, step=frame.step.astype(int)))
    return pd.concat(frames, ignore_index=True)[["architecture", "model", "layer", "depth", "step", "svcca"]]


def share_of_the_way(frame: pd.DataFrame) -> pd.Series:
    """Share that a layer has gained of the similarity that it lacked at the first step."""
    start = frame.sort_values("step").groupby(["model", "layer"]).svcca.transform("first")
    return (frame.svcca - start) / (1 - start)


def table(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Layers by steps, in the order of depth, mean of the seeds."""
    return frame.pivot_table(index=["depth", "layer"], columns="step", values=value).droplevel("depth")


def depth_order(frame: pd.DataFrame, value: str) -> tuple[float, float]:
    """How the order in which layers settle goes with depth.

    Returns
    -------
    correlation : float
        Rank correlation of depth with how far a layer is, on average over the steps between first and last.
    p : float
        Share of all orders of the layers, this one included, that correlate as strongly.
    """
    between = frame[(frame.step > frame.step.min()) & (frame.step < frame.step.max())]
    ranks = between.groupby("depth")[value].mean().rank().to_numpy()
    depth = np.arange(len(ranks), dtype=np.float64)
    depth, ranks = (side - side.mean() for side in (depth, ranks))
    scale = np.linalg.norm(depth) * np.linalg.norm(ranks)
    correlation = float(depth @ ranks / scale)
    shuffled = np.array(list(permutations(ranks))) @ depth / scale
    return correlation, float((np.abs(shuffled) >= abs(correlation) - 1e-9).mean())


def verdict(correlation: float, p: float) -> str:
    """What a rank correlation with depth says."""
    order = "no order beyond chance"
    if p <= LEVEL:
        order = f"layers close to the {'input' if correlation < 0 else 'output'} first"
    return f"{order} (rank correlation with depth {correlation:+.2f}, p = {p:.3f})"


def main() -> None:
    """Compare, print and write ``learning_dynamics.csv``."""
    folder = output_folder(__doc__)
    frame = similarity_to_final(capture(folder), str(folder / "learning-dynamics.zarr"))
    frame["way"] = share_of_the_way(frame)
    frame.to_csv(folder / "learning_dynamics.csv", index=False)
    for name, group in frame.groupby("architecture"):
        print(f"\n{name}: SVCCA with the final self, by training step (mean of {group.model.nunique()} seeds)\n")
        print(table(group, "svcca").to_string(float_format="{:.2f}".format))
        print(f"\n{name}: share of the way from the first step made\n")
        print(table(group, "way").to_string(float_format="{:.2f}".format))
    print()
    for name, group in frame.groupby("architecture"):
        print(
            f"{name}: by similarity, {verdict(*depth_order(group, 'svcca'))}; by the share of the way, "
            f"{verdict(*depth_order(group, 'way'))}."
        )


if __name__ == "__main__":
    main()
