"""What notebooks show of a zoo or a plan: a title and tables, with every name as text."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_ROWS: Final = 40
"""Rows of a table, at most; how many more there are is said."""

MOST_SIGNS: Final = 200
"""Characters of a cell, at most."""


def page(
    title: str, facts: Iterable[tuple[str, object]], heads: Sequence[str] = (), rows: Sequence[Sequence[object]] = ()
) -> str:
    """HTML with a title, a table of facts, and a table with heads.

    Examples
    --------
    >>> print(page("Zoo <b>", [("examples", 3)]))
    <div><strong>Zoo &lt;b&gt;</strong><table><tbody><tr><th>examples</th><td>3</td></tr></tbody></table></div>
    """
    made = [f"<div><strong>{_text(title)}</strong>", _table((), facts)]
    if rows:
        made.append(_table(heads, rows[:MOST_ROWS]))
    if len(rows) > MOST_ROWS:
        made.append(f"<p>and {len(rows) - MOST_ROWS:,} more</p>")
    return "".join([*made, "</div>"])


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{_text(one)}</th>' for one in heads)}</tr></thead>" if heads else ""
    body = "".join(
        f"<tr><th>{_text(first)}</th>{''.join(f'<td>{_text(one)}</td>' for one in rest)}</tr>" for first, *rest in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    text = str(value)
    return html.escape(text if len(text) <= MOST_SIGNS else f"{text[: MOST_SIGNS - 1]}…")
