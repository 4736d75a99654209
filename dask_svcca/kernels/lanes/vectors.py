"""A vector of eight numbers as a type of Numba: what the lanes of one register hold, such as one matrix each.

LLVM splits it where registers are shorter. Loops over eight numbers would leave it to LLVM's optimiser whether they
become vectors, and their sums would be kept in memory.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 8

_LLVM = ir.VectorType(ir.DoubleType(), LANES)


class VectorType(types.Type):  # type: ignore[misc]  # Numba ships no types
    """Eight numbers in double or in single precision."""

    def __init__(self, number: types.Float) -> None:
        self.number = number
        super().__init__(name=f"dask_svcca.Vector{LANES}({number})")


VECTOR, SINGLE = VectorType(types.float64), VectorType(types.float32)


@register_model(VectorType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        number = ir.DoubleType() if kind.number == types.float64 else ir.FloatType()
        super().__init__(manager, kind, ir.VectorType(number, LANES))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Address of a vector in a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    first = builder.mul(index, ir.Constant(index.type, LANES))
    vector = context.get_data_type(VectorType(kind.dtype))
    return builder.bitcast(builder.gep(data, [first]), vector.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def load(_context: Any, array: Any, index: Any) -> Any:
    """The vector at a place of a contiguous array of vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = builder.load(_place(context, builder, signature.args[0], *arguments))
        loaded.align = signature.args[0].dtype.bitwidth // 8
        return loaded

    return VectorType(array.dtype)(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Put a vector at a place of a contiguous array of vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = builder.store(arguments[2], _place(context, builder, signature.args[0], *arguments[:2]))
        stored.align = signature.args[0].dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, VectorType(array.dtype)), generate


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Columns of eight vectors: each step exchanges one bit of the two places of every number."""
    for step in (1, 2, 4):
        kept, moved = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), LANES),
                [
                    (place & ~step) + added if not place & step else LANES + (place & ~step) + added
                    for place in range(LANES)
                ],
            )
            for added in (0, step)
        ]
        for row in range(LANES):
            if not row & step:
                pair = rows[row], rows[row + step]
                rows[row], rows[row + step] = [builder.shuffle_vector(*pair, mask) for mask in (kept, moved)]
    return rows


def _addresses(context: Any, builder: Any, signature: Any, cells: Any, starts: Any, offset: Any) -> list[Any]:
    """What is so many bytes behind each of eight starts in an array."""
    data, from_there = [
        context.make_array(kind)(context, builder, array).data
        for kind, array in zip(signature.args, (cells, starts), strict=False)
    ]
    first = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [offset])
    places = [builder.gep(from_there, [ir.Constant(offset.type, lane)]) for lane in range(LANES)]
    return [builder.gep(first, [builder.load(place)]) for place in places]


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_context: Any, cells: Any, starts: Any, offset: Any) -> Any:
    """Have what `turn` will read brought into the cache meanwhile."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for address in _addresses(context, builder, signature, *arguments):
            # To be read, into the second cache, as data.
            builder.call(function, [address, *(ir.Constant(number, value) for value in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(cells, starts, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def gather(_context: Any, cells: Any, starts: Any, offset: Any) -> Any:
    """One number of each of eight matrices: so many bytes behind their starts in an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.get_data_type(signature.args[0].dtype).as_pointer()
        vector = ir.Constant(_LLVM, ir.Undefined)
        for lane, address in enumerate(_addresses(context, builder, signature, *arguments)):
            value = builder.load(builder.bitcast(address, number))
            value = builder.fpext(value, ir.DoubleType())
            vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), lane))
        return vector

    return VECTOR(cells, starts, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def turn(_context: Any, cells: Any, starts: Any, offset: Any, into: Any, place: Any, step: Any) -> Any:
    """Eight neighbouring numbers of each matrix, as eight vectors, one at every `step` places of ``into``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cells, starts, offset, into, place, step = arguments
        number = context.get_data_type(signature.args[0].dtype)
        rows = []
        for address in _addresses(context, builder, signature, cells, starts, offset):
            row = builder.load(builder.bitcast(address, ir.VectorType(number, LANES).as_pointer()))
            row.align = number.get_abi_size(context.target_data)
            rows.append(row)
        for turned in _transposed(builder, rows):
            stored = builder.store(
                builder.fpext(turned, _LLVM), _place(context, builder, signature.args[3], into, place)
            )
            stored.align = 8
            place = builder.add(place, step)
        return context.get_dummy_value()

    return types.void(cells, starts, types.intp, into, types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def splat(_context: Any, value: Any) -> Any:
    """The same number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        nothing = ir.Constant(context.get_data_type(signature.return_type), ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    return VectorType(value)(value), generate


def _define(function: Any, instruction: str) -> None:
    """Make an operator of Python work on vectors."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        # "contract" allows a product and a sum to be rounded once.
        return getattr(builder, instruction)(*arguments, flags=("contract",))

    @type_callable(function)  # type: ignore[untyped-decorator]
    def typer(_context: Any) -> Any:
        return lambda a, b: a if isinstance(a, VectorType) and a == b else None

    lower_builtin(function, VectorType, VectorType)(generate)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_function, _instruction)


def _call(builder: Any, name: str, arguments: Any) -> Any:
    kind = ir.FunctionType(_LLVM, [_LLVM] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
    return builder.call(function, arguments)


@intrinsic  # type: ignore[untyped-decorator]
def sqrt(_context: Any, value: Any) -> Any:
    """Square roots."""
    return VECTOR(VECTOR), lambda _, builder, __, arguments: _call(builder, "sqrt", arguments)


@intrinsic  # type: ignore[untyped-decorator]
def magnitude(_context: Any, value: Any) -> Any:
    """Absolute values."""
    return VECTOR(VECTOR), lambda _, builder, __, arguments: _call(builder, "fabs", arguments)


@intrinsic  # type: ignore[untyped-decorator]
def with_sign(_context: Any, value: Any, sign: Any) -> Any:
    """Magnitudes of the one, signs of the other."""
    return VECTOR(VECTOR, VECTOR), lambda _, builder, __, arguments: _call(builder, "copysign", arguments)


@intrinsic  # type: ignore[untyped-decorator]
def larger(_context: Any, a: Any, b: Any) -> Any:
    """The larger of the two in each lane; the second where one is not a number."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        # One instruction: what is defined for numbers that are none takes three.
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return VECTOR(VECTOR, VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def where_larger(_context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """In each lane where a is larger than b, the third; else the fourth."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        a, b, yes, no = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)

    return VECTOR(VECTOR, VECTOR, VECTOR, VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def any_larger(_context: Any, a: Any, b: Any) -> Any:
    """Whether a is larger than b in any lane."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered(">", *arguments), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(VECTOR, VECTOR), generate
