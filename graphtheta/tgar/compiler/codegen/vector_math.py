"""Functions of floats and of vectors of floats, as LLVM instructions.

`exp` is a polynomial after Cody and Waite's reduction (constants of the Cephes library), as wide as
the vector; the rarer functions call the C library for each lane. Infinities and not-a-number come
out as in torch; results below the smallest normal number may be 0.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

__all__ = ["FLAGS", "constant", "exp", "library", "splat", "sqrt"]

# Sums may be regrouped and fused with products. Nothing may assume that there is no infinity.
FLAGS = ("reassoc", "contract", "nsz")


def _element(kind: Any) -> Any:
    """Return the scalar type of a float or vector type."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def constant(kind: Any, value: float | int) -> Any:
    """Return a number as a scalar, or repeated as a vector."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def splat(b: Any, value: Any, lanes: int) -> Any:
    """Repeat a scalar over `lanes`; one lane is the scalar itself."""
    if lanes == 1:
        return value
    kind = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    first = b.insert_element(undefined, value, ir.IntType(32)(0))
    return b.shuffle_vector(first, undefined, zeros)


def _like(kind: Any, scalar: Any) -> Any:
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _intrinsic(b: Any, name: str, *args: Any) -> Any:
    kind = args[0].type
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    bits = "f32" if isinstance(_element(kind), ir.FloatType) else "f64"
    full = f"llvm.{name}.{lanes}{bits}"
    module = b.module
    function = module.globals.get(full) or ir.Function(
        module, ir.FunctionType(kind, [a.type for a in args]), full
    )
    return b.call(function, args)


def sqrt(b: Any, x: Any) -> Any:
    """Return the square root."""
    return _intrinsic(b, "sqrt", x)


def _horner(b: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    total = constant(x.type, coefficients[0])
    for c in coefficients[1:]:
        total = b.fadd(b.fmul(total, x, flags=("contract",)), constant(x.type, c), ("contract",))
    return total


def exp(b: Any, x: Any) -> Any:
    """Return e to the x: relative error below 2e-7 in float32, 3e-16 in float64."""
    single = isinstance(_element(x.type), ir.FloatType)
    low, high = (-87.3, 88.8) if single else (-708.3, 709.8)
    integer = _like(x.type, ir.IntType(32 if single else 64))
    mantissa, bias = (23, 127) if single else (52, 1023)
    # Not-a-number has no integer: it takes the way of 0, and is put back in the end.
    good = b.fcmp_ordered("ord", x, x)
    inside = b.select(good, x, constant(x.type, 0.0))
    inside = b.select(
        b.fcmp_ordered("<", inside, constant(x.type, low)), constant(x.type, low), inside
    )
    inside = b.select(
        b.fcmp_ordered(">", inside, constant(x.type, high)), constant(x.type, high), inside
    )
    scaled = b.fmul(inside, constant(x.type, 1.4426950408889634))
    whole = _intrinsic(b, "rint", scaled)
    large, small = (
        (0.693359375, -2.12194440e-4) if single else (6.93145751953125e-1, 1.42860682030941723e-6)
    )
    r = b.fsub(inside, b.fmul(whole, constant(x.type, large), ("contract",)), ("contract",))
    r = b.fsub(r, b.fmul(whole, constant(x.type, small), ("contract",)), ("contract",))
    square = b.fmul(r, r)
    if single:
        p = _horner(
            b, r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                   1.6666665459e-1, 5.0000001201e-1),
        )  # fmt: skip
        y = b.fadd(b.fmul(p, square, ("contract",)), r, ("contract",))
        y = b.fadd(y, constant(x.type, 1.0))
    else:
        p = _horner(b, square, (1.26177193074810590878e-4, 3.02994407707441961300e-2, 1.0))
        p = b.fmul(p, r)
        q = _horner(
            b, square, (3.00198505138664455042e-6, 2.52448340349684104192e-3,
                        2.27265548208155028766e-1, 2.0),
        )  # fmt: skip
        ratio = b.fdiv(p, b.fsub(q, p))
        y = b.fadd(b.fmul(ratio, constant(x.type, 2.0)), constant(x.type, 1.0))
    # 2^(n - 1), then doubled: n may be one more than the largest exponent.
    n = b.fptosi(whole, integer)
    power = b.shl(b.add(n, constant(integer, bias - 1)), constant(integer, mantissa))
    y = b.fmul(b.fmul(y, b.bitcast(power, x.type)), constant(x.type, 2.0))
    y = b.select(b.fcmp_ordered("<", x, constant(x.type, low)), constant(x.type, 0.0), y)
    y = b.select(b.fcmp_ordered(">", x, constant(x.type, high)), constant(x.type, float("inf")), y)
    return b.select(good, y, x)


def library(b: Any, name: str, x: Any) -> Any:
    """Call a function of the C library (`log`, `tanh`, ...) for each lane."""
    scalar = _element(x.type)
    full = name + "f" if isinstance(scalar, ir.FloatType) else name
    module = b.module
    function = module.globals.get(full) or ir.Function(
        module, ir.FunctionType(scalar, [scalar]), full
    )
    if not isinstance(x.type, ir.VectorType):
        return b.call(function, [x])
    result = ir.Constant(x.type, ir.Undefined)
    for lane in range(x.type.count):
        at = ir.IntType(32)(lane)
        result = b.insert_element(result, b.call(function, [b.extract_element(x, at)]), at)
    return result
