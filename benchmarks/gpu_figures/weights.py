"""Weights that two machines make alike, so that a set for a GPU need not carry them twice.

Each large float constant of a network becomes seeded numbers of its own mean, spread and range. The artefact
is compiled with them; PyTorch's module is made of the network's text, where they are left out, and of what
`Spread` says of each.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module

Array = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """What seeded numbers stand for: how many, how they are spread, in which range."""

    mean: float
    deviation: float
    least: float
    most: float

    @staticmethod
    def of(array: Array) -> Spread:
        """Of a constant's numbers."""
        wide = array.astype(np.float64)
        return Spread(float(wide.mean()), float(wide.std()), float(wide.min()), float(wide.max()))

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The numbers, by the constant's name: the same on every machine (NumPy keeps this generator's)."""
        random = np.random.RandomState(zlib.crc32(name.encode()))
        numbers = self.mean + self.deviation * random.standard_normal(shape)
        return np.clip(numbers, self.least, self.most).astype(dtype)


def seeded(module: Module) -> tuple[Module, Module, dict[str, Spread]]:
    """A network with seeded weights; the same without them, each one number throughout; what they are.

    Constants keep their names.
    """
    full, light, spreads = module.clone(), module.clone(), dict[str, Spread]()
    for symbol, constant in module.constants.items():
        if not constant.type.dtype.is_float or constant.is_inline:
            continue
        spread = spreads[symbol] = Spread.of(constant.array)
        numbers = spread.array(symbol, constant.type.sizes, constant.type.dtype.numpy)
        full.constants[symbol].replace_uses(full.add_constant(f"{symbol}.seeded", numbers, constant.type))
        one = np.zeros((), constant.type.dtype.numpy)
        light.constants[symbol].replace_uses(light.add_constant(stand_in(symbol), one, constant.type))
    for each in (full, light):
        each.drop_unused_constants()
    return full, light, spreads


def stand_in(symbol: str) -> str:
    """What a constant is called where its numbers are left out."""
    return f"{symbol}.shape"


def to_rows(spreads: Mapping[str, Spread]) -> dict[str, dict[str, Any]]:
    """For JSON, by the names that constants have in the text without numbers."""
    return {stand_in(symbol): {**asdict(spread), "symbol": symbol} for symbol, spread in spreads.items()}


def array_of(row: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The numbers of a row of `to_rows`."""
    spread = Spread(row["mean"], row["deviation"], row["least"], row["most"])
    return spread.array(row["symbol"], shape, dtype)
