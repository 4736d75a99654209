"""The page with its numbers in one file: it asks nothing of any server, and opens from a disk."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.selection import places_of
from dask_svcca.errors import DaskSvccaError, InvalidQuestionError
from dask_svcca.explore.analyses import ANALYSES
from dask_svcca.explore.data import Explored
from dask_svcca.explore.page import MODULES, page_file
from dask_svcca.variables import ESTIMATE_ERROR, PAIR_STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from dask_svcca.stores._io import StoreLike

    IntVector = npt.NDArray[np.int64]

MOST_BYTES: Final = 6_000_000
ROOM: Final = 5_400_000
"""Bytes for the numbers; the rest is for names and the page itself."""

ALPHABET: Final = "".join(chr(sign) for sign in range(33, 127) if chr(sign) not in '"&<\\')
"""Digits of numbers; none of them means anything in HTML or in a string."""

DIGITS: Final = 5
"""Signs of a number in single precision: 90**5 is more than 2**32."""

MOST_MODELS: Final = 12
"""Models whose training a report draws, at most."""

POLICY: Final = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a report has.

    Attributes
    ----------
    size : int
        Bytes.
    representations, available : int
        How many it has, of how many that were asked for.
    measures : tuple of str
    left_out : tuple of str
        Measures for which there was no room.
    """

    size: int
    representations: int
    available: int
    measures: tuple[str, ...]
    left_out: tuple[str, ...]


def write_report(
    comparison: StoreLike,
    file: Path,
    *,
    where: Mapping[str, Any] | None = None,
    measures: Sequence[str] | None = None,
) -> Report:
    """Write the page for some representations of a comparison, with their numbers, into one file.

    Parameters
    ----------
    comparison : path, zarr store, or URL
    file : Path
    where : mapping, optional
        Which representations: see `dask_svcca.analysis.selection.places_of`. Default: all. Where they are too many for
        6 MB, checkpoints are left out: the first and the last of each model stay, and those between are spread as the
        logarithms of their steps are.
    measures : sequence of str, optional
        Default: as many as there is room for, in the order in which they were asked for.

    Raises
    ------
    UnknownMeasureError
        Where the comparison lacks a measure that was asked for.
    InvalidQuestionError
        Where 6 MB have no room for the final checkpoints alone, or for the measures that were asked for.
    """
    explored = Explored(comparison, cached=False)
    try:
        asked = np.asarray(places_of(explored.dataset, "a", where), dtype=np.int64)
        for name in measures or ():
            explored.check_measure(name)
        first = list(measures or explored.measures[:1])
        places = _thinned(explored, asked, _variables(explored, first))
        text, taken = _page(explored, places, first, () if measures else explored.measures[1:], len(asked))
    finally:
        explored.close()
    file.write_bytes(text)
    left_out = () if measures else tuple(name for name in explored.measures if name not in taken)
    return Report(len(text), len(places), len(asked), taken, left_out)


def _variables(explored: Explored, measures: Sequence[str]) -> list[str]:
    """Measures, what chance gives for each, and estimates of it."""
    names: dict[str, None] = {}
    for measure in measures:
        estimate = explored.estimate_of(measure)
        estimates = (estimate, ESTIMATE_ERROR.name) if estimate else ()
        names |= dict.fromkeys(filter(None, (measure, explored.null_of(measure), *estimates)))
    return list(names)


def _bytes(count: int, explored: Explored, names: Sequence[str]) -> int:
    """Bytes that variables of some representations take, with the status of pairs."""
    shares = (0.5 if explored.dataset[name].attrs.get("symmetric", True) else 1.0 for name in names)
    return int(count**2 * (1 + DIGITS * sum(shares)))


def _thinned(explored: Explored, places: IntVector, names: Sequence[str]) -> IntVector:
    """As many checkpoints of each model as there is room for."""
    if _bytes(len(places), explored, names) <= ROOM:
        return places
    columns = {name: explored.columns[name][places] for name in ("model", "checkpoint", "step")}
    checkpoints: dict[str, dict[str, float]] = {}
    for model, checkpoint, step in zip(*columns.values(), strict=True):
        checkpoints.setdefault(str(model), {}).setdefault(str(checkpoint), float(step))
    for kept in range(max(map(len, checkpoints.values())), 0, -1):
        chosen = {(model, one) for model, steps in checkpoints.items() for one in _spread(steps, kept)}
        inside = [
            pair in chosen for pair in zip(map(str, columns["model"]), map(str, columns["checkpoint"]), strict=True)
        ]
        if _bytes(sum(inside), explored, names) <= ROOM:
            return np.asarray(places[np.array(inside)])
    raise InvalidQuestionError(
        f"a report of less than {MOST_BYTES / 1e6:.0f} MB has no room for one checkpoint of each of the "
        f"{len(checkpoints)} models and {' and '.join(names)}. Choose fewer representations or measures"
    )


def _spread(steps: Mapping[str, float], count: int) -> list[str]:
    """So many checkpoints, from the last to the first, spread as the logarithms of their steps are."""
    names = sorted(steps, key=lambda name: (np.isnan(steps[name]), steps[name]))
    if len(names) <= count:
        return names
    numbers = np.array([steps[name] for name in names])
    places = np.arange(len(names), dtype=float) if np.isnan(numbers).any() else np.log1p(numbers - numbers.min())
    chosen: list[int] = []
    for wanted in np.linspace(places[-1], places[0], count):
        free = [at for at in range(len(names)) if at not in chosen]
        chosen.append(min(free, key=lambda at: abs(places[at] - wanted)))
    return [names[at] for at in sorted(chosen)]


def _page(
    explored: Explored, places: IntVector, first: Sequence[str], more: Sequence[str], available: int
) -> tuple[bytes, tuple[str, ...]]:
    """The file, and the measures in it: the first ones, and of the rest what there is room for."""
    status = explored.read(PAIR_STATUS.name, places, places)
    texts: dict[str, dict[str, Any]] = {
        PAIR_STATUS.name: {"text": "".join(map(str, status.ravel().tolist())), "symmetric": False}
    }
    taken: list[str] = []
    for measure in (*first, *more):
        names = [name for name in _variables(explored, [measure]) if name not in texts]
        made = {name: _encoded(explored.read(name, places, places)) for name in names}
        if sum(len(one["text"]) for one in (*texts.values(), *made.values())) <= ROOM:
            texts |= made
            taken.append(measure)
        elif measure in first:
            raise InvalidQuestionError(
                f"a report of less than {MOST_BYTES / 1e6:.0f} MB has no room for {measure!r} of {len(places)} "
                f"representations beside {', '.join(taken) or 'the status of pairs'}. Choose fewer of them"
            )
    meta = explored.meta(places)
    meta["measures"] = [one for one in meta["measures"] if one["name"] in taken]
    meta["comparisons"] = [meta["name"]]
    meta["note"] = f"A report of {len(places)} of {available} representations, in single precision."
    head = {
        "meta": meta,
        "alphabet": ALPHABET,
        "analyses": {},
        "symmetric": {name: one["symmetric"] for name, one in texts.items()},
    }
    numbers = {name: one["text"] for name, one in texts.items()}
    head["analyses"] = found = _analyses(explored, meta, taken, MOST_BYTES - 1 - len(_assembled(head, numbers)))
    meta["labels"] = [one for one in meta["labels"] if any(json.loads(key)[:2] == ["classes", one] for key in found)]
    return _assembled(head, numbers), tuple(taken)


def _analyses(explored: Explored, meta: Mapping[str, Any], measures: Sequence[str], room: int) -> dict[str, Any]:
    """What the panes of a model show, by what they are asked.

    What cannot be said of a model, and what there is no room for, is left out.
    """
    models = meta["names"]["model"][:MOST_MODELS]
    asked = itertools.chain(
        itertools.product(("classes",), meta["labels"], models),
        itertools.product(("settling", "phases"), measures, models),
    )
    found = {}
    for name, of, model in asked:
        try:
            made = ANALYSES[name](explored, of, model)
        except DaskSvccaError:
            continue
        key = json.dumps([name, of, model], ensure_ascii=False, separators=(",", ":"))
        # As `_assembled` writes it, where some signs take six.
        size = len(_as_data({key: made})) + 2
        if size <= room:
            found[key] = made
            room -= size
    return found


def _encoded(matrix: npt.NDArray[np.float64]) -> dict[str, Any]:
    """A matrix in single precision, five signs a number; above the diagonal alone where it is symmetric."""
    symmetric = np.array_equal(matrix, matrix.T, equal_nan=True)
    values = matrix[np.triu_indices(len(matrix))] if symmetric else matrix.ravel()
    numbers = np.where(np.isnan(values), np.nan, values).astype("<f4").view("<u4").astype(np.int64)
    signs = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    digits = np.empty((len(numbers), DIGITS), dtype=np.uint8)
    for digit in reversed(range(DIGITS)):
        numbers, rest = np.divmod(numbers, len(ALPHABET))
        digits[:, digit] = signs[rest]
    return {"text": digits.tobytes().decode(), "symmetric": symmetric}


def _assembled(head: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    """The files of the page and its numbers as one file, which is allowed to run its own script and nothing else."""
    script, style = _bundle(), page_file("explore.css").decode()
    policy = POLICY.format(script=_digest(script), style=_digest(style))
    blocks = [f'<script type="application/json" id="embedded">{_as_data(head)}</script>']
    blocks += [
        f'<script type="text/plain" data-name="{html.escape(name, quote=True)}">{text}</script>'
        for name, text in texts.items()
    ]
    page = page_file("index.html").decode()
    page = page.replace(
        '<meta charset="utf-8">',
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
    )
    page = page.replace('<link rel="stylesheet" href="explore.css">', f"<style>{style}</style>")
    page = page.replace('<script type="module" src="explore.js"></script>', "")
    made = page.replace("</body>", "\n".join([*blocks, f'<script type="module">{script}</script>', "</body>"])).encode()
    if len(made) >= MOST_BYTES:
        raise InvalidQuestionError(
            f"the report would have {len(made) / 1e6:.1f} MB, and {MOST_BYTES / 1e6:.0f} MB are the most: names of "
            f"{head['meta']['count']} representations are long. Choose fewer of them"
        )
    return made


def _as_data(value: Any) -> str:
    """JSON within a script element, where only "<" could be more than text."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _bundle() -> str:
    """All modules as one: each after those that it imports from."""
    texts = (page_file(name).decode() for name in MODULES)
    return "\n".join(re.sub(r"^(import .*\n|export )", "", text, flags=re.MULTILINE) for text in texts)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
