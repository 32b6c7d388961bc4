"""Decorators for compiled functions, and instructions that Numba does not expose."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["inline_jit", "jit", "lowest_bit", "or_at", "prefetch_row"]

# Decorators of compiled functions, which run without the global interpreter lock.
jit = numba.njit(cache=True, nogil=True, boundscheck=False)
inline_jit = numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")

_PREFETCH = "llvm.prefetch.p0i8"


def _row_address(context: Any, builder: Any, array_type: Any, array: Any, row: Any) -> Any:
    struct = context.make_array(array_type)(context, builder, array)
    stride = builder.extract_value(struct.strides, 0)
    data = builder.ptrtoint(struct.data, ir.IntType(64))
    offset = builder.mul(row, stride)
    return builder.inttoptr(builder.add(data, offset), ir.IntType(8).as_pointer())


def _prefetch_row(typingctx: Any, array: Any, row: Any) -> Any:
    """Prefetch the first cache line of `array[row]`, which will be read soon."""
    if not isinstance(array, types.Array) or not isinstance(row, types.Integer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        index = context.cast(builder, args[1], signature.args[1], types.int64)
        address = _row_address(context, builder, signature.args[0], args[0], index)
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        module: Any = builder.module
        function = module.globals.get(_PREFETCH) or ir.Function(module, kind, _PREFETCH)
        builder.call(function, [address, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, row), codegen


def _or_at(typingctx: Any, array: Any, index: Any, bits: Any) -> Any:
    """Perform `array[index] |= bits` on a 1-D uint64 array as one atomic operation."""
    if not (isinstance(array, types.Array) and array.ndim == 1 and array.dtype == types.uint64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = context.cast(builder, args[1], signature.args[1], types.int64)
        value = context.cast(builder, args[2], signature.args[2], types.uint64)
        address = _row_address(context, builder, signature.args[0], args[0], row)
        pointer = builder.bitcast(address, ir.IntType(64).as_pointer())
        builder.atomic_rmw("or", pointer, value, "monotonic")
        return context.get_dummy_value()

    return types.void(array, index, bits), codegen


def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """Return the position of the lowest set bit as uint64; `word` must not be 0."""
    if word != types.uint64:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), codegen


# Compiled code calls these without the first argument, which type checkers cannot know.
lowest_bit: Any = intrinsic(_lowest_bit)
or_at: Any = intrinsic(_or_at)
prefetch_row: Any = intrinsic(_prefetch_row)
