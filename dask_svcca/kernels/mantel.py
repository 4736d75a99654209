"""How skewed products of two layers' distances are over all orders of the examples: a third moment for Mantel's test.

The sum of products over pairs of examples, cubed, runs over triples of pairs. Orders of the examples take a triple to
any other of the same kind, which is how its pairs share examples; so the moment is a sum over kinds of what each layer
has of it, over how many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import FloatArray

KINDS = 5
"""Kinds of triples of pairs that are connected; see `mean_triples`."""

LEAST = 4
"""Examples from which on all of these kinds are there."""


def mean_triples(values: FloatArray) -> tuple[float, ...]:
    """Means of products of three values, by how their pairs of examples share examples.

    Parameters
    ----------
    values : (example, example)
        Symmetric, zero on the diagonal; of at least `LEAST` examples.

    Returns
    -------
    tuple of float
        Of the same pair three times; of a pair twice and one that shares an example with it; of the sides of a
        triangle; of three pairs that share one example; and of three that follow one another.

    Examples
    --------
    >>> mean_triples(np.ones((5, 5)) - np.eye(5))
    (1.0, 1.0, 1.0, 1.0, 1.0)
    """
    n = float(len(values))
    squares = np.square(values)
    sums, sums_of_squares, cubes = values.sum(axis=1), squares.sum(axis=1), np.vdot(squares, values)
    triangles = float(np.vdot(values @ values, values))
    both = float(sums_of_squares @ sums)
    pairs, triples, quadruples = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    return (
        float(cubes / pairs),
        float((both - cubes) / triples),
        triangles / triples,
        float((sums**3).sum() - 3 * both + 2 * cubes) / quadruples,
        float(sums @ values @ sums - 2 * both + cubes - triangles) / quadruples,
    )


def third_over_orders(a: Sequence[FloatArray], b: Sequence[FloatArray], examples: int) -> FloatArray:
    """Mean cube, over all orders of the examples of one of two layers, of the sum of products of their values.

    Parameters
    ----------
    a, b : sequence of array
        `mean_triples` of both, whose values sum to zero; they broadcast.
    examples : int
        At least `LEAST`.

    References
    ----------
    Mielke (1979), On asymptotic non-normality of null distributions of MRPP statistics, Communications in Statistics
    A8: kinds of triples, and how many there are.

    Examples
    --------
    Five examples, in all orders:

    >>> from itertools import permutations
    >>> a, b = (np.add.outer(x, x) * (1 - np.eye(5)) for x in np.array([[4.0, 1, -1, -2, -2], [-3, 0, 0, 1, 2.0]]) ** 3)
    >>> a, b = ((x - x.sum() / 20) * (1 - np.eye(5)) for x in (a, b))
    >>> sums = [(a * b[np.ix_(order, order)]).sum() / 2 for order in map(list, permutations(range(5)))]
    >>> third = third_over_orders(mean_triples(a), mean_triples(b), 5)
    >>> round(float(third / np.mean(np.array(sums) ** 3)), 9)
    1.0
    """
    n = float(examples)
    pairs = n * (n - 1) / 2
    # Of how many ordered triples each kind consists, those that are not connected last: a pair twice and another, two
    # that share an example and another, and three. Some kinds come in three orders.
    sizes = [
        pairs,
        n * (n - 1) * (n - 2),
        n * (n - 1) * (n - 2),
        n * (n - 1) * (n - 2) * (n - 3),
        n * (n - 1) * (n - 2) * (n - 3),
        pairs * (n - 2) * (n - 3) / 2,
        n * (n - 1) * (n - 2) * (n - 3) * (n - 4) / 2,
        n * (n - 1) * (n - 2) * (n - 3) * (n - 4) * (n - 5) / 8,
    ]
    orders = (1, 3, 1, 1, 3, 3, 3, 1)
    third = np.zeros(())
    for size, times, one, other in zip(sizes, orders, _all_kinds(a, sizes), _all_kinds(b, sizes), strict=True):
        if size > 0:
            third = third + times * one * other / size
    return np.asarray(third)


def _all_kinds(means: Sequence[FloatArray], sizes: Sequence[float]) -> list[FloatArray]:
    """Sums over the triples of each kind, those of kinds that are not connected from a sum of values of zero."""
    same, twice, triangle, star, path = (size * mean for size, mean in zip(sizes, means, strict=False))
    double = -same - twice
    elbow = -(2 * twice + triangle + star + 2 * path)
    return [
        same,
        twice,
        triangle,
        star,
        path,
        double,
        elbow,
        -(same + 3 * (twice + double + path + elbow) + triangle + star),
    ]
