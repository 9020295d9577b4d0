"""The matrix work of a program, counted from its trace: what every compiler must do, however it does it."""

import math

from jax.extend import core


def matrix_flops(jaxpr: core.ClosedJaxpr) -> int:
    """Two for each multiplication and addition of the products and convolutions of a trace.

    Elementwise work is not counted, nor what a branch not taken would do: of several the greatest counts.
    """
    return _of(jaxpr.jaxpr)


def _of(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        contracted, _ = params["dimension_numbers"][0]
        return 2 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        spec = params["dimension_numbers"].rhs_spec  # (out, in, *sides)
        return 2 * out * math.prod(kernel[axis] for axis in spec[1:])
    inner = [_of(found) for value in params.values() for found in _jaxprs(value)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * params.get("length", 1)


def _jaxprs(value):
    """The jaxprs of a parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _jaxprs(one)
