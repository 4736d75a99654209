"""Options of questions: numbers that are numbers."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from dask_svcca.errors import InvalidQuestionError


def check_count(name: str, value: Any, what: str, otherwise: str = "") -> None:
    """Refuse what is not a whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise InvalidQuestionError(f"{name} is {what}, at least 1{otherwise}; got {value!r}")


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number: neither text nor a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number: neither text nor a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)
