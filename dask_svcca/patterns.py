"""Names chosen by patterns: one rule for layers, models and checkpoints, in Python and on the command line."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["RULE", "matched", "matches", "matching", "unmatched"]

RULE = (
    "* for one level (text without dots and slashes), ** for any text, ? for one character of a level, [12] for 1 or 2"
)
"""The rule in words, for the help of options and for messages."""

_SPECIAL = re.compile(r"(\*\*+|\*|\?|\[!?\]?[^\]]*\])")


def matches(name: str, pattern: str) -> bool:
    """Whether a name is what a pattern says.

    Parameters
    ----------
    name : str
    pattern : str
        ``*`` stands for one level of a name: text, or none, without dots and slashes. ``**`` stands for any text, or
        none, ``?`` for one character of a level, ``[abc]`` and ``[a-c]`` for one of some characters and ``[!abc]`` for
        one of the others. A name matches itself, whatever characters it has.

    Examples
    --------
    >>> matches("blocks.10", "blocks.*"), matches("blocks.10.conv1", "blocks.*"), matches("blocks.10", "blocks.?")
    (True, False, False)
    >>> matches("blocks.10.conv1", "blocks.**"), matches("blocks.10.conv1", "**conv?"), matches("conv[1]", "conv[1]")
    (True, True, True)
    """
    return name == pattern or _compiled(pattern).fullmatch(name) is not None


def matching(names: Iterable[str], patterns: str | Sequence[str]) -> list[str]:
    """Names that match any of some patterns.

    Parameters
    ----------
    names : iterable of str
    patterns : str or sequence of str
        See `matches`. One text may hold several, separated by commas.

    Returns
    -------
    list of str
        In the order of ``names``.

    Examples
    --------
    >>> matching(["conv1", "block1.conv1", "block1.relu", "fc"], "*.conv?, fc")
    ['block1.conv1', 'fc']
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    every = list(dict.fromkeys([*given, *(part for text in given for part in _parts(text))]))
    return [name for name in names if any(matches(name, pattern) for pattern in every)]


def unmatched(names: Iterable[str], patterns: str | Sequence[str]) -> list[str]:
    """Patterns that match none of some names: most likely misspelled, where others match.

    Parameters
    ----------
    names : iterable of str
    patterns : str or sequence of str
        As for `matching`. A text with commas is not split where it matches as a whole.

    Examples
    --------
    >>> unmatched(["conv1", "relu1", "a,b"], "conv*, rleu1"), unmatched(["conv1", "a,b"], ["conv?", "a,b"])
    (['rleu1'], [])
    """
    return [part for part, found in _judged(names, patterns) if not found]


def matched(names: Iterable[str], patterns: str | Sequence[str]) -> list[str]:
    """Patterns that match some names: all but those of `unmatched`.

    Examples
    --------
    >>> matched(["conv1", "relu1", "a,b"], "conv*, rleu1"), matched(["conv1", "a,b"], ["conv?", "a,b"])
    (['conv*'], ['conv?', 'a,b'])
    """
    return [part for part, found in _judged(names, patterns) if found]


def _judged(names: Iterable[str], patterns: str | Sequence[str]) -> list[tuple[str, bool]]:
    names, given = list(names), [patterns] if isinstance(patterns, str) else list(patterns)
    parts: dict[str, bool] = {}
    for text in given:
        whole = any(matches(name, text) for name in names)
        for part in [text] if whole else _parts(text):
            parts[part] = any(matches(name, part) for name in names)
    return [(part, found) for part, found in parts.items() if part]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_expression(piece) for piece in _SPECIAL.split(pattern)), re.DOTALL)


def _expression(piece: str) -> str:
    if piece.startswith("**"):
        return ".*"
    if piece == "*":
        return "[^./]*"
    if piece == "?":
        return "[^./]"
    if piece.startswith("[") and _SPECIAL.fullmatch(piece):
        negated = piece.startswith("[!")
        characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", piece[1 + negated : -1])
        expression = f"[{'^' if negated else ''}{characters}]"
        try:
            re.compile(expression)
        except re.error:
            # A range from back to front holds no character.
            return "(?!)"
        return expression
    return re.escape(piece)
