"""Which measure is to be trusted? Layer identification by all measures, before and after training.

Two networks of one architecture, trained from different seeds, have layers that correspond. A measure that deserves
trust finds the corresponding layer among all layers of the other network (Kornblith et al. 2019). The study asks it
twice, before and after training. What a measure finds in untrained networks is the architecture, whose layers have
other sizes and see the images at other resolutions; what training adds is the difference.

Run ``python jobs/studies/which_measure.py --output DIR``.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from demo_zoo import MAIN_LAYERS, STEPS, capture, output_folder

import dask_svcca

if TYPE_CHECKING:
    import numpy.typing as npt

GROUPS = {"cnn": ["cnn-s0", "cnn-s1"], "resnet": ["resnet-s0", "resnet-s1"]}
STAGES = {"untrained": STEPS[0], "trained": STEPS[-1]}
LEVEL = 0.05


def across_seeds(representations: pd.DataFrame) -> xr.DataArray:
    """Pairs of layers of the two networks of one architecture, at the same step of `STAGES`."""

    def equal(values: pd.Series) -> npt.NDArray[np.bool_]:
        codes = pd.factorize(values)[0]
        return codes[:, np.newaxis] == codes

    model, step = representations["model"], representations["step"]
    wanted = equal(model.str.rpartition("-s")[0]) & ~equal(model) & equal(step) & step.isin(STAGES.values()).to_numpy()
    labels = representations.index.to_numpy()
    return xr.DataArray(wanted, coords={"representation_a": labels, "representation_b": labels})


def accuracies(result: xr.Dataset) -> pd.DataFrame:
    """Shares of layers found: columns stage, measure, architecture, accuracy, tested, chance, p."""
    inner = [name for name in map(str, result.layer_a.to_numpy()) if not re.fullmatch(MAIN_LAYERS, name)]
    frames = []
    for stage, step in STAGES.items():
        found = dask_svcca.layer_identification(
            result, "all", groups=GROUPS, checkpoint=f"step{step:05}", exclude=inner
        )
        frame = found[["accuracy", "tested", "chance"]].to_dataframe().reset_index()
        frames.append(frame.rename(columns={"group": "architecture"}).assign(stage=stage))
    frame = pd.concat(frames, ignore_index=True)
    frame["p"] = [at_least(round(row.accuracy * row.tested), int(row.tested), row.chance) for row in frame.itertuples()]
    return frame


def at_least(found: int, tested: int, chance: float) -> float:
    """Probability that guesses find so many or more.

    Examples
    --------
    >>> at_least(2, 2, 0.5), at_least(0, 2, 0.5)
    (0.25, 1.0)
    """
    return sum(math.comb(tested, k) * chance**k * (1 - chance) ** (tested - k) for k in range(found, tested + 1))


def names(measures: pd.Index | list[str]) -> str:
    """A list of names as text; none where there are none."""
    return ", ".join(measures) or "none"


def main() -> None:
    """Compare, print and write ``which_measure.csv``."""
    folder = output_folder(__doc__)
    zoo = capture(folder, tuple(STAGES.values()))
    pairs = across_seeds(zoo.representations)
    with warnings.catch_warnings():
        # All measures see the same here, averages over positions; the papers of some read layers in another way.
        warnings.simplefilter("ignore", dask_svcca.errors.ReadingWarning)
        result = dask_svcca.compare(zoo, str(folder / "which-measure.zarr"), measures="all", conv="mean", pairs=pairs)
    frame = accuracies(result)
    frame.to_csv(folder / "which_measure.csv", index=False)
    wide = frame.pivot_table(index="measure", columns=["architecture", "stage"], values="accuracy")
    wide = wide[[(name, stage) for name in GROUPS for stage in STAGES]]
    trained = wide.xs("trained", axis=1, level="stage").mean(axis=1)
    wide = wide.loc[trained.sort_values(ascending=False).index]
    chance = frame.groupby(["architecture", "stage"]).chance.first()
    wide.loc["(by chance)"] = [chance[column] for column in wide.columns]
    print("\nHow often the most similar layer of the other seed is the corresponding one:\n")
    print(wide.to_string(float_format="{:.2f}".format))

    final = frame[frame.stage == "trained"]
    beyond = final.assign(beyond=final.p <= LEVEL).groupby("measure").beyond.all()
    best = trained[trained == trained.max()].index
    tested = frame.groupby("architecture").tested.first()
    change = wide.iloc[:-1].xs("trained", axis=1, level="stage") - wide.iloc[:-1].xs("untrained", axis=1, level="stage")
    print(
        f"\nBest on trained networks: {names(best)}, with {trained.max():.2f} of the layers found on average. Beyond "
        f"chance (p <= {LEVEL} for guesses) in both architectures: {names(beyond[beyond].index)}; in one or none: "
        f"{names(beyond[~beyond].index)}. A share is of {tested['cnn']:.0f} choices (cnn) or "
        f"{tested['resnet']:.0f} (resnet), each output of a block from each seed in the "
        f"other: small differences mean nothing.\n"
        f"Training changes the shares by {change['cnn'].mean():+.2f} (cnn) and {change['resnet'].mean():+.2f} (resnet) "
        f"on average over the measures. What is found before training is found by the architecture alone."
    )


if __name__ == "__main__":
    main()
