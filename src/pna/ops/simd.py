"""Vectors of eight floats for numba: registers where its loops would not become vector code.

Eight lanes are one AVX2 register; LLVM joins or splits them for other processors. An index is taken
as it is, without bounds or wrap-around; `load` and `store` touch the eight floats that follow it.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from pna.ops.numba_plan import LANES

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _VectorType(types.Type):
    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


_vector = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


def _pointer(context, builder, kind, array, index, row=None):
    """Pointer to eight floats at an index; `row` is added to its last but one number."""
    array = context.make_array(kind)(context, builder, array)
    indices = cgutils.unpack_tuple(builder, index)
    if row is not None:
        indices[-2] = builder.add(indices[-2], row)
    pointer = cgutils.get_item_pointer(context, builder, kind, array, indices, wraparound=False)
    return builder.bitcast(pointer, _FLOATS.as_pointer())


def _call(builder, name, arguments):
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(arguments))
    name = f"llvm.{name}.v{LANES}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def load(typing_context, array, index):
    """Read array[..., x : x + 8] at the index (..., x)."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=4)

    return _vector(array, index), generate


@intrinsic
def store(typing_context, array, index, vector):
    """Write array[..., x : x + 8] at the index (..., x)."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, vector), generate


def _transpose(builder, rows):
    """Eight vectors, the columns of eight: in three steps, blocks of 1, 2 and 4 change places."""
    for step in (1, 2, 4):
        lanes = range(LANES)
        upper = [lane if not lane & step else LANES + lane - step for lane in lanes]
        lower = [lane + step if not lane & step else LANES + lane for lane in lanes]
        for i in (i for i in lanes if not i & step):
            pair = rows[i], rows[i + step]
            rows[i] = builder.shuffle_vector(*pair, ir.Constant(_INTS, upper))
            rows[i + step] = builder.shuffle_vector(*pair, ir.Constant(_INTS, lower))
    return rows


def _pointers(context, builder, signature, arguments):
    """The eight rows of a panel's block, and the cells of its eight columns."""
    panel, panel_index, cells, cells_index, columns = arguments
    rows = [ir.Constant(ir.IntType(64), i) for i in range(LANES)]
    block = [_pointer(context, builder, signature.args[0], panel, panel_index, i) for i in rows]
    columns = context.make_array(signature.args[4])(context, builder, columns)
    numbers = [builder.load(builder.gep(columns.data, [i])) for i in rows]
    kind = signature.args[2]
    return block, [_pointer(context, builder, kind, cells, cells_index, i) for i in numbers]


def _load(builder, pointers):
    return [builder.load(pointer, align=4) for pointer in pointers]


@intrinsic
def copy_transposed(typing_context, panel, panel_index, cells, cells_index, columns):
    """panel[..., c + i, x + k] = cells[..., columns[k], c + i] for i and k from 0 to 7.

    Indices are (..., c, x) and (..., 0, c).
    """

    def generate(context, builder, signature, arguments):
        block, cells = _pointers(context, builder, signature, arguments)
        for pointer, vector in zip(block, _transpose(builder, _load(builder, cells)), strict=True):
            builder.store(vector, pointer, align=4)
        return context.get_dummy_value()

    return types.void(panel, panel_index, cells, cells_index, columns), generate


@intrinsic
def add_transposed(typing_context, panel, panel_index, cells, cells_index, columns, factors):
    """cells[..., columns[k], c + i] += factors[i] * panel[..., c + i, x + k].

    A column may occur repeatedly. The factor 0 adds nothing, not even of what is not finite.
    """

    def generate(context, builder, signature, arguments):
        *arguments, factors = arguments
        block, cells = _pointers(context, builder, signature, arguments)
        nothing = ir.Constant(_FLOATS, [0.0] * LANES)
        is_added = builder.fcmp_unordered("!=", factors, nothing)
        for pointer, vector in zip(cells, _transpose(builder, _load(builder, block)), strict=True):
            vector = builder.select(is_added, builder.fmul(factors, vector), nothing)
            total = builder.fadd(builder.load(pointer, align=4), vector)
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return types.void(panel, panel_index, cells, cells_index, columns, factors), generate


@intrinsic
def splat(typing_context, scalar):
    """One float32 in every lane."""

    def generate(context, builder, signature, arguments):
        nothing = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.IntType(32)(0))
        return builder.shuffle_vector(first, nothing, ir.Constant(_INTS, [0] * LANES))

    return _vector(types.float32), generate


@intrinsic
def replace(typing_context, vector, lane, scalar):
    """The vector with another float32 in one lane."""

    def generate(context, builder, signature, arguments):
        vector, lane, scalar = arguments
        return builder.insert_element(vector, scalar, lane)

    return _vector(vector, types.int64, types.float32), generate


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "fma", arguments)

    return _vector(_vector, _vector, _vector), generate


def _binary(name, emit):
    def operation(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            return emit(builder, *arguments)

        return _vector(_vector, _vector), generate

    operation.__name__ = operation.__qualname__ = name
    return intrinsic(operation)


add = _binary("add", lambda builder, a, b: builder.fadd(a, b))
subtract = _binary("subtract", lambda builder, a, b: builder.fsub(a, b))
multiply = _binary("multiply", lambda builder, a, b: builder.fmul(a, b))
divide = _binary("divide", lambda builder, a, b: builder.fdiv(a, b))
maximum = _binary(  # NaN where either is
    "maximum", lambda builder, a, b: builder.select(builder.fcmp_unordered(">", a, b), a, b)
)


@intrinsic
def nearest(typing_context, a):
    """Round to whole numbers."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "rint", arguments)

    return _vector(_vector), generate


@intrinsic
def power_of_two(typing_context, n):
    """2^n of whole n from -127, where it is 0, to 127."""

    def generate(context, builder, signature, arguments):
        bits = builder.fptosi(arguments[0], _INTS)
        bits = builder.add(bits, ir.Constant(_INTS, [127] * LANES))
        return builder.bitcast(builder.shl(bits, ir.Constant(_INTS, [23] * LANES)), _FLOATS)

    return _vector(_vector), generate
