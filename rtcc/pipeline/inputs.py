"""Seeded inputs for a module: the same bytes for the same module and seed, in ranges its ops accept.

Floats are standard normal. 8-bit integers cover their range; wider ones are in [0, 8), unless an op takes
them (through casts and reshapes) as indices, then they are valid for its axis, or as a number of
iterations, then in [0, 4). A symbolic size is 2, moved into its bounds, unless given.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import RtccError
from rtcc.interpreter import input_names, interpret
from rtcc.ir import DType, Graph, Module, TensorType, Value
from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import Kind
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.control import Loop
from rtcc.ir.ops.winograd import WinogradConv

USUAL_SIZE = 2
"""What a symbolic dimension is, where its bounds allow it."""

SIZES_TO_TRY = (USUAL_SIZE, 1, 3, 4, 8, 16, 32, 48, 64, 128, 224, 256, 320, 512, 640, 1024)
"""What all symbolic dimensions are set to, in turn, until a module runs."""

MOST_ITERATIONS = 4
"""What the numbers of iterations of loops are below."""

MOST_FOLLOWED = 64
"""How many values are looked at on the way from an input to the ops that index with it."""


def random_inputs(
    module: Module, seed: int = 0, sizes: Mapping[str, int] | None = None, integers: int = 8
) -> dict[str, NDArray[Any]]:
    """One array per parameter of `main`, by name.

    sizes: values of symbolic dimensions, by symbol. integers: the bound of wide ones nothing else bounds.
    """
    feeds: dict[str, NDArray[Any]] = {}
    for name, parameter in zip(input_names(module.main), module.main.parameters, strict=True):
        shape = concrete_shape(parameter.type, sizes or {})
        dtype, bound = parameter.type.dtype, index_bound(parameter)
        feeds[name] = random_array(
            seeded(seed, name), dtype, shape, integers if bound is None and dtype.bits > 8 else bound
        )
    return feeds


def runnable_inputs(module: Module, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs on which the module runs: tries sizes for symbolic dimensions, and smaller integers.

    Raises RtccError "no-runnable-inputs" where none of `SIZES_TO_TRY` works: the caller must bind them.
    """
    parameters = module.main.parameters
    symbols = {
        s.name: s for p in parameters for d in p.type.shape if isinstance(d, Expression) for s in d.symbols
    }
    bounds = (8, 2, 1) if any(p.type.dtype.is_integer for p in parameters) else (8,)
    failure: Exception | None = None
    for size in SIZES_TO_TRY if symbols else SIZES_TO_TRY[:1]:
        sizes = {name: min(max(size, s.lower), s.upper) for name, s in symbols.items()}
        for integers in bounds:
            feeds = random_inputs(module, seed, sizes, integers)
            if not symbols and len(bounds) == 1:
                return feeds
            try:
                interpret(module, feeds)
            except (RtccError, ValueError, AssertionError) as error:
                failure = error
            else:
                return feeds
    tried = f" (sizes tried for {', '.join(symbols)}: {SIZES_TO_TRY})" if symbols else ""
    message = f"the module runs on none of the random inputs tried{tried}: {failure}"
    hint = "bind symbolic dimensions with --shape NAME=… or --dim NAME=…"
    raise RtccError("no-runnable-inputs", message, hint=hint)


def random_kernel_inputs(kernel: Graph, seed: int = 0) -> list[NDArray[Any]]:
    """One array of logical shape per parameter of a kernel; symbolic sizes as in `random_inputs`.

    Weights of Winograd's convolution are those of a filter: kernels take them for that.
    """
    arrays: list[NDArray[Any]] = []
    for index, parameter in enumerate(kernel.parameters):
        generator, dtype = seeded(seed, str(index)), parameter.type.dtype
        users = [use.op for use in parameter.uses if isinstance(use.op, WinogradConv) and use.slot == 1]
        shape = users[0].filter_shape if users else concrete_shape(parameter.type, {})
        array = random_array(generator, dtype, shape, index_bound(parameter))
        arrays.append(users[0].transformed(array, users[0].outputs).astype(dtype.numpy) if users else array)
    return arrays


def seeded(seed: int, name: str) -> np.random.Generator:
    """The source of an input's numbers: the same for every module and artefact with an input of that name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def with_special_values(feeds: Mapping[str, NDArray[Any]], seed: int = 0) -> dict[str, NDArray[Any]]:
    """The arrays, with NaN, infinities, zeros of both signs and tiny numbers in half of every float one."""
    generator = np.random.default_rng([seed, 1])
    found: dict[str, NDArray[Any]] = {}
    for name, array in feeds.items():
        if DType.of(array.dtype).is_float:
            specials = np.array(SPECIAL_VALUES).astype(array.dtype)
            chosen = specials[generator.integers(0, len(specials), array.shape)]
            array = np.where(generator.integers(0, 2, array.shape) == 1, chosen, array)
        found[name] = array
    return found


SPECIAL_VALUES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 6.0)
"""What `with_special_values` puts in."""


def concrete_shape(type: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with every symbol at its given size, else 2 where its bounds allow that."""
    shape: list[int] = []
    for dimension in type.shape:
        if isinstance(dimension, Expression):
            usual = {s.name: min(max(USUAL_SIZE, s.lower), s.upper) for s in dimension.symbols}
            dimension = dimension.substitute({**usual, **sizes})
            assert isinstance(dimension, int)
        shape.append(dimension)
    return tuple(shape)


def random_array(
    generator: np.random.Generator, dtype: DType, shape: tuple[int, ...], bound: int | None = None
) -> NDArray[Any]:
    """An array of that type; bound: integers are in [0, bound)."""
    match dtype.kind:
        case Kind.FLOAT:
            return generator.standard_normal(shape).astype(dtype.numpy)
        case Kind.COMPLEX:
            parts = generator.standard_normal((2, *shape))
            return (parts[0] + 1j * parts[1]).astype(dtype.numpy)
        case Kind.BOOL:
            return generator.integers(0, 2, shape).astype(bool)
        case Kind.STRING:
            words = np.array(["alpha", "beta", "gamma", ""], object)
            return np.asarray(words[generator.integers(0, len(words), shape)], object)
        case Kind.SIGNED | Kind.UNSIGNED:
            low, high = _integer_range(dtype, bound)
            return generator.integers(low, high, shape).astype(dtype.numpy)


def _integer_range(dtype: DType, bound: int | None) -> tuple[int, int]:
    if bound is not None:
        most = 2 ** (dtype.bits - 1) if dtype.kind is Kind.SIGNED else 2**dtype.bits
        return 0, max(1, min(bound, most))
    if dtype.bits > 8:
        return 0, 8
    return (
        (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1)) if dtype.kind is Kind.SIGNED else (0, 2**dtype.bits)
    )


def index_bounds(graph: Graph) -> dict[str, int]:
    """For every parameter that ops index with: what its elements must stay below, by the parameter's name."""
    found = zip(input_names(graph), map(index_bound, graph.parameters), strict=True)
    return {name: bound for name, bound in found if bound is not None}


def index_bound(value: Value) -> int | None:
    """The smallest bound that an indexing op sets on the value's elements, None where none does."""
    bounds: list[int] = []
    pending, seen = [value], {value}
    while pending and len(seen) < MOST_FOLLOWED:
        current = pending.pop(0)
        for use in current.uses:
            is_count = isinstance(use.op, Loop) and use.slot == Loop.trip_count.index
            bound = MOST_ITERATIONS if is_count else use.op.index_limit(use.slot)
            if bound is not None:
                bounds.append(bound)
            followed = use.op.is_moved_operand(use.slot) or isinstance(use.op, Cast)
            new = [result for result in use.op.results if followed and result not in seen]
            pending += new
            seen.update(new)
    return min(bounds, default=None)

