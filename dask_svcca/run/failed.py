"""What stands for the result of a task that failed for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

ATTEMPTS: Final = 3
"""How often a task is tried."""

MOST_TEXT: Final = 500
"""Characters of an error that are kept."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What an executor hands over in place of the result of a task that failed for good, or waited for one.

    Attributes
    ----------
    error : Exception
    reason : str
        What happened, after "the task".
    died : bool
        Whether workers died while they ran it: another task of theirs may be to blame.
    """

    error: Exception
    reason: str
    died: bool = False

    @classmethod
    def by(cls, error: Exception) -> Self:
        """Of a task that raised whenever it was tried.

        Examples
        --------
        >>> Failed.by(ValueError("too wide")).reason
        'failed 3 times (ValueError: too wide)'
        """
        said = f"{type(error).__name__}: {error}".strip(": ")
        return cls(error, f"failed {ATTEMPTS} times ({said if len(said) <= MOST_TEXT else said[:MOST_TEXT] + '...'})")
