"""Names chosen by patterns: one rule for layers, models and checkpoints, in Python and on the command line."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["RULE", "matches", "matching"]

RULE = "* for one level (text without dots and slashes), ** for any text, ? for one character of a level"
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
    every = list(dict.fromkeys([*given, *(part.strip() for text in given for part in text.split(","))]))
    return [name for name in names if any(matches(name, pattern) for pattern in every)]


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
