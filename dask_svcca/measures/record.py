"""Measures: records that say how one number about a pair follows from couplings and spectra.

A measure is a sum over the blocks of a pair, each weighted by its multiplicity, and a last step that turns the sum
into the value. So it is the same record for a dense layer (one block) and a convolutional one (one block per
frequency).

Notation: k directions of a and l of b with eigenvalues ``s**2`` of the scatter, coupling C (k x l), its singular values
the canonical correlations ``r``. Sums run over all blocks.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.errors import UnknownMeasureError, did_you_mean
from dask_svcca.variables import Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack
    from dask_svcca.measures.relations import Related

Need: TypeAlias = Literal["spectrum", "loadings", "row_norms", "diagonal", "leverages"]
Kernel: TypeAlias = Literal["inner products", "projection", "kept projection"]
Role: TypeAlias = Literal["similarity", "distance", "reference"]
Directions: TypeAlias = Literal["kept", "all"]
Positional: TypeAlias = Literal["dft", "mean", "positions", "flatten"]
LooksAt: TypeAlias = Literal["couplings", "norms", "kernels"]
Saturates: TypeAlias = Literal["never", "either", "b"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of the representations of one side that a measure may divide by: over all blocks, with multiplicities.

    Arrays broadcast: those of a are (a, 1), those of b (1, b).

    Attributes
    ----------
    rank, variance : array
        Number of directions, and sum of eigenvalues.
    own : array
        What `Measure.own` gives for each representation.
    squared_row_norms : array
        Sum over samples of the fourth power of the norm of a sample; zero where no measure needs it.
    trace, squares, diagonal : array
        Sums of the measure's kernel, see `Measure.kernel` and `dask_svcca.kernels.orders.KernelSums`. The last is NaN
        where orders of the samples are not orders of the examples, or of more than one block.
    """

    rank: FloatArray
    variance: FloatArray
    own: FloatArray
    squared_row_norms: FloatArray
    trace: FloatArray
    squares: FloatArray
    diagonal: FloatArray


@dataclass(frozen=True, slots=True)
class PairTotals:
    """Numbers of the pairs themselves that a measure may need.

    Attributes
    ----------
    samples : int
    translations : int
        Circular translations that the samples stand for: positions of the grid of the DFT, 1 for dense layers.
    row_norms : (a, b)
        Inner products of the squared norms of the samples; zero where no measure needs them.
    """

    samples: int
    translations: int
    row_norms: FloatArray


Sums: TypeAlias = "Callable[[PairStack], FloatArray]"
Own: TypeAlias = "Callable[[FloatArray, FloatArray], float]"
Value: TypeAlias = "Callable[[FloatArray, Totals, Totals, PairTotals], FloatArray]"


def over_smaller_rank(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """Sum over the smaller of the two ranks: a mean over directions."""
    # Cropped layers may keep nothing at the frequencies they share: a similarity of zero, not zero by zero.
    return np.asarray(sums[..., 0] / np.maximum(np.minimum(a.rank, b.rank), 1))


def _no_own(_spectrum: FloatArray, _weights: FloatArray) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of similarity, or a reference to read one by.

    Attributes
    ----------
    name : str
        Name of the variable in a comparison.
    description : str
    sums : callable
        Takes a `PairStack` and gives (pair,) or (pair, components), which are added up over blocks.
    value : callable
        Takes the sums, (a, b, components), the `Totals` of both sides and `PairTotals`, and gives the value, (a, b).
    own : callable
        Takes the spectrum of one representation and the multiplicities of its directions, and gives one number.
    components : int
    directions : {"kept", "all"}
        Whether it looks at the directions kept by the variance threshold, or at the full numerical rank.
    needs : frozenset of {"spectrum", "loadings", "row_norms", "diagonal", "leverages"}
        What it takes beside couplings and ranks. ``diagonal``: `Totals.diagonal`. ``leverages``: `PairStack.overlap`.
    looks_at : {"couplings", "norms", "kernels"}
        ``norms``: of couplings only `PairStack.squared_norm`, if anything. It may then follow from the inner products
        of the samples, and the coupling of a stack be zero. ``kernels``: beside that of a representation only the sum
        of its spectrum, and the sum of its squares as ``own``. Directions may then be any, not orthonormal ones.
    valid_range : (float, float)
    invariances : tuple of str
    reference : str
    symmetric : bool
    role : {"similarity", "distance", "reference"}
        ``similarity``: higher is more similar. ``distance``: lower is. ``reference``: helps to read other measures.
    saturates : {"never", "either", "b"}
        Where too few samples fix the value by the ranks alone, whatever the data. A representation spans everything
        where it has as many directions as there are degrees of freedom (samples less one). ``either``: where one of the
        two does, since all canonical correlations are then 1. ``b``: where b does, since a regression on b then
        explains all of a. ``never``: the spectra weigh the directions, so the value still depends on the data. It may
        be high by chance all the same; `companions` say how high.
    companions : tuple of str
        References that come along with it, to read it by: stored, or `Derived`. Measures may share them.
    null : str
        Which of the companions is what chance would give; empty where none is.
    null_sd, p_value, calibrated : str
        Which of them is the standard deviation of that, which the share of orders of the examples that score as much,
        and which the value above chance, ``(value - null) / (1 - null)``; empty where none is.
    readings : frozenset of {"dft", "mean", "positions", "flatten"}
        How its paper reads convolutional layers; empty where it does not say.
    related : Related or None
        What it follows from in place of couplings and spectra: how the examples of each representation are among one
        another.
    most_neurons : int
        Most neurons of a layer that it takes; 0 for any number. What has such a bound is slow, and asked for by name.
    takes_sizes : bool
        Whether its sums are right of a stack of pairs with unequal numbers of directions: see `PairStack.sizes`.
    few_values : bool
        Whether pairs share few values, as where these follow from the ranks alone, or are counts: they are stored
        compressed.
    version : str
        Version of the formula: a change of the formula takes a new one. Measures of the user's own have a digest of
        what they compute, see `dask_svcca.measures.versions`; `find_measures` fills it in.
    """

    name: str
    description: str
    sums: Sums
    value: Value = over_smaller_rank
    own: Own = _no_own
    components: int = 1
    directions: Directions = "all"
    needs: frozenset[Need] = frozenset()
    looks_at: LooksAt = "couplings"
    valid_range: tuple[float, float] = (0.0, 1.0)
    invariances: tuple[str, ...] = ()
    reference: str = ""
    symmetric: bool = True
    role: Role = "similarity"
    saturates: Saturates = "never"
    companions: tuple[str, ...] = ()
    null: str = ""
    null_sd: str = ""
    p_value: str = ""
    calibrated: str = ""
    readings: frozenset[Positional] = frozenset()
    related: Related | None = None
    most_neurons: int = 0
    takes_sizes: bool = False
    few_values: bool = False
    version: str = ""

    @property
    def kernel(self) -> Kernel:
        """Matrix of samples whose sums `Totals` has: their inner products, or the projection on their directions."""
        if "spectrum" in self.needs:
            return "inner products"
        return "projection" if self.directions == "all" else "kept projection"

    @property
    def variable(self) -> Variable:
        """Declaration of the variable that holds it."""
        return Variable(self.name, "pair", "float64", np.nan, self.description, "1")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes stored with the variable."""
        return {
            **self.variable.attributes,
            "valid_range": [None if np.isinf(bound) else bound for bound in self.valid_range],
            "symmetric": self.symmetric,
            "sense": self.role,
            "saturates": self.saturates,
            "companions": list(self.companions),
            "null": self.null,
            "null_sd": self.null_sd,
            "p_value": self.p_value,
            "calibrated": self.calibrated,
            "invariant_to": list(self.invariances),
            "reference": self.reference,
        }


@dataclass(frozen=True, slots=True)
class Derived:
    """A reference that follows from variables of the same pair: computed where it is read, and not stored.

    Attributes
    ----------
    name : str
    description : str
    parents : tuple of str
        Variables that it follows from.
    formula : callable
        Takes their values, arrays of one shape, and gives its own.
    valid_range : (float, float)
    reference : str
    of_orders : bool
        Whether it is a share of all orders of the examples, of which none is smaller than that of one.
    """

    name: str
    description: str
    parents: tuple[str, ...]
    formula: Callable[..., FloatArray]
    valid_range: tuple[float, float]
    reference: str
    of_orders: bool = False

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the variable, those of a measure that mean something for it."""
        return {
            **Variable(self.name, "pair", "float64", np.nan, self.description, "1").attributes,
            "valid_range": [None if np.isinf(bound) else bound for bound in self.valid_range],
            "symmetric": True,
            "sense": "reference",
            "derived_from": list(self.parents),
            "invariant_to": [],
            "reference": self.reference,
        }


@dataclass(frozen=True, slots=True)
class Family:
    """Measures that differ in one number.

    Attributes
    ----------
    name : str
    parameter : str
        Name of the number.
    usual : float
        Its default.
    make : callable
        Takes the name as it was given and the number, and gives the record.
    in_all : bool
        Whether ``all`` has it: what needs the activations once more, and each example beside each, is asked for by
        name.
    """

    name: str
    parameter: str
    usual: float
    make: Callable[[str, float], Measure]
    in_all: bool = True

    @property
    def takes(self) -> str:
        """What is said in parentheses."""
        return f"{self.parameter}=..."

    def find(self, name: str, given: Mapping[str, str]) -> Measure:
        """The measure of a name, with what was given by name in parentheses.

        Raises
        ------
        UnknownMeasureError
            Where that is not one number, or not of that name.
        """
        return self.make(name, self._number(name, given))

    def spelled(self, name: str, given: Mapping[str, str]) -> str:
        """The one name of a measure, however it was given: the default is left out.

        Raises
        ------
        UnknownMeasureError
            As for `find`.
        """
        number = self._number(name, given)
        if number == self.usual:
            return self.name
        shortest = repr(number).removesuffix(".0").replace("e-0", "e-")
        return f"{self.name}({self.parameter}={shortest})"

    def _number(self, name: str, given: Mapping[str, str]) -> float:
        if not given:
            return self.usual
        try:
            value = ast.literal_eval(given.get(self.parameter, ""))
        except (SyntaxError, ValueError):
            value = None
        if set(given) != {self.parameter} or not isinstance(value, int | float):
            raise UnknownMeasureError(f"{self.name} takes one number, {self.parameter}=...; got {name!r}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Choices:
    """Measures that differ in some words. They are asked for by name, as `Family.in_all` has it.

    Attributes
    ----------
    name : str
    options : mapping of str to tuple of str
        Which words there are; the first of each is the default.
    make : callable
        Takes the name as it was given and the words by option, and gives the record.
    """

    name: str
    options: Mapping[str, tuple[str, ...]]
    make: Callable[[str, Mapping[str, str]], Measure]
    in_all: bool = False

    @property
    def takes(self) -> str:
        """What is said in parentheses."""
        return ", ".join(f"{option}={'|'.join(words)}" for option, words in self.options.items())

    def find(self, name: str, given: Mapping[str, str]) -> Measure:
        """The measure of a name, with what was given by name in parentheses.

        Raises
        ------
        UnknownMeasureError
            Where an option, or one of its words, is none of these.
        """
        return self.make(name, self._words(name, given))

    def spelled(self, name: str, given: Mapping[str, str]) -> str:
        """The one name of a measure, however it was given: defaults are left out, others in the order of `options`.

        Raises
        ------
        UnknownMeasureError
            As for `find`.
        """
        words = self._words(name, given)
        said = ", ".join(f"{option}={word}" for option, word in words.items() if word != self.options[option][0])
        return f"{self.name}({said})" if said else self.name

    def _words(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        for option, word in given.items():
            if option not in self.options:
                near = did_you_mean(option, self.options)
                raise UnknownMeasureError(f"{self.name} takes {self.takes}; {name!r} has {option!r}{near}")
            if word.strip("'\"") not in self.options[option]:
                near = did_you_mean(word, self.options[option])
                raise UnknownMeasureError(f"{self.name} takes {self.takes}; {name!r} has {option}={word}{near}")
        return {option: given.get(option, words[0]).strip("'\"") for option, words in self.options.items()}
