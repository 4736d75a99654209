"""Convolutional layers and sequences, end to end, read by name: positions, means, the last token, under a mask."""

from __future__ import annotations

from itertools import count, product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask
import numpy as np
import pytest
from convolved import compare_stored, rank, related, value
from oracles import svcca
from threadpoolctl import threadpool_limits

import dask_svcca
from dask_svcca.errors import ParametersChangedError
from dask_svcca.kernels.positions import chosen_positions
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import xarray as xr

    Compared = Callable[..., xr.Dataset]

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """`compare_stored`, between new local stores at each call."""
    number = count()
    return lambda layers, **options: compare_stored(
        tmp_path / f"zoo{next(number)}.zarr", tmp_path / f"comparison{next(number)}.zarr", layers, **options
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of small problems are faster so."""
    with dask.config.set(scheduler="synchronous"), threadpool_limits(1):
        yield


def test_positions__have_no_samples_in_common_with_other_layers(compared: Compared) -> None:
    conv, coarse = related((4, 4), (2, 2))
    layers = {"conv": conv, "coarse": coarse, "other": -conv, "dense": conv[:, 0, 0]}
    result = compared(layers, conv="positions")
    for a, b in product(layers, layers):
        fits = a == b or {a, b} == {"conv", "other"}
        assert value(result, a, b, "pair_status") == (PairStatus.DONE if fits else PairStatus.INCOMPATIBLE_SAMPLES)
        assert np.isnan(value(result, a, b)) == (not fits)


# Other readings, by name.


def check(
    result: xr.Dataset, a: np.ndarray, b: np.ndarray, variance: float, names: tuple[str, str] = ("x", "y")
) -> None:
    assert abs(value(result, *names) - svcca(a, b, variance)) < 1e-9


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        ("all", list(range(16))),
        ("regular 4", [0, 5, 10, 15]),
        ("random 5", list(chosen_positions("random 5", (4, 4)))),
    ],
)
def test_positions__are_samples(compared: Compared, positions: str, chosen: list[int]) -> None:
    x, y = related((4, 4), (4, 4), examples=50)
    result = compared({"x": x, "y": y}, conv="positions", positions=positions, variance=0.9, precision="float64")
    assert set(result.samples_a.to_numpy()) == {50 * len(chosen)}
    check(result, *(layer.reshape(50, 16, -1)[:, chosen].reshape(-1, layer.shape[-1]) for layer in (x, y)), 0.9)


def test_positions__resampled_to_one_size(compared: Compared) -> None:
    x, y = related((8, 6), (4, 6), examples=50)
    result = compared({"x": x, "y": y}, conv="positions", spatial_size=(4, 3), variance=0.9, precision="float64")
    pooled = x.reshape(50, 4, 2, 3, 2, -1).mean(axis=(2, 4)), y.reshape(50, 4, 3, 2, -1).mean(axis=3)
    check(result, *(layer.reshape(50 * 12, -1) for layer in pooled), 0.9)


def test_mean__is_over_positions(compared: Compared) -> None:
    x, y = related((8, 8), (2, 2), examples=50)
    layers = {"x": x, "y": y, "dense": x[:, 0, 0]}
    result = compared(layers, conv="mean", variance=0.9, precision="float64")
    check(result, x.mean(axis=(1, 2)), y.mean(axis=(1, 2)), 0.9)
    check(result, x.mean(axis=(1, 2)), x[:, 0, 0], 0.9, ("x", "dense"))


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("examples", [200, 30])
def test_flatten__is_plain_cca_by_either_route(compared: Compared, examples: int) -> None:
    # 48 neurons: with fewer examples, by way of the inner products of the examples.
    x, y = related((4, 4), (2, 2), examples=examples)
    result = compared({"x": x, "y": y}, conv="flatten", variance=0.9, precision="float64")
    assert rank(result, "x") < min(48, examples - 1)
    check(result, x.reshape(examples, -1), y.reshape(examples, -1), 0.9)


# Sequences.

TOKENS = 6


@pytest.fixture(scope="module")
def sequences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two layers and the mask of their padding, which is large and meaningless."""
    rng = np.random.default_rng(4)
    mask = np.arange(TOKENS) < rng.integers(1, TOKENS + 1, size=(60, 1))
    # Some are padded in front.
    mask[::3] = mask[::3, ::-1]
    x = rng.normal(size=(60, TOKENS, 4))
    y = x @ rng.normal(size=(4, 3)) + rng.normal(size=(60, TOKENS, 3))
    for layer in (x, y):
        layer[~mask] = 100 * rng.normal(size=layer[~mask].shape)
    return x, y, mask


def tokens_that_count(sequence: str, layer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows = [layer[i, mask[i]] for i in range(len(layer))]
    match sequence:
        case "mean":
            return np.array([row.mean(axis=0) for row in rows])
        case "first":
            return np.array([row[0] for row in rows])
        case "last":
            return np.array([row[-1] for row in rows])
    return np.concatenate(rows)


@pytest.mark.parametrize("sequence", ["mean", "first", "last", "positions"])
@pytest.mark.parametrize("masked", [False, True])
def test_sequences__are_read_as_asked(compared: Compared, sequences: Any, sequence: Any, masked: bool) -> None:
    x, y, mask = sequences
    options = {"mask": "real" if masked else None}
    layers = {"tokens x": x, "tokens y": y}
    result = compared(layers, coords={"real": mask}, sequence=sequence, variance=0.9, precision="float64", **options)
    mask = mask if masked else np.ones_like(mask)
    expected = [tokens_that_count(sequence, layer, mask) for layer in (x, y)]
    assert set(result.samples_a.to_numpy()) == {len(expected[0])}
    check(result, *expected, 0.9, ("tokens x", "tokens y"))


def test_masks__the_only_one_is_used_unless_it_is_declined(compared: Compared, sequences: Any) -> None:
    x, y, mask = sequences
    layers = {"tokens x": x, "tokens y": y}
    for real in (mask, mask.astype("int64")):
        # Others are none: no token counts, or there are more than two values.
        coords = {
            "real": real,
            "kind": np.zeros((60, TOKENS), dtype="int8"),
            "ids": np.arange(60 * TOKENS).reshape(60, -1),
        }
        result = compared(layers, coords=coords, precision="float64", variance=0.9)
        assert parameters_of(result)["mask"] == "real"
        check(result, *(tokens_that_count("mean", layer, mask) for layer in (x, y)), 0.9, ("tokens x", "tokens y"))
        declined = compared(layers, coords=coords, precision="float64", variance=0.9, mask=None)
        assert parameters_of(declined)["mask"] is None
        check(declined, x.mean(axis=1), y.mean(axis=1), 0.9, ("tokens x", "tokens y"))


def test_masks__one_of_several_must_be_named(compared: Compared, sequences: Any) -> None:
    x, _, mask = sequences
    coords = {"real": mask, "other": np.ones_like(mask)}
    with pytest.raises(
        ValueError, match=r"several masks, 'real', 'other': say which .* or decline them all with mask=None"
    ):
        compared({"tokens": x}, coords=coords)
    assert parameters_of(compared({"tokens": x}, coords=coords, mask="other"))["mask"] == "other"
    # No layer has tokens.
    assert parameters_of(compared({"dense": x[:, 0]}, coords=coords))["mask"] is None


def test_masks__have_two_values(compared: Compared, sequences: Any) -> None:
    x, _, mask = sequences
    additive = np.where(mask, 0.0, -np.inf)
    with pytest.raises(ValueError, match="mask='additive' has values other than true and false, such as -inf"):
        compared({"tokens": x}, coords={"additive": additive}, mask="additive")


def test_masks__a_comparison_without_one_says_so(tmp_path: Path, sequences: Any) -> None:
    x, _, mask = sequences
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(60), coords={"real": mask}) as zoo:
        zoo.write("m", "1", "tokens", x)
    dask_svcca.compare(zoo, tmp_path / "comparison.zarr", mask=None)
    with pytest.raises(ParametersChangedError, match="was made with mask=None, now mask='real' is asked for"):
        dask_svcca.compare(zoo, tmp_path / "comparison.zarr")
    dask_svcca.compare(zoo, tmp_path / "comparison.zarr", mask=None, measures="cka")


def test_sequences__a_mask_may_leave_whole_chunks_without_samples(compared: Compared, sequences: Any) -> None:
    x, y, mask = sequences
    # The first position is padding in the first half of the examples.
    mask = np.ones_like(mask)
    mask[:30, 0] = False
    options: Any = {"sequence": "positions", "positions": "regular 1", "mask": "real", "precision": "float64"}
    with patch.object(zoo_module, "CHUNK_BYTES", 10 * x[0].nbytes):
        result = compared({"tokens x": x, "tokens y": y}, coords={"real": mask}, variance=0.9, **options)
    check(result, x[30:, 0], y[30:, 0], 0.9, ("tokens x", "tokens y"))


def test_sequences__a_mask_is_of_tokens_only(compared: Compared, sequences: Any) -> None:
    x, _, mask = sequences
    layers = {"tokens": x, "conv": x[:, :, :3], "dense": x[:, 0]}
    options: Any = {"sequence": "positions", "conv": "positions", "variance": 0.9}
    result = compared(layers, coords={"real": mask}, mask="real", **options)
    # As many positions, and not the same ones.
    assert value(result, "tokens", "conv", "pair_status") == PairStatus.INCOMPATIBLE_SAMPLES
    samples = result.samples_a.to_series()
    assert samples.to_dict() == {"m/1/tokens": mask.sum(), "m/1/conv": mask.size, "m/1/dense": 60}
    without = compared(layers, **options)
    assert value(without, "tokens", "conv", "pair_status") == PairStatus.DONE


@pytest.mark.parametrize("sequence", ["mean", "positions"])
def test_sequences__a_mask_that_does_not_fit_is_recorded(compared: Compared, sequences: Any, sequence: Any) -> None:
    x, _, mask = sequences
    layers = {"tokens": x, "tokens longer": np.concatenate([x, x], axis=1), "dense": x[:, 0]}
    result = compared(layers, coords={"real": mask}, mask="real", sequence=sequence)
    assert result.problem_a.to_series().to_dict() == {
        "m/1/tokens": "",
        "m/1/tokens longer": "'m/1/tokens longer' has 12 tokens, and the mask 'real' has 6. Compare it without that "
        "mask, mask=None (--no-mask), or keep it in a zoo with a mask of its own",
        "m/1/dense": "",
    }
    assert value(result, "tokens", "tokens longer", "pair_status") == PairStatus.FAILED
    assert value(result, "tokens", "tokens", "pair_status") == PairStatus.DONE


@pytest.mark.parametrize(
    ("hidden", "options", "problem"),
    [
        ((7, slice(None)), {}, "'m/1/tokens' has no token of example 7 that counts under the mask 'real'"),
        (
            (slice(None), 0),
            {"sequence": "positions", "positions": "regular 1"},
            "'m/1/tokens' has no token among regular 1 positions that counts under the mask 'real'",
        ),
    ],
)
def test_sequences__a_mask_that_leaves_nothing_is_recorded(
    compared: Compared, sequences: Any, hidden: Any, options: Any, problem: str
) -> None:
    x, _, mask = sequences
    mask = np.ones_like(mask)
    mask[hidden] = False
    result = compared({"tokens": x, "dense": x[:, 0]}, coords={"real": mask}, mask="real", **options)
    assert list(result.problem_a.sel(representation_a=["m/1/tokens", "m/1/dense"])) == [problem, ""]


@pytest.mark.parametrize("name", ["mask", "label"])
def test_compare__refuses_what_is_not_a_mask(compared: Compared, sequences: Any, name: str) -> None:
    x, _, mask = sequences
    with pytest.raises(ValueError, match=rf"mask='{name}' is not a coordinate of the zoo .* it has 'real'. Give it"):
        compared({"tokens": x}, coords={"real": mask, "label": np.arange(60)}, mask=name)
