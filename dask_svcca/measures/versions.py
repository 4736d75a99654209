"""Versions of measures of the user's own: a digest of what they compute, the same in every process.

Functions count by the syntax tree of their source, so comments, formatting, docstrings and annotations make no
difference; where there is no source, by their compiled code. The values that they use count too: defaults,
closures, arguments of `functools.partial`, constants of their module, and the functions and classes of that module that
they call, with what these use in turn. What is imported from other modules counts by its name.
"""

from __future__ import annotations

import ast
import dis
import linecache
import re
import warnings
from dataclasses import fields
from enum import Enum
from functools import cached_property, lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_svcca.measures.record import Measure

NOT_COMPUTED: Final = frozenset(
    {
        "name",
        "description",
        "invariances",
        "reference",
        "companions",
        "null",
        "null_sd",
        "p_value",
        "calibrated",
        "looks_at",
        "readings",
        "version",
    }
)
"""Fields that describe a measure and have no part in its values."""

_FUNCTIONS: Final = frozenset({"sums", "value", "own"})

_LOOK_UPS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})

_ATOMS: Final = frozenset({bool, int, float, complex, str, bytes, slice, range})

_PARTS: Final[dict[type, tuple[str, ...]]] = {
    Enum: ("name", "value"),
    ModuleType: ("__name__",),
    partial: ("func", "args", "keywords"),
    MethodType: ("__self__", "__func__"),
    property: ("fget",),
    cached_property: ("func",),
    np.vectorize: ("pyfunc", "signature"),
}
"""Kinds of values that are made of others."""

_CHANGING: Final = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)
"""Kinds of values whose contents change as they are used, so that only their type counts."""

NOT_COMPILED: Final = frozenset({"annotation", "returns", "type_comment", "type_params", "ctx", "kind"})
"""Fields of a syntax tree that have no part in what it computes."""


_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def version_of(measure: Measure) -> str:
    """Digest of all that decides the values of a measure, as it stands now.

    Parameters
    ----------
    measure : Measure

    Returns
    -------
    str
        32 hexadecimal digits: xxh3-128 of its functions, see the module, and of its options other than the
        defaults.

    Examples
    --------
    >>> from dask_svcca.measures.record import Measure
    >>> def squares(pairs):
    ...     return (pairs.correlations**2).sum(axis=-1)
    >>> def reworded(pairs):
    ...     return (pairs.correlations**2).sum(axis=-1)  # the same
    >>> def cubes(pairs):
    ...     return (pairs.correlations**3).sum(axis=-1)
    >>> first, same, other = (version_of(Measure("mine", "...", sums)) for sums in (squares, reworded, cubes))
    >>> first == same, first == other
    (True, False)
    """
    chosen = {
        field.name: getattr(measure, field.name)
        for field in fields(measure)
        if field.name not in NOT_COMPUTED and getattr(measure, field.name) != field.default
    }
    return _digest(_Reader(homes(measure)).read(chosen))


def homes(measure: Measure) -> frozenset[str]:
    """Names of the modules that a measure's own functions are from, without the defaults of this package.

    Examples
    --------
    >>> from dask_svcca.measures.record import Measure
    >>> homes(Measure("mine", "...", np.linalg.norm))
    frozenset({'numpy.linalg'})
    """
    given = {field.default: getattr(measure, field.name) for field in fields(measure) if field.name in _FUNCTIONS}
    return frozenset(_home(function) for usual, function in given.items() if function is not usual)


def _digest(value: object) -> str:
    return xxhash.xxh3_128_hexdigest(value if isinstance(value, bytes) else repr(value).encode())


def _home(function: Callable[..., Any]) -> str:
    """Name of the module that a function given to a measure is from."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", type(function).__module__))


class _Reader:
    """Describes values and functions in words that are equal where these compute the same.

    Parameters
    ----------
    homes : frozenset of str
        Modules whose functions and classes count by their content.
    """

    def __init__(self, homes: frozenset[str]) -> None:
        self._homes = homes
        # With the values themselves: an address is good for telling objects apart only while they live.
        self._known: dict[int, tuple[object, str]] = {}
        self._open: list[int] = []

    def read(self, value: object) -> object:
        """Description of a value, in strings and tuples of strings."""
        if value is None or type(value) in _ATOMS:
            return type(value).__name__, repr(value)
        # A function may call itself, and be called by many others.
        if id(value) in self._open:
            return "again", str(self._open.index(id(value)))
        if id(value) not in self._known:
            self._open.append(id(value))
            self._known[id(value)] = value, _digest(self._content(value))
            self._open.pop()
        return self._known[id(value)][1]

    def _content(self, value: object) -> object:
        if isinstance(value, FunctionType | type):
            if not self._counts(value):
                return self._named(value)
            return self._function(value) if isinstance(value, FunctionType) else self._class(value)
        if isinstance(value, list | tuple | dict | set | frozenset | np.ndarray):
            return self._kind(value), self._items(value), self._state(value)
        for kind, parts in _PARTS.items():
            if isinstance(value, kind):
                return self._kind(value), [self.read(getattr(value, part)) for part in parts]
        return self._object(value)

    def _items(self, value: Any) -> object:
        if isinstance(value, np.ndarray):
            content = self.read(value.tolist()) if value.dtype.hasobject else _digest(value.tobytes())
            return repr(value.dtype), value.shape, content
        if isinstance(value, dict):
            return sorted(((self.read(key), self.read(item)) for key, item in value.items()), key=repr)
        items = [self.read(item) for item in value]
        return sorted(items, key=repr) if isinstance(value, set | frozenset) else items

    def _object(self, value: object) -> object:
        if (wrapped := getattr(value, "__wrapped__", None)) is not None:
            return self._named(type(value)), self.read(wrapped)
        if type(value).__module__ in self._homes:
            return self._kind(value), self._value(value), self._state(value)
        if isinstance(value, _CHANGING):
            return self._named(type(value))
        return self._named(type(value)), repr(value) if isinstance(value, np.generic) else self._reduced(value)

    def _reduced(self, value: object) -> object:
        """An object of a class from elsewhere."""
        try:
            # What pickle would store: all that makes the object, however it prints.
            parts = value.__reduce_ex__(4)
        except (TypeError, AttributeError, ValueError):
            # An address differs between processes; then only the type counts.
            text = repr(value)
            return "" if re.search(r" at 0x[0-9a-fA-F]+", text) else text
        if isinstance(parts, str):
            return parts
        return [self.read(list(each) if hasattr(each, "__next__") else each) for each in parts]

    def _kind(self, value: object) -> object:
        """The class of a value: by its content where that counts, by its name otherwise."""
        kind = type(value)
        return self.read(kind) if kind.__module__ in self._homes else self._named(kind)

    def _value(self, value: object) -> str:
        """The number or text that an object of a class of one's own is, if it is one."""
        base = next((kind for kind in type(value).__mro__ if kind in _ATOMS), None)
        return "" if base is None else repr(base(value))

    def _state(self, value: object) -> object:
        """Attributes of an object of a class of one's own."""
        kind = type(value)
        if kind.__module__ not in self._homes and not getattr(value, "__dict__", None):
            return ()
        names = set(getattr(value, "__dict__", ()))
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            names.update((slots,) if isinstance(slots, str) else slots)
        # A cached property may be there or not, and follows from the rest.
        return self.read(
            {
                name: getattr(value, name, None)
                for name in names - {"__dict__", "__weakref__"}
                if not isinstance(getattr(kind, name, None), cached_property)
            }
        )

    def _named(self, value: type | FunctionType) -> str:
        # The same file may be a script here and a module there.
        module = "" if value.__module__ in self._homes else value.__module__
        return f"{module}.{value.__qualname__}"

    def _counts(self, value: FunctionType | type) -> bool:
        """Whether it counts by its content: it is from one of the homes, or nothing can import it by its name."""
        return value.__module__ in self._homes or "<" in value.__qualname__

    def _function(self, function: FunctionType) -> object:
        code = function.__code__
        cells = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not yet bound
                cells[name] = None
        used = {name: function.__globals__[name] for name in _globals(code) if name in function.__globals__}
        defaults = function.__defaults__, function.__kwdefaults__
        return "function", _formula(function) or self._code(code), *map(self.read, (defaults, cells, used))

    def _code(self, code: CodeType) -> object:
        constants = [self._code(each) if isinstance(each, CodeType) else self.read(each) for each in code.co_consts]
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        return "code", code.co_code.hex(), constants, names, code.co_argcount, code.co_kwonlyargcount, code.co_flags

    def _class(self, value: type) -> object:
        # Among names with two underscores only methods count: the others are bookkeeping.
        members = {
            name: member
            for name, member in vars(value).items()
            if not (name.startswith("__") and name.endswith("__"))
            or (isinstance(member, FunctionType) and not name.startswith("__annotate"))
        }
        if issubclass(value, Enum):
            # All else of an enumeration is bookkeeping, and its members say their values.
            members = {name: member for name, member in members.items() if isinstance(member, FunctionType)}
        return "class", [self.read(base) for base in value.__bases__], self.read(members)


def _globals(code: CodeType) -> set[str]:
    """Names that a function looks up in its module, in functions within it too."""
    names = {str(each.argval) for each in dis.get_instructions(code) if each.opname in _LOOK_UPS}
    return names.union(*map(_globals, _inner(code)))


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (each for each in code.co_consts if isinstance(each, CodeType))


_formulas: Final[WeakKeyDictionary[CodeType, object]] = WeakKeyDictionary()
"""Formulas as they were first read: a file may be edited while its functions are still in use."""


def _formula(function: FunctionType) -> object:
    """Arguments and body of a function, from its source; None where that is not available."""
    code = function.__code__
    if code not in _formulas:
        _formulas[code] = _read_formula(code, function.__globals__)
    return _formulas[code]


def _read_formula(code: CodeType, module: dict[str, Any]) -> object:
    linecache.checkcache(code.co_filename)
    try:
        trees, codes = _definitions("".join(linecache.getlines(code.co_filename, module)))
    except (SyntaxError, ValueError):
        return None
    matching = trees.get((code.co_name, code.co_firstlineno), [])
    # Two on one line cannot be told apart, and a file that was edited since is not what was compiled.
    if len(matching) != 1 or code not in codes:
        return None
    body = matching[0].body
    return _plain([matching[0].args, *(body if isinstance(body, list) else [ast.Return(body)])])


@lru_cache(maxsize=8)
def _definitions(source: str) -> tuple[dict[tuple[str, int], list[_Definition]], frozenset[CodeType]]:
    """Functions of a file by name and first line, and the code of all."""
    trees: dict[tuple[str, int], list[_Definition]] = {}
    with warnings.catch_warnings():
        # Python warned about this source when it was first compiled.
        warnings.simplefilter("ignore")
        parsed = ast.parse(source)
        module = compile(parsed, "<measures>", "exec", dont_inherit=True)
    for tree in ast.walk(parsed):
        if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min(each.lineno for each in (tree, *tree.decorator_list))
            trees.setdefault((tree.name, first), []).append(tree)
        elif isinstance(tree, ast.Lambda):
            trees.setdefault(("<lambda>", tree.lineno), []).append(tree)

    def all_of(code: CodeType) -> Iterator[CodeType]:
        yield code
        for inner in _inner(code):
            yield from all_of(inner)

    return trees, frozenset(all_of(module))


def _plain(tree: object) -> object:
    """A syntax tree in nested tuples, alike in all versions of Python, without parts that compute nothing."""
    if isinstance(tree, ast.JoinedStr):
        # Python 3.12 has empty strings among the parts.
        tree = [part for part in tree.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if isinstance(tree, list):
        return tuple(
            _plain(each) for each in tree if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        )
    if not isinstance(tree, ast.AST):
        return type(tree).__name__, repr(tree)
    parts = [
        (name, part) for name, part in ast.iter_fields(tree) if name not in NOT_COMPILED and part not in (None, [])
    ]
    return type(tree).__name__, *((name, _plain(part)) for name, part in parts)
