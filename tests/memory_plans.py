"""Random plans whose tasks are run one by one and measured, in a process of their own; see `test_memory`.

Run as a program it takes a scale of sizes and the seeds of plans, or their names, and prints what was measured as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg.blas

import dask_svcca
from dask_svcca.errors import MemoryLimitError
from dask_svcca.kernels.lanes import LEAST_PAIRS, singular_values_abreast
from dask_svcca.kernels.moments import Moments
from dask_svcca.kernels.subspace import Eigenbasis
from dask_svcca.plan import sides as sides_module
from dask_svcca.plan import subspaces as subspaces_module
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import GroupTask, PackTask, PartTask
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.zoo import write
from dask_svcca.tasks.parts import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import Node

ENVIRONMENT = {
    # Freed memory goes back at once, so that what is resident is what is held. That of the heap goes back only where
    # nothing above it is held, so that not even short chunks of activations are to lie there.
    "MALLOC_MMAP_THRESHOLD_": "8192",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "NUMPY_MADVISE_HUGEPAGE": "0",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Case:
    """A zoo and how it is compared."""

    shapes: list[tuple[int, ...]]
    dims: tuple[str, ...] | None = None
    dtype: str = "float32"
    chunk_bytes: int = 2**20
    compression: str = "lz4"
    mask: bool = False
    workers: int = 1
    share: float = 1.0
    batches: int = subspaces_module.BATCHES_PER_WORKER
    split_bytes: int = subspaces_module.SPLIT_BYTES
    options: dict[str, Any] = field(default_factory=dict)
    unequal: bool = False
    """Whether neurons are of very unequal scales, and depend on one another: noise has to be told from directions."""
    before: str = ""
    """A measure that was asked for before, and is not measured."""
    memory: int = 0
    """Bytes that a task may take; 0 for a share of what the plan has use for."""
    few_tiles: bool = False
    """Whether tiles are as large as in zoos of so many more layers that their number is no longer what decides."""

    @property
    def exact(self) -> bool:
        """Whether ranks are those that the plan assumes."""
        return self.options.get("variance") is None and not self.mask and not self.unequal


@dataclass(frozen=True)
class Measured:
    """What one task took, in bytes."""

    seed: int | str
    kind: str
    promised: int
    traced: int
    resident: int
    exact: bool

    @property
    def peak(self) -> int:
        return max(self.traced, self.resident)


WARM = Case([(300, 200)] * 2 + [(300, 4, 4, 3)] * 2 + [(300, 400)], options={"measures": "all", "keep": "correlations"})
"""A plan that imports and prepares what any needs."""

MEASURES = (
    "svcca",
    ["svcca", "cka"],
    ["cka", "cka_debiased"],
    "all",
    "pwcca",
    ["svcca", "procrustes"],
    "linear_regression",
)


NAMED = {
    # Those that were accepted at 34 MiB a task and took 51, and at 69 and took 154.
    "two wide layers": Case([(1800, 1500)] * 2, share=0.0, options={"measures": "svcca", "variance": None}),
    "two wide layers, all measures": Case([(1800, 1500)] * 2, share=0.0, options={"measures": "all", "variance": None}),
    # Those whose promise was up to nine times what they took.
    **{
        f"convolutional layers, {match}, {share:g}": Case(
            [(600, 8, 8, 128), (600, 4, 4, 128), (600, 8, 8, 128)],
            share=share,
            options={"measures": ["svcca", "cka"], "variance": None, "match": match},
        )
        for match in ("crop", "fold")
        for share in (0.0, 1.0)
    },
    **{
        f"unequal neurons, {kind}, {dtype}": Case(
            [shape] * 2, dtype=dtype, share=0.0, options={"measures": "cka", "variance": None}, unequal=True
        )
        for kind, shape in {
            "dense": (2500, 800),
            "more than samples": (900, 2000),
            "far more than samples": (1500, 4000),
            "convolutional": (600, 8, 8, 128),
        }.items()
        for dtype in ("float32", "float64")
    },
    **{
        f"samples as they are, {kind}{', and directions of them' if before else ''}": Case(
            [shape] * 2,
            share=0.0,
            options={"measures": "svcca" if before else "cka", "variance": None},
            before=before,
        )
        for kind, shape in {"dense": (6000, 1000), "more than samples": (1500, 4000)}.items()
        for before in ("", "cka")
    },
    **{
        f"leading directions, {kind}{', of samples as they are' if before else ''}": Case(
            [shape] * 2, share=share, options={"measures": "svcca", "variance": 0.99}, before=before
        )
        for kind, shape, share in (("square", (1500, 1200), 0.0), ("tall", (8000, 400), 0.0), ("few", (3000, 200), 1.0))
        for before in ("", "cka")
    },
}
"""Plans whose promise was broken, or too large, before it was measured; and those of neurons of unequal scales.

And those where no measure asks for directions, until one does.
"""

PATCHED = {
    name: Case(
        # Of uneven sizes, some equal: what is solved together differs from patch to patch.
        [(*shape[:-1], shape[-1] + number % 3 * (shape[-1] // 4)) for number in range(count)],
        memory=memory * 2**20,
        few_tiles=True,
        options={"variance": None, **options},
    )
    for name, shape, count, memory, options in (
        ("all measures", (100, 16), 400, 115, {"measures": "all"}),
        ("two measures", (60, 4), 1600, 125, {"measures": ["svcca", "cka"]}),
        ("two measures, little memory", (60, 4), 900, 25, {"measures": ["svcca", "cka"]}),
        ("canonical vectors", (60, 6), 1100, 70, {"measures": "pwcca"}),
        ("frequencies", (40, 4, 4, 3), 500, 48, {"measures": ["svcca", "cka"]}),
        ("distances", (60, 4), 1300, 120, {"measures": ["rsa", "svcca"]}),
        ("neighbours", (60, 4), 500, 25, {"measures": ["jaccard(k=3)", "cka"]}),
        ("inner products", (60, 100), 1600, 125, {"measures": ["cka", "cka_debiased"]}),
        ("correlations", (60, 8), 500, 60, {"measures": "svcca", "keep": "correlations"}),
    )
}
"""Plans of tiles whose pairs are evaluated patch by patch, since memory has room for their values, and not for more."""


@dataclass(frozen=True)
class Drawn:
    """What a plan compares, and by which options of reading."""

    shapes: list[tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    dims: tuple[str, ...] | None = None


def random_case(seed: int, scale: float = 1.0) -> Case:
    """A plan of a seed; sizes grow with the scale."""
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "measures": MEASURES[rng.integers(len(MEASURES))],
        "variance": None if rng.random() < 0.8 else float(rng.choice([0.5, 0.9, 0.99])),
        "precision": str(rng.choice(["float32", "float64"], p=[0.7, 0.3])),
    }
    keep, count = rng.random() < 0.2, between(rng, 2, 14)
    kind = str(rng.choice(list(KINDS), p=[0.4, 0.15, 0.2, 0.1, 0.15]))
    drawn = KINDS[kind](rng, scale, count)
    options |= drawn.options
    if keep:
        options["keep"] = "frequencies" if kind == "dft" and rng.random() < 0.5 else "correlations"
    return Case(
        drawn.shapes,
        drawn.dims,
        dtype=str(rng.choice(["float16", "float32", "float64"], p=[0.2, 0.6, 0.2])),
        chunk_bytes=between(rng, 2**16, 2**23),
        compression=str(rng.choice(["lz4", "none", "zstd"])),
        mask="mask" in options,
        workers=int(rng.choice([1, 1, 2, 4])),
        share=float(rng.choice([0.0, rng.random(), 1.0])),
        # So that several small ones make a pack, and long ones are read in parts, as in zoos of more and longer layers.
        batches=1 if rng.random() < 0.3 else subspaces_module.BATCHES_PER_WORKER,
        split_bytes=2**18 if rng.random() < 0.3 else subspaces_module.SPLIT_BYTES,
        options=options,
    )


def between(rng: np.random.Generator, low: float, high: float) -> int:
    """A number whose logarithm is uniform."""
    return int(np.exp(rng.uniform(np.log(low), np.log(max(low, high)))))


def dense(rng: np.random.Generator, scale: float, count: int) -> Drawn:
    """More examples than neurons."""
    examples = between(rng, 500, 4000 * scale)
    # The work grows with the square of all directions together.
    most = min(1200, min(900, 1600 // count) * scale)
    # Wide ones all of them, where tasks are to be large.
    least = most / (10 if scale < 2 else 2)
    shapes: list[tuple[int, ...]] = [(examples, between(rng, least, most)) for _ in range(count)]
    return Drawn(shapes[:1] * count if rng.random() < 0.5 else shapes)


def wide(rng: np.random.Generator, scale: float, count: int) -> Drawn:
    """More neurons than examples."""
    count = min(count, 6)
    examples = between(rng, 100, min(1400, 1200 // count * scale))
    return Drawn([(examples, between(rng, examples + 1, 6000 * scale)) for _ in range(count)])


def images(rng: np.random.Generator, scale: float, count: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Layers with height and width, and the smaller of two sizes where there are two."""
    count = min(count, 6)
    examples, size = between(rng, 100, 700 * scale), int(rng.choice([4, 6, 8]))
    sizes = [size] if rng.random() < 0.5 else [size, size // 2]
    most = 160 // count * scale
    shapes: list[tuple[int, ...]] = [(examples, n, n, between(rng, 4, most)) for n in rng.choice(sizes, count).tolist()]
    return shapes, (size // 2, size // 2) if len(sizes) == 2 else ()


def dft(rng: np.random.Generator, scale: float, count: int) -> Drawn:
    """Under the DFT split, and dense layers beside."""
    shapes, _ = images(rng, scale, count)
    match = str(rng.choice(["crop", "fold"]))
    if rng.random() < 0.3:
        shapes.append((shapes[0][0], between(rng, 20, 300 * scale)))
    return Drawn(shapes, {"match": match})


def conv(rng: np.random.Generator, scale: float, count: int) -> Drawn:
    """Under another reading."""
    shapes, smaller = images(rng, scale, count)
    options: dict[str, Any] = {"conv": str(rng.choice(["mean", "flatten", "positions"]))}
    if options["conv"] == "positions":
        options["positions"] = str(rng.choice(["all", "regular 9", "random 7"]))
        if smaller:
            options["spatial_size"] = smaller
    return Drawn(shapes, options)


def sequence(rng: np.random.Generator, scale: float, count: int) -> Drawn:
    """Tokens, masked or not."""
    examples, length = between(rng, 100, 600 * scale), between(rng, 4, 12)
    shapes: list[tuple[int, ...]] = [(examples, length, between(rng, 10, 100 * scale)) for _ in range(min(count, 8))]
    options: dict[str, Any] = {"sequence": str(rng.choice(["mean", "positions", "last"]))}
    if rng.random() < 0.5:
        options["mask"] = "mask"
    return Drawn(shapes, options, ("example", "token", "neuron"))


KINDS: dict[str, Callable[[np.random.Generator, float, int], Drawn]] = {
    "dense": dense,
    "wide": wide,
    "dft": dft,
    "conv": conv,
    "sequence": sequence,
}


@contextmanager
def a_zoo(case: Case) -> Iterator[tuple[dask_svcca.Zoo, Path]]:
    """The zoo of a case, and a folder."""
    rng = np.random.default_rng(0)
    usual = write.CHUNK_BYTES
    with tempfile.TemporaryDirectory() as folder:
        examples = case.shapes[0][0]
        coords = {}
        if case.mask:
            lengths = rng.integers(1, case.shapes[0][1] + 1, size=examples)
            coords["mask"] = np.arange(case.shapes[0][1]) < lengths[:, np.newaxis]
        write.CHUNK_BYTES = case.chunk_bytes
        try:
            with dask_svcca.create_zoo(Path(folder, "zoo.zarr"), examples=range(examples), coords=coords) as zoo:
                for number, shape in enumerate(case.shapes):
                    dims = case.dims or ("example", "height", "width", "channel") if len(shape) > 2 else None
                    values = rng.standard_normal(shape, dtype=np.float32).astype(case.dtype)
                    if case.unequal:
                        values[..., -1] = values[..., 0] + values[..., 1]
                        values = values * np.logspace(0, -8, shape[-1]).astype(case.dtype)
                    zoo.write("net", "1", f"{number:02}", values, dims=dims, compression=case.compression)
        finally:
            write.CHUNK_BYTES = usual
        yield zoo, Path(folder)


def budget_of(case: Case, zoo: dask_svcca.Zoo) -> Budget:
    """From the least that is accepted to all that the plan has use for."""
    if case.memory:
        return Budget(case.workers, PROCESS_BYTES + case.memory)
    parameters = make_parameters(**case.options)
    entries, selected = zoo.entries(), select_pairs("all", zoo.representations)

    def plan(available: int) -> Plan:
        budget = Budget(case.workers, PROCESS_BYTES + available)
        return make_plan(entries, selected, None, None, parameters, budget)

    whole = plan(2**40)
    high = max(whole.subspace_bytes, whole.tile_bytes)
    low, least = 0, high
    while least - low > 2**12:
        middle = (low + least) // 2
        try:
            plan(middle)
        except MemoryLimitError:
            low = middle
        else:
            least = middle
    return Budget(case.workers, PROCESS_BYTES + int(least + case.share * (high - least)))


class Measuring:
    """Runs tasks one after the other, and measures each."""

    def __init__(self, seed: int | str, case: Case, budget: Budget) -> None:
        self.found: list[Measured] = []
        self.budget = budget
        self._seed, self._case = seed, case

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks."""
        results: dict[str, Any] = {}
        for key, node in nodes.items():
            needed = [results[name] for name in node.needs]
            with measured() as taken:
                results[key] = perform(node.task, *needed)
            if node.reports:
                on_done(key, results[key])
            self._add(node, taken, needed)

    def _add(self, node: Node, taken: dict[str, int], needed: list[Any]) -> None:
        task, exact = node.task, self._case.exact
        if isinstance(task, GroupTask):
            return
        if isinstance(task, PackTask):
            member = task.members[0]
            kind, promised = f"pack of {type(member.reading).__name__}", task.memory
            if len(task.members) > 1:
                kind = "pack of several"
        elif isinstance(task, PartTask):
            kind, promised = f"part: {task.step}", task.pack.memory
            # What waits for others to be merged is in none of its tasks.
            exact = False
            taken = {name: size + sum(map(bytes_of, needed)) for name, size in taken.items()}
        else:
            kind, promised = "tile", task.memory.peak
            # A tile at the edge is promised the chunks that it writes at their full size.
            exact = exact and (task.column + 1) * task.side <= max(task.side, len(self._case.shapes))
            longest = min(task.side, len(self._case.shapes) - task.row * task.side)
            if 0 < task.memory.patch < longest:
                kind = "tile in patches"
        self.found.append(Measured(self._seed, kind, promised, taken["traced"], taken["resident"], exact))


def bytes_of(value: Any) -> int:
    """Bytes of the arrays in a result that another task is given."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Found):
        return bytes_of(value.value)
    if isinstance(value, Moments):
        return value.scatter.nbytes
    if isinstance(value, Eigenbasis):
        return value.loadings.nbytes
    if isinstance(value, dict):
        return sum(map(bytes_of, value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, list | tuple) else 0


@contextmanager
def measured() -> Iterator[dict[str, int]]:
    """Most bytes held within the block beyond those before it: what Python allocates, and what is resident.

    Pages of libraries that are touched for the first time belong to the process, and the tables of `tracemalloc` to
    the measurement: neither is of the block.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    taken: dict[str, int] = {}
    tracemalloc.start(1)
    before, beside = memory_of("VmRSS"), memory_of("RssFile") + tracemalloc.get_tracemalloc_memory()
    Path("/proc/self/clear_refs").write_text("5")
    try:
        yield taken
    finally:
        beside = memory_of("RssFile") + tracemalloc.get_tracemalloc_memory() - beside
        taken["resident"] = memory_of("VmHWM") - before - beside
        taken["traced"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def memory_of(name: str) -> int:
    """What the kernel says of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def measure(seed: int | str, case: Case) -> list[Measured]:
    """What each task of a plan takes."""
    subspaces_module.BATCHES_PER_WORKER, subspaces_module.SPLIT_BYTES = case.batches, case.split_bytes
    if case.few_tiles:
        sides_module.FILES = sides_module.LEAST_TILES = 1
        sides_module.MAX_TILE = sides_module.SMALL_TILE
    with a_zoo(case) as (zoo, folder):
        executor = Measuring(seed, case, budget_of(case, zoo))
        if case.before:
            executor = Measuring(seed, case, Budget(case.workers, 2**33))
            run_comparison(zoo, folder / "c.zarr", make_parameters(**case.options | {"measures": case.before}))
        run_comparison(zoo, folder / "c.zarr", make_parameters(**case.options), executor=executor)
    return executor.found


def prepare() -> None:
    """Import and touch what any plan needs: it belongs to the process, not to the task that is first."""
    measure(-1, WARM)
    # Where Numba is there, what it compiles.
    singular_values_abreast(np.zeros((LEAST_PAIRS, 2, 2)))


def touch_buffers() -> None:
    """Have BLAS touch the buffers that it keeps, into which it copies what it multiplies, up to the widest product.

    NumPy's and SciPy's, in each process: a process that was forked begins with new ones. The one for the wide side is
    filled where the other side has more rows than are copied at a time; the one for the other side by few columns.
    """
    for dtype in (np.float64, np.float32):
        gemm, wide = scipy.linalg.blas.get_blas_funcs("gemm", dtype=dtype), np.ones((600, 8192), dtype)
        for product in (np.matmul, partial(gemm, 1.0)):
            product(wide[:, :600], wide)
            product(wide.T, wide[:, :32])


def measure_apart(seed: str, case: Case) -> None:
    """Measure the tasks of a plan in a process of its own, and print them.

    A process of its own, since the room that plans before it left within the heap is used again, in other pieces that
    do not go back: what is resident would be more than what is held, by what those plans happened to leave.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"the plan {seed!r} was not measured: see above")
        return
    touch_buffers()
    sys.stdout.write(json.dumps([vars(one) for one in measure(seed, case)]) + "\n")
    sys.exit()


def main() -> None:
    """Measure the plans of some seeds."""
    scale, *seeds = sys.argv[1:]
    prepare()
    gc.collect()
    # What is there by now need not be looked through before every task.
    gc.freeze()
    for seed in seeds:
        named = {**NAMED, **PATCHED}
        measure_apart(seed, named[seed] if seed in named else random_case(int(seed), float(scale)))


if __name__ == "__main__":
    main()
