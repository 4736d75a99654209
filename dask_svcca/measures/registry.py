"""Measures by name: those of this package, families with a parameter, and the user's own."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import cloudpickle

from dask_svcca.errors import (
    InvalidMeasureError,
    MeasureExistsError,
    MeasureModuleError,
    UnknownMeasureError,
    did_you_mean,
)
from dask_svcca.measures import (
    alignment,
    correlations,
    distances,
    matching,
    neighbours,
    nulls,
    references,
    regression,
    shape,
)
from dask_svcca.measures.modules import import_file
from dask_svcca.measures.record import (
    Choices,
    Derived,
    Directions,
    Family,
    Measure,
    Need,
    Positional,
    Role,
    Saturates,
    Sums,
)
from dask_svcca.measures.versions import homes, version_of
from dask_svcca.variables import STORED_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from dask_svcca.measures.relations import Relation

_BUILT_IN: Final[dict[str, Measure]] = {
    measure.name: measure
    for kin in (correlations, alignment, shape, regression, references, nulls, distances, matching)
    for measure in kin.MEASURES
}

DERIVED: Final[dict[str, Derived]] = {derived.name: derived for derived in (*nulls.DERIVED, *distances.DERIVED)}
"""References that are not stored, by name."""

_DERIVED_FAMILIES: Final = {**neighbours.DERIVED_FAMILIES, **distances.DERIVED_FAMILIES}

_FAMILIES: Final[dict[str, Family | Choices]] = {
    family.name: family for kin in (shape, regression, neighbours, distances) for family in kin.FAMILIES
}

_OWN: Final[dict[str, Measure]] = {}
"""Measures of the user's own. Versions are made at each look-up: helpers may be defined after what uses them."""

OPTIONS: Final = frozenset(field.name for field in dataclasses.fields(Measure)) - {
    "name",
    "description",
    "sums",
    "related",
    "most_neurons",
    "takes_sizes",
    "few_values",
    "version",
}
"""Options of `register_measure` beside name and description."""

_WORDS: Final = {
    "directions": get_args(Directions),
    "looks_at": ("couplings", "norms"),
    "role": get_args(Role),
    "saturates": get_args(Saturates),
    "needs": get_args(Need),
    "readings": get_args(Positional),
}
"""Options whose value is one of these words; for those of `_SETS`, a set of them."""

_SETS: Final = frozenset({"needs", "readings"})


class OwnMeasure(Measure):
    """A measure of the user's own, which goes to workers with its functions: they need not have its module."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Otherwise functions would be pickled by the name of their module, which a worker may not have.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with _by_value(sys.modules[home] for home in homes(self) if home in sys.modules):
            return _own_measure, (cloudpickle.dumps(values),)


def _own_measure(values: bytes) -> OwnMeasure:
    return OwnMeasure(**cloudpickle.loads(values))


_pickling: Final = threading.RLock()


@contextlib.contextmanager
def _by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Let cloudpickle take all of some modules by value, and leave its settings as they were."""
    with _pickling:
        mine = [module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
        for module in mine:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in mine:
                cloudpickle.unregister_pickle_by_value(module)


def split_names(text: str) -> list[str]:
    """Names that commas separate; those within brackets are between parameters of a measure.

    Examples
    --------
    >>> split_names("svcca, gulp(lambda=0.1),mine(a=1,b=2)")
    ['svcca', 'gulp(lambda=0.1)', 'mine(a=1,b=2)']
    """
    return [name.strip() for name in re.split(r",(?![^()]*\))", text)]


def find_measures(names: str | Iterable[str]) -> tuple[Measure, ...]:
    """Measures by name, without their companions.

    Parameters
    ----------
    names : str or iterable of str
        ``all``, or names; parameters in parentheses: ``gulp(lambda=0.1)``. Text may hold several, ``"svcca, cka"``.
        ``all`` stands for those that follow from directions and spectra: others are asked for by name beside it.

    Raises
    ------
    UnknownMeasureError
        The message says what there is.

    Examples
    --------
    >>> [measure.name for measure in find_measures(("svcca", "gulp(lambda=0.1)"))]
    ['svcca', 'gulp(lambda=0.1)']
    """
    wanted = split_names(names) if isinstance(names, str) else list(names)
    if not wanted:
        raise UnknownMeasureError("no measure asked for; the usual one is 'svcca'")
    if "all" in wanted:
        every = [
            measure.name
            for measure in of_directions((*_BUILT_IN.values(), *_OWN.values()))
            if measure.role != "reference" and not measure.most_neurons
        ]
        families = [family.name for family in _FAMILIES.values() if family.in_all]
        wanted = [*every, *families, *(name for name in wanted if name != "all")]
    return tuple(_find(name) for name in dict.fromkeys(wanted))


def one_name(name: str) -> str:
    """The name that values of a measure have, however its parameters are spelled; any other name as it is.

    A parameter that a measure does not have, or a value that it cannot have, raises UnknownMeasureError.

    Examples
    --------
    >>> one_name("mutual_knn(k=10)"), one_name("gulp( lambda = 1e-1 )"), one_name("p_mutual_knn(k=5.0)")
    ('mutual_knn', 'gulp(lambda=0.1)', 'p_mutual_knn(k=5)')
    >>> one_name("rsa(compare=spearman,distance=euclidean)"), one_name("svcca")
    ('rsa(distance=euclidean, compare=spearman)', 'svcca')
    """
    derived = find_derived(name)
    if derived is not None and name not in DERIVED:
        _, bracket, rest = one_name(derived.parents[0]).partition("(")
        return f"{name.partition('(')[0]}{bracket}{rest}"
    found = _in_brackets(name)
    return name if found is None else found[0].spelled(name, found[1])


def with_companions(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """Measures and the references stored along with them, each once.

    Examples
    --------
    >>> [measure.name for measure in with_companions(find_measures("cka"))]
    ['cka', 'null_cka', 'null_cka_sd']
    """
    by_name = {measure.name: measure for measure in measures}
    for measure in list(by_name.values()):
        for companion in measure.companions:
            derived = find_derived(companion)
            for name in (companion,) if derived is None else derived.parents:
                if name not in by_name:
                    by_name[name] = _find(name)
    return tuple(by_name.values())


def find_derived(name: str) -> Derived | None:
    """A reference that is not stored, by its name; None for any other name.

    Examples
    --------
    >>> find_derived("calibrated_jaccard(k=5)").parents, find_derived("jaccard")
    (('jaccard(k=5)', 'null_jaccard(k=5)'), None)
    """
    make = _DERIVED_FAMILIES.get(name.partition("(")[0])
    return DERIVED.get(name) if make is None else make(name)


def of_directions(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """Measures that follow from directions, their couplings and spectra.

    Examples
    --------
    >>> [measure.name for measure in of_directions(find_measures("svcca, jaccard"))]
    ['svcca']
    """
    return tuple(measure for measure in measures if measure.related is None)


def relations_of(measures: Iterable[Measure]) -> tuple[Relation, ...]:
    """What measures need of the examples of a representation among one another, each once.

    Examples
    --------
    >>> relations_of(find_measures("svcca, jaccard, mutual_knn, mutual_knn(k=5)"))
    (Neighbours(count=10), Neighbours(count=5))
    """
    needed = (measure.related.relation for measure in measures if measure.related is not None)
    return tuple(dict.fromkeys(needed))


def leading_only(measures: Iterable[Measure]) -> bool:
    """Whether no measure looks beyond the directions that the variance threshold keeps.

    Examples
    --------
    >>> leading_only(find_measures("svcca")), leading_only(find_measures(("svcca", "cka")))
    (True, False)
    """
    return all(measure.directions == "kept" for measure in of_directions(measures))


def norms_only(measures: Iterable[Measure]) -> bool:
    """Whether no measure looks at more of a coupling than its norm, weighted by the spectra.

    Examples
    --------
    >>> norms_only(with_companions(find_measures("cka"))), norms_only(find_measures(("cka", "svcca")))
    (True, False)
    """
    return all(measure.looks_at in {"norms", "kernels"} for measure in of_directions(measures))


def kernels_only(measures: Iterable[Measure]) -> bool:
    """Whether no measure asks for directions: sums of squares of the samples' inner products say it all.

    Examples
    --------
    >>> kernels_only(with_companions(find_measures("cka"))), kernels_only(find_measures("svcca"))
    (True, False)
    """
    return all(measure.looks_at == "kernels" for measure in of_directions(measures))


def needs_loadings(measures: Iterable[Measure]) -> bool:
    """Whether a measure needs loadings.

    Examples
    --------
    >>> needs_loadings(find_measures("pwcca")), needs_loadings(find_measures("cka"))
    (True, False)
    """
    return any("loadings" in measure.needs for measure in measures)


def register_measure(name: str, *, description: str, replace: bool = False, **options: Any) -> Callable[[Sums], Sums]:
    """Register a measure of your own, by decorating what it sums over blocks.

    Parameters
    ----------
    name : str
        Name of the measure, and of the variable that holds it.
    description : str
        With the formula.
    replace : bool
        Whether to take the place of another measure of your own that has this name. To register the same again, as
        running a cell of a notebook twice does, needs no permission.
    **options
        Other attributes of `Measure`. By default the value is the sum over the smaller of the two ranks.

    Returns
    -------
    callable
        The decorator, which gives the function back as it is.

    Raises
    ------
    MeasureExistsError
        Where another measure has the name.
    InvalidMeasureError
        Where the name is not a valid one, or an option is unknown or has a value that is not valid.

    Notes
    -----
    Workers need not have the module of its functions, which go to them by value; what these import must be there.

    A comparison stores a digest of what a measure computes, and refuses to go on with another formula. It covers the
    functions, what they use of their own module, and the options; see `dask_svcca.measures.versions`.

    Examples
    --------
    >>> @register_measure("max_correlation_cubed", description="mean cube of the correlations", directions="kept")
    ... def cubes(pairs):
    ...     return (pairs.correlations**3).sum(axis=-1)
    >>> find_measures("max_correlation_cubed")[0].symmetric
    True
    """
    _check_name(name)
    _check_options(name, options)

    def register(sums: Sums) -> Sums:
        measure = OwnMeasure(name=name, description=description, sums=sums, **options)
        known = _OWN.get(name)
        # The source is read now, also where nothing is to be replaced: the file may change later.
        version = version_of(measure)
        if known is not None and not replace and version_of(known) != version:
            raise MeasureExistsError(
                f"there is a measure {name!r} already, and it computes something else; choose another name, or "
                f"replace it by register_measure({name!r}, ..., replace=True)"
            )
        _OWN[name] = measure
        return sums

    return register


def load_measures(module: str) -> tuple[str, ...]:
    """Load a module that registers measures of your own.

    Parameters
    ----------
    module : str
        Dotted name of a module that can be imported, or path of a file that ends in ``.py``. Workers need not have
        it, see `register_measure`.

    Returns
    -------
    tuple of str
        Names of the measures that it registers.

    Raises
    ------
    MeasureModuleError
        Where it is not found, cannot be imported, or registers nothing. No measure of it is registered then.

    Examples
    --------
    >>> load_measures("my_measures.py")  # doctest: +SKIP
    ('max_correlation',)
    """
    before = dict(_OWN)
    is_file = module.endswith(".py")
    try:
        loaded = import_file(Path(module)) if is_file else importlib.import_module(module)
    except (Exception, SystemExit) as error:
        # A user's module may raise anything, and what it registered before that is incomplete.
        _OWN.clear()
        _OWN.update(before)
        if is_file and not Path(module).is_file():
            reason = "there is no such file"
        elif isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            reason = "there is no such module; give a dotted name that can be imported, or the path of a file, with .py"
        else:
            reason = f"importing it raised {type(error).__name__}: {' '.join(str(error).split())}"
        raise MeasureModuleError(f"cannot load measures from {module!r}: {reason}") from error
    # A module that was imported before runs no decorator again.
    names = tuple(
        name for name, measure in _OWN.items() if before.get(name) is not measure or _is_from(measure, loaded)
    )
    if not names:
        raise MeasureModuleError(
            f"cannot load measures from {module!r}: it registers none. Decorate a function with "
            f"@dask_svcca.register_measure(name, description=...)"
        )
    return names


def _is_from(measure: Measure, module: ModuleType) -> bool:
    home = str(getattr(measure.sums, "__module__", ""))
    return f"{home}.".startswith(f"{module.__name__}.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InvalidMeasureError(
            f"{name!r} is not a valid name for a measure; use letters, digits and underscores, a letter first"
        )
    if name in STORED_NAMES:
        raise InvalidMeasureError(f"{name!r} is the name of another variable of a comparison; choose another")
    if name == "all":
        raise InvalidMeasureError("'all' stands for all measures; choose another name")
    if name in _BUILT_IN or name in _FAMILIES or find_derived(name) is not None:
        raise MeasureExistsError(f"there is a measure {name!r} in dask-svcca already; choose another name")


def _check_options(name: str, options: dict[str, Any]) -> None:
    if unknown := sorted(options.keys() - OPTIONS):
        raise InvalidMeasureError(
            f"measure {name!r} has an unknown option {unknown[0]!r}; there are {', '.join(sorted(OPTIONS))}"
        )
    for option, words in _WORDS.items():
        if option not in options:
            continue
        given = options[option]
        if not ((option in _SETS and not isinstance(given, str) and set(given) <= set(words)) or given in words):
            raise InvalidMeasureError(
                f"{option}={given!r} of measure {name!r} is not valid; there are {', '.join(map(repr, words))}"
            )
    for companion in options.get("companions", ()):
        try:
            if find_derived(companion) is None:
                _find(companion)
        except UnknownMeasureError as error:
            raise InvalidMeasureError(f"measure {name!r} has a companion that is not registered: {error}") from None
    for option in ("null", "null_sd", "p_value", "calibrated"):
        if options.get(option) and options[option] not in options.get("companions", ()):
            raise InvalidMeasureError(
                f"{option}={options[option]!r} of measure {name!r} is none of its companions; add it to companions="
            )


def _find(name: str) -> Measure:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name in _OWN:
        return dataclasses.replace(_OWN[name], version=version_of(_OWN[name]))
    derived = find_derived(name)
    if derived is not None:
        raise UnknownMeasureError(
            f"{name!r} is not a measure by itself: it comes with {derived.parents[0]!r}, from which it follows; "
            f"ask for that"
        )
    found = _in_brackets(name)
    if found is None:
        own = [
            one for one in _FAMILIES.values() if not one.name.startswith("null_") and not one.name.endswith("_error")
        ]
        families = [f"{family.name}({family.takes})" for family in own]
        # References come with the measures that they belong to.
        measures = (one.name for one in (*_BUILT_IN.values(), *_OWN.values()) if one.role != "reference")
        near = did_you_mean(name, [*_BUILT_IN, *_OWN, *_FAMILIES])
        if name.partition("(")[0].strip() == "cca_heldout":
            near = ". It is asked of chosen pairs of a comparison: dask_svcca.cca_heldout(comparison, pairs, folds=5)"
        known = ", ".join(sorted([*measures, *families]))
        raise UnknownMeasureError(f"no measure {name!r}; there are {known}, or 'all'{near}")
    return found[0].find(name, found[1])


def _in_brackets(name: str) -> tuple[Family | Choices, dict[str, str]] | None:
    """The family of a name, and what is given in parentheses; None for a name of no family."""
    match = re.fullmatch(r"(\w+)\s*(?:\(([^()]+)\))?", name.strip())
    if match is None or match[1] not in _FAMILIES:
        return None
    parts = [part.partition("=") for part in match[2].split(",")] if match[2] else []
    given = {key.strip(): value.strip() for key, _, value in parts}
    if len(given) < len(parts):
        raise UnknownMeasureError(f"{name!r} gives a parameter twice")
    return _FAMILIES[match[1]], given
