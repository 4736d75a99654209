"""What checkpoints are called: from the paths of their files, or as a pattern says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file, and what its activations are called in a zoo."""

    path: str
    model: str
    checkpoint: str
    step: int | None


def name_checkpoints(
    model_paths: Iterable[str | os.PathLike[str]],
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    pattern: str | None = None,
) -> list[Checkpoint]:
    """Names for model files: the model is the file's folder, the checkpoint its stem, the step the number in it.

    Parameters
    ----------
    model_paths : iterable of paths
    model, checkpoint : str, optional
        Names instead of the folder and the stem.
    pattern : str, optional
        How the end of a path spells names, such as ``"{model}-epoch{step}"``: ``{model}`` and ``{checkpoint}`` stand
        for text within one part of the path, ``{step}`` for a number. The file's suffix may be left out.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    CaptureError
        Where two files would have the same name, or two checkpoints of a model the same step; where a path does not
        follow the pattern.

    Examples
    --------
    >>> name_checkpoints(["zoo/resnet-s0/step00100.onnx"])
    [Checkpoint(path='zoo/resnet-s0/step00100.onnx', model='resnet-s0', checkpoint='step00100', step=100)]
    >>> name_checkpoints(["zoo/vit-7.onnx"], pattern="{model}-{step}")
    [Checkpoint(path='zoo/vit-7.onnx', model='vit', checkpoint='vit-7', step=7)]
    """
    named: list[Checkpoint] = []
    taken: dict[tuple[str, str, str | int], str] = {}
    for path in model_paths:
        spelled = {} if pattern is None else _spelled(Path(path).absolute(), pattern)
        owner = model or spelled.get("model") or Path(path).absolute().parent.name
        name = checkpoint or spelled.get("checkpoint") or Path(path).stem
        # Among several numbers, as in "resnet18-step200-acc97", the one that follows the word.
        numbers = re.findall(r"(?:step|iter|epoch)\D?(\d+)", name) or re.findall(r"\d+", name)
        digits = spelled.get("step") or (numbers[-1] if numbers else None)
        step = None if digits is None else int(digits)
        for kind, key in (("checkpoint", name), ("step", step)):
            if key is None:
                continue
            if (owner, kind, key) in taken:
                raise CaptureError(
                    f"{taken[owner, kind, key]!r} and {str(path)!r} would both be {kind} {key!r} of model {owner!r}. "
                    f"Rename one, keep the models in folders of their own, or capture them one by one under names you "
                    f"give"
                )
            taken[owner, kind, key] = str(path)
        named.append(Checkpoint(str(path), owner, name, step))
    return named


def _spelled(path: Path, pattern: str) -> dict[str, str]:
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
    match = re.search(rf"(?:^|/){expression}(?:{re.escape(path.suffix)})?$", path.as_posix())
    if match is None:
        raise CaptureError(f"{str(path)!r} does not end as {pattern!r} says. Change the pattern, or leave the file out")
    return match.groupdict()
