"""What checkpoints are called: from the paths of their files, or as a pattern says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

_NUMBER = r"(?P<step>\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?(?:[eE]\+?\d+)?)"
_SEPARATORS = r"[^A-Za-z0-9]{0,3}"
STEP = re.compile(
    # "Jupiter5" is not an iteration; "netStep5" is a step.
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:(?:global_?)?(?:step|epoch|iter(?:ation)?|ckpt|checkpoint))"
    rf"{_SEPARATORS}{_NUMBER}(?P<unit>[kKM]?)(?![A-Za-z0-9]|,\d)"
)
"""A training step in a name: a number behind one of a few words."""

METRIC = re.compile(
    r"[^A-Za-z0-9]+(?i:(?:(?:val|valid|validation|test|train|dev|eval)[^A-Za-z0-9]?)?(?:acc(?:uracy)?|auc|bleu|cer|"
    r"err(?:or)?|f1|iou|loss|mae|map|miou|mse|nll|perplexity|ppl|psnr|reward|rmse|rouge|score|ssim|top[15]|wer))"
    r"[^A-Za-z0-9]{0,2}\d+\.\d+(?:[eE][-+]?\d+)?(?![A-Za-z0-9])"
)
"""How well a checkpoint did, behind its step: part of its name, and not of the model's."""

_UNCLEAR = re.compile(r"(?:[_' ]\d{3})+(?![A-Za-z0-9])|[^A-Za-z0-9]+\d+\.\d+(?![A-Za-z0-9])")
"""What behind a step may belong to its number, or not to the model."""

_THOUSANDS = re.compile(r"[1-9]\d{0,2}\.\d{3}")

UNITS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}

FINE = re.compile(r"(?i:step|iter)")
"""Where a name has several numbers, such as an epoch and a step, these order checkpoints."""

ANY_MODEL = frozenset({"model"})
STAGES = frozenset({"best", "final", "init", "initial", "last", "latest"})
"""Names of files that say nothing of the model: its name is that of the folder."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file, and what its activations are called in a zoo."""

    path: str
    model: str
    checkpoint: str
    step: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """Where a name says a step: the text that says it, what is before and behind it, and the number and its digits."""

    text: str
    before: str
    behind: str
    number: float
    digits: str

    @property
    def rest(self) -> str:
        """What is left of the name without it."""
        return _joined(self.before, self.behind)


def name_checkpoints(
    model_paths: Iterable[str | os.PathLike[str]],
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    pattern: str | None = None,
    step_pattern: str | None = None,
) -> list[Checkpoint]:
    r"""Names for model files.

    A number in a file's name is the training step only behind ``step``, ``epoch``, ``iter``, ``ckpt`` or
    ``checkpoint``. Files that differ in anything else are models of their own: the rest of the name is the model, or
    the folder where there is no rest. How well a checkpoint did, ``acc0.91`` behind the step, belongs to its own name.

    Parameters
    ----------
    model_paths : iterable of paths
    model, checkpoint : str, optional
        Names instead of these.
    pattern : str, optional
        How the end of a path spells names, such as ``"{model}-epoch{step}"``: ``{model}`` and ``{checkpoint}`` stand
        for text within one part of the path, ``{step}`` for a number. The file's suffix may be left out.
    step_pattern : str, optional
        Regular expression that finds the step in a file's name without its suffix, or else in its folder's: its first
        group, or all that it matches, is the number. The words above then mean nothing.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    CaptureError
        Where two files would have the same name, or two checkpoints of a model the same step; where a path does not
        follow the pattern, or no path the ``step_pattern``; where it is not clear which numbers are the step's, as in
        ``step1_000``, or the model's, as where one behind the step is another in each file; or whether files of one
        name in several folders are of one model.

    Examples
    --------
    >>> def names(*paths, **options):
    ...     return [(one.model, one.checkpoint, one.step) for one in name_checkpoints(paths, **options)]
    >>> names("zoo/vgg16.onnx", "zoo/resnet18.onnx")
    [('vgg16', 'vgg16', None), ('resnet18', 'resnet18', None)]
    >>> names("resnet-s0/step00100.onnx", "zoo/resnet50-epoch3.onnx", "bert/checkpoint-500/model.onnx")
    [('resnet-s0', 'step00100', 100), ('resnet50', 'epoch3', 3), ('bert', 'checkpoint-500', 500)]

    The same name in several folders is a model in each:

    >>> names("seed0/net-step1.onnx", "seed1/net-step1.onnx")
    [('seed0-net', 'step1', 1), ('seed1-net', 'step1', 1)]
    >>> names("zoo/vit-7.onnx", pattern="{model}-{step}"), names("zoo/vit-7.onnx", step_pattern=r"(\d+)$")
    ([('vit', 'vit-7', 7)], [('vit', '7', 7)])
    """
    paths = [Path(path) for path in model_paths]
    expression = STEP if step_pattern is None else _step_expression(step_pattern)
    named: list[Checkpoint] = []
    spells_model = model is not None
    for path in paths:
        spelled = {} if pattern is None else _spelled(path.absolute(), pattern)
        found = _by_path(path.absolute(), expression, named_otherwise=bool(model or spelled))
        spells_model = spells_model or "model" in spelled
        owner, name = model or spelled.get("model", found.model), checkpoint or spelled.get("checkpoint")
        said = None if name is None else _find_step(name, expression)
        step = _number(spelled["step"]) if "step" in spelled else said.number if said else found.step
        named.append(Checkpoint(str(path), owner, name or found.checkpoint, step))
        if step_pattern is None and "step" not in spelled:
            _refuse_unclear(path.absolute())
    if step_pattern is not None and named and all(one.step is None for one in named):
        raise CaptureError(
            f"the step pattern {step_pattern!r} finds no number in {named[0].path!r}"
            + (f", nor in the {len(named) - 1:,} other files" if len(named) > 1 else "")
            + r". It is searched for in a file's name without its suffix, then in its folder's; as in '_(\d+)$'"
        )
    if not spells_model:
        _refuse_changing(named, expression)
        named = _told_apart(named)
        _refuse_merged(named, expression)
    _refuse_duplicates(named)
    return named


def _by_path(path: Path, expression: re.Pattern[str], *, named_otherwise: bool) -> Checkpoint:
    """Model, checkpoint and step as a path says them."""
    stem, folder, above = _stem(path), path.parent.name, path.parent.parent.name
    found, inside = _step_of(path, expression)
    if found and inside:
        rest, place = found.rest, folder
    elif found:
        # As trainers save them: run/checkpoint-500/model.onnx.
        rest = _joined(found.rest, "" if stem.lower() in ANY_MODEL | STAGES else stem)
        place = above
    else:
        rest = "" if stem.lower() in STAGES else stem
        place = folder
    if rest.lower() in ANY_MODEL:
        rest = ""
    # A date or a version alone, and "best" beside a step, are not names of models.
    if re.fullmatch(r"v?[\d\W_]*", rest) or rest.lower() in STAGES:
        rest = _joined(place, rest)
    # Under a name that is given, the file's own tells checkpoints apart.
    text = stem if found is None or named_otherwise else found.text
    return Checkpoint(str(path), rest or place or stem, text, found.number if found else None)


def _step_of(path: Path, expression: re.Pattern[str]) -> tuple[_Step | None, bool]:
    """The step that a path says, and whether the file's name says it, and not that of its folder."""
    if found := _find_step(_stem(path), expression):
        return found, True
    return _find_step(path.parent.name, expression), False


def _stem(path: Path) -> str:
    """Name of a file without its suffix, which is there twice where a tool has added it again."""
    stem = path.stem
    while Path(stem).suffix.lower() == ".onnx":
        stem = Path(stem).stem
    return stem


def _find_step(name: str, expression: re.Pattern[str]) -> _Step | None:
    matches = list(expression.finditer(name))
    if expression is not STEP:
        matches = matches[:1]
    if not matches:
        return None
    chosen = next((match for match in reversed(matches) if FINE.search(match.group())), matches[-1])
    groups = chosen.groupdict()
    digits = groups["step"] if "step" in groups else chosen.group(1 if chosen.re.groups else 0)
    if expression is STEP:
        # Commas between thousands, and nowhere else.
        digits = digits.replace(",", "")
    number = _number(digits, expression.pattern) * UNITS[groups.get("unit") or ""]
    pieces, last = [], 0
    for match in matches:
        pieces.append(name[last : match.start()])
        last = match.end()
    if expression is STEP:
        while metric := METRIC.match(name, last):
            last = metric.end()
    text = name[matches[0].start() : last].strip("-_. ")
    return _Step(text or name, _joined(*pieces), name[last:], number, chosen.group())


def _joined(*parts: str) -> str:
    """Parts of a name without the separators that were between them."""
    return "-".join(filter(None, (part.strip("-_.=+ ") for part in parts)))


def _number(digits: str | None, pattern: str = "") -> float:
    try:
        value = float(digits or "")
    except ValueError:
        raise CaptureError(
            f"the step pattern {pattern!r} finds {digits!r}, which is not a number. Its first group, or all that it "
            rf"matches, is the step; as in '_(\d+)$'"
        ) from None
    return int(value) if value.is_integer() else value


def _step_expression(step_pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(step_pattern)
    except re.error as error:
        raise CaptureError(f"the step pattern {step_pattern!r} is not a valid regular expression: {error}") from error


def _told_apart(named: list[Checkpoint]) -> list[Checkpoint]:
    """Models of the same name in several folders, by more of their paths where files would get one name."""
    homes: dict[str, set[Path]] = {}
    twice: Counter[tuple[str, str | float | None]] = Counter(
        (one.model, key) for one in named for key in (one.checkpoint, one.step) if key is not None
    )
    for one in named:
        if max(twice[one.model, one.checkpoint], twice[one.model, one.step]) > 1:
            homes.setdefault(one.model, set()).add(Path(one.path).absolute().parent)
    renamed = []
    for one in named:
        folders = homes.get(one.model, set())
        parent = Path(one.path).absolute().parent
        if len(folders) > 1:
            depth = next(
                depth for depth in range(1, 100) if len({folder.parts[-depth:] for folder in folders}) == len(folders)
            )
            parts = parent.parts[-depth:]
            one = replace(one, model=_joined(*(parts[:-1] if parts[-1] == one.model else parts), one.model))  # noqa: PLW2901
        renamed.append(one)
    return renamed


def _refuse_unclear(path: Path) -> None:
    """Refuse a step of which it is not clear where its number ends."""
    found, _ = _step_of(path, STEP)
    if found is None:
        return
    unclear = _UNCLEAR.match(found.behind)
    if not unclear and not _THOUSANDS.search(found.digits):
        return
    number = f"{found.digits}{unclear.group() if unclear else ''}"
    raise CaptureError(
        f"{str(path)!r} may have all of {number!r} for its step, or a part of it. Say how paths spell names, with a "
        f"pattern such as '{{model}}_epoch{{step}}_{{checkpoint}}' (--name), or which text is the number, with a "
        rf"step pattern such as 'step([\d_]+)' (--step-pattern)"
    )


def _refuse_changing(named: Sequence[Checkpoint], expression: re.Pattern[str]) -> None:
    """Refuse models that are told apart by nothing but a number that is another for every step."""
    groups: dict[tuple[Path, str], list[Checkpoint]] = {}
    for one in named:
        path = Path(one.path).absolute()
        found, _ = _step_of(path, expression)
        if found is not None:
            masked = _joined(re.sub(r"\d+\.\d+", "#", found.before), re.sub(r"\d+", "#", found.behind))
            groups.setdefault((path.parent, masked), []).append(one)
    for group in groups.values():
        if 1 < len(group) == len({one.model for one in group}) == len({one.step for one in group}):
            first, second = group[:2]
            raise CaptureError(
                f"{first.path!r} and {second.path!r} would be models of their own, {first.model!r} and "
                f"{second.model!r}, each with one step, since another number differs too. Say how paths spell names, "
                f"with a pattern such as '{{model}}_epoch{{step}}_{{checkpoint}}' (--name), or name the model "
                f"(--model)"
            )


def _refuse_merged(named: Sequence[Checkpoint], expression: re.Pattern[str]) -> None:
    """Refuse files of one name from several folders: they may be of one model, or each of its own."""
    homes: dict[str, tuple[Path, str]] = {}
    for one in named:
        path = Path(one.path).absolute()
        found, inside = _step_of(path, expression)
        home = path.parent.parent if found is not None and not inside else path.parent
        other, known = homes.setdefault(one.model, (home, one.path))
        if other != home:
            raise CaptureError(
                f"{known!r} and {one.path!r} would both be of model {one.model!r}, and are in different folders. Name "
                f"the model of them all (--model), or say how paths spell names, with a pattern such as "
                f"'{{model}}/{{checkpoint}}' (--name)"
            )


def _refuse_duplicates(named: Iterable[Checkpoint]) -> None:
    taken: dict[tuple[str, str, str | float], str] = {}
    for one in named:
        for kind, key in (("checkpoint", one.checkpoint), ("step", one.step)):
            if key is None:
                continue
            if (one.model, kind, key) in taken:
                raise CaptureError(
                    f"{taken[one.model, kind, key]!r} and {one.path!r} would both be {kind} {key!r} of model "
                    f"{one.model!r}. Rename one, say how paths spell names with a pattern such as "
                    f"'{{model}}/epoch{{step}}', or capture them one by one under names you give"
                )
            taken[one.model, kind, key] = one.path


def _spelled(path: Path, pattern: str) -> Mapping[str, str]:
    """Parts of a path that the fields of a pattern stand for."""
    fields = {"{model}": "(?P<model>[^/]+)", "{checkpoint}": "(?P<checkpoint>[^/]+)", "{step}": r"(?P<step>\d+)"}
    pieces = re.split(r"(\{[^}]*\})", pattern)
    used = pieces[1::2]
    if not used or set(used) - fields.keys() or len(set(used)) < len(used):
        raise CaptureError(
            f"{pattern!r} is not a valid pattern of names: it must have some of {{model}}, {{checkpoint}} and "
            f"{{step}}, each once, as in '{{model}}/epoch{{step}}'"
        )
    expression = "".join(fields.get(piece) or re.escape(piece) for piece in pieces)
    # A field at the end does not stand for the suffix.
    ends = (path.with_suffix("").as_posix(), path.as_posix())
    match = next(filter(None, (re.search(rf"(?:^|/){expression}$", end) for end in ends)), None)
    if match is None:
        raise CaptureError(f"{str(path)!r} does not end as {pattern!r} says. Change the pattern, or leave the file out")
    return match.groupdict()
