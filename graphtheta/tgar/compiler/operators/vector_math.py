"""LLVM instructions of functions of floats and of vectors of floats.

`exp` is a polynomial after Cody and Waite's range reduction (coefficients of the Cephes library),
evaluated on whole vectors; rarer functions call the C library for each lane. Infinities and
not-a-number give what they give in torch; results below the smallest normal number may be 0.

`b` is an `llvmlite.ir.IRBuilder`, and operands are LLVM values, scalars or vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

__all__ = [
    "FLAGS",
    "compare",
    "constant",
    "declared",
    "elu",
    "exp",
    "extreme",
    "leaky_relu",
    "library",
    "magnitude",
    "relu",
    "sigmoid",
    "splat",
    "sqrt",
]

# Sums may be regrouped and fused with products. Infinities must be kept.
FLAGS = ("reassoc", "contract", "nsz")


def _element(kind: Any) -> Any:
    """Return the scalar type of a scalar or vector type."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def constant(kind: Any, value: float | int) -> Any:
    """Return a constant of a scalar type, or one repeated in a vector."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def splat(b: Any, value: Any, lanes: int) -> Any:
    """Repeat a scalar in a vector of `lanes`; a single lane remains a scalar."""
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
    return b.call(declared(b, full, kind, [a.type for a in args]), args)


def declared(b: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return an external function, declared in the module on first use."""
    kind = ir.FunctionType(result, arguments)
    return b.module.globals.get(name) or ir.Function(b.module, kind, name)


def library(name: str) -> Callable[[Any, Any], Any]:
    """Return a function that calls the C library's `name` (`log`, `tanh`, ...) for each lane."""

    def emit(b: Any, x: Any) -> Any:
        scalar = _element(x.type)
        full = name + "f" if isinstance(scalar, ir.FloatType) else name
        function = declared(b, full, scalar, [scalar])
        if not isinstance(x.type, ir.VectorType):
            return b.call(function, [x])
        result = ir.Constant(x.type, ir.Undefined)
        for lane in range(x.type.count):
            at = ir.IntType(32)(lane)
            result = b.insert_element(result, b.call(function, [b.extract_element(x, at)]), at)
        return result

    return emit


def compare(b: Any, x: Any, y: Any, sign: str) -> Any:
    """Compare floats or signed integers; comparisons with not-a-number are false, `!=` is true."""
    if isinstance(_element(x.type), ir.IntType):
        return b.icmp_signed(sign, x, y)
    return (b.fcmp_unordered if sign == "!=" else b.fcmp_ordered)(sign, x, y)


def extreme(b: Any, x: Any, y: Any, sign: str) -> Any:
    """Return the larger (`>`) or the smaller (`<`) of two floats, or not-a-number if either is."""
    return b.select(b.or_(b.fcmp_ordered(sign, x, y), b.fcmp_unordered("uno", x, x)), x, y)


def sqrt(b: Any, x: Any) -> Any:
    """Return the square root."""
    return _intrinsic(b, "sqrt", x)


def sigmoid(b: Any, x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    one = constant(x.type, 1.0)
    return b.fdiv(one, b.fadd(one, exp(b, b.fneg(x))))


def magnitude(b: Any, x: Any) -> Any:
    """Return the absolute value."""
    return b.select(b.fcmp_ordered("<", x, constant(x.type, 0.0)), b.fneg(x), x)


def relu(b: Any, x: Any) -> Any:
    """Return x, or 0 if it is negative."""
    zero = constant(x.type, 0.0)
    return b.select(b.fcmp_ordered("<", x, zero), zero, x)


def leaky_relu(b: Any, x: Any, slope: float) -> Any:
    """Return x, or slope * x if it is not positive."""
    below = b.fmul(x, constant(x.type, slope))
    return b.select(b.fcmp_ordered(">", x, constant(x.type, 0.0)), x, below)


def elu(b: Any, x: Any, alpha: float) -> Any:
    """Return x, or alpha * (exp(x) - 1) if it is not positive."""
    below = b.fmul(library("expm1")(b, x), constant(x.type, alpha))
    return b.select(b.fcmp_ordered(">", x, constant(x.type, 0.0)), x, below)


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
    # Not-a-number cannot be converted to an integer: compute with 0, and put it back at the end.
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
