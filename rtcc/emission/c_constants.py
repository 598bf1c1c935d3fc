"""Weights as C: static arrays under their ONNX names, so that a linker puts them where constants go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.emission.header import identifier
from rtcc.emission.steps import Address
from rtcc.emission.walk import comment_text
from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Module
from rtcc.ir.ops.plan import Place, PlanConstant

TYPES = {
    DType.BOOL: "uint8_t", DType.I8: "int8_t", DType.U8: "uint8_t", DType.I16: "int16_t",
    DType.U16: "uint16_t", DType.BF16: "uint16_t", DType.I32: "int32_t", DType.U32: "uint32_t",
    DType.I64: "int64_t", DType.U64: "uint64_t", DType.F32: "float", DType.F64: "double",
}  # fmt: skip
"""Element types as they are stored."""

_PER_LINE = {DType.F32: 8, DType.F64: 4, DType.I64: 8, DType.U64: 4, DType.I32: 10, DType.U32: 10}
_CHUNK = 1 << 16


@dataclass
class CConstants:
    """The constants of a planned module, and which of them something has asked for."""

    pieces: dict[int, PlanConstant]
    names: dict[int, str]
    used: set[int] = field(default_factory=set[int])

    @staticmethod
    def of(module: Module) -> CConstants:
        """Those of a module, by their offsets in its block of constants."""
        ops = [op for op in module.main.walk() if isinstance(op, PlanConstant)]
        pieces = {Place.parse(op.place).offset: op for op in ops}
        names: dict[int, str] = {}
        for offset, op in sorted(pieces.items()):
            assert isinstance(op.data, Constant), f"{op!r} is not of a named constant"
            name, base = identifier(op.data.symbol), identifier(op.data.symbol)
            while name in names.values():
                name = f"{base}_{len(names)}"
            names[offset] = name
        return CConstants(pieces, names)

    def pointer(self, address: Address) -> str:
        """An address among the constants, as a kernel takes it."""
        offset = max(each for each in self.pieces if each <= address.offset)
        self.used.add(offset)
        return f"CONST({self.names[offset]}, {address.offset - offset})"

    def texts(self) -> Iterator[str]:
        """The arrays that were asked for, in pieces. Unsupported for element types that C99 has not."""
        for offset in sorted(self.used):
            yield from self._array(self.names[offset], self.pieces[offset])

    def _array(self, name: str, op: PlanConstant) -> Iterator[str]:
        assert isinstance(op.data, Constant), f"{op!r} is not of a named constant"
        type = op.results[0].type
        assert type.layout is None, f"{op!r} has a storage layout; plain loops take plain tensors"
        if type.dtype not in TYPES:
            raise Unsupported(
                "unsupported-in-c", f"C99 has no type for the {type.dtype.value} of #{op.data.symbol}",
                where=f"#{op.data.symbol}", hint="convert the model to float32 or an integer type",
            )  # fmt: skip
        array = np.ascontiguousarray(op.data.array).reshape(-1)
        yield f"/* {comment_text(f'{op.data.symbol}: {type}')} */\n"
        yield f"static const {TYPES[type.dtype]} const_{name}[{max(1, array.size)}] = {{\n"
        width = _PER_LINE.get(type.dtype, 20)
        chunk = _CHUNK // width * width
        for start in range(0, max(1, array.size), chunk):
            texts = _texts(array[start : start + chunk], type.dtype) or ["0"]
            rows = (texts[place : place + width] for place in range(0, len(texts), width))
            yield "".join(f"    {', '.join(row)},\n" for row in rows)
        yield "};\n\n"


def _texts(array: NDArray[Any], dtype: DType) -> list[str]:
    """Elements as initialisers: of floats the fewest digits that give back the same number."""
    if dtype in (DType.F32, DType.F64):
        suffix = "f" if dtype is DType.F32 else ""
        return [_float(text, suffix) for text in array.astype("U32").tolist()]
    stored = array.view(np.uint16) if dtype is DType.BF16 else array
    numbers = stored.astype(np.uint8).tolist() if dtype is DType.BOOL else stored.tolist()
    match dtype:
        case DType.I64:
            return ["INT64_MIN" if n == -(2**63) else f"INT64_C({n})" for n in numbers]
        case DType.U64:
            return [f"UINT64_C({n})" for n in numbers]
        case DType.I32:
            return ["INT32_MIN" if n == -(2**31) else str(n) for n in numbers]
        case DType.U32:
            return [f"{n}u" for n in numbers]
        case _:
            return list(map(str, numbers))


def _float(text: str, suffix: str) -> str:
    match text:
        case "nan" | "-nan":
            return "NAN"
        case "inf" | "-inf":
            return text.replace("inf", "INFINITY")
        case _:
            return text + suffix if "." in text or "e" in text else f"{text}.0{suffix}"
