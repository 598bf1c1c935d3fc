"""Seeded damage to models and to text IR, and the process in which damaged ones are read and lowered.

Run as `python -m tests.errors.mutation KIND FIRST COUNT`: one line per case with its number and outcome, so
that the last line names the case that took the process down.
"""

from __future__ import annotations

import random
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto, helper

from rtcc.compiler import Options, start
from rtcc.errors import RtccError
from rtcc.text import print_module
from tests.frontend.models import make_model, value

MEMORY = 6 << 30
"""Bytes of address space that reading and lowering these small models may take."""

INTEGERS = (0, 1, -1, 2, 3, -2, 7, 16, 255, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -1.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e38, 1e-45)
TEXTS = (
    "", "x", 'a"b', "a\nb", "%s%n", "../../etc/x", "*/ int main(){} /*", "é☃", "a" * 5000, "\\", "??/",
    "%0", "_", "\0", "\x1b[31m", "Relu", "Conv", "ai.onnx.ml", "N",
)  # fmt: skip
WORDS = (
    "_", "%x", "#c", "@main", "[1,2]", "[]", "{}", "9" * 5000, "-1", "1e400", "nan", '"\\ud800"', "f32[]",
    "f32[0]", "f32[4611686018427387904,4]", "f32[-1]", "f32[N]", "string[1]", "splat(1)", "(" * 2000, "}",
    "{", "return(", "true", 'loc("x")', '"workspace+99999999999"', '"const+0"', '"user:9"', "\0",
)  # fmt: skip


def models() -> list[ModelProto]:
    """Small models that between them use most of what a reader has to look at."""
    f32 = np.float32
    convolution = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "s"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    arrays = {
        "w": np.ones((4, 3, 3, 3), f32), "b": np.ones(4, f32), "s": np.array([1, -1]),
        "g": np.ones((5, 16), f32),
    }  # fmt: skip
    shapes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("Gather", ["n", "i"], ["d"], axis=0),
        helper.make_node("ConstantOfShape", ["d"], ["z"]),
        helper.make_node("Concat", ["x", "z"], ["k"], axis=1),
        helper.make_node("Slice", ["k", "from", "to"], ["l"]),
        helper.make_node("Softmax", ["l"], ["m"], axis=-1),
        helper.make_node("ReduceMean", ["m", "axes"], ["y"], keepdims=0),
    ]
    integers = {
        "i": np.array([0, 1]), "from": np.array([0, 1]), "to": np.array([2, 99]), "axes": np.array([1]),
    }  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "x"], ["o"]), helper.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", (), np.int64), value("c", (), np.bool_), value("v", (3,))],
        [value("d", (), np.bool_), value("o", (3,))],
    )  # fmt: skip
    branch = helper.make_graph([helper.make_node("Neg", ["t"], ["e"])], "branch", [], [value("e", (3,))])
    other = helper.make_graph([helper.make_node("Abs", ["t"], ["e"])], "other", [], [value("e", (3,))])
    control = [
        helper.make_node("Loop", ["n", "", "x"], ["t"], body=body),
        helper.make_node("If", ["q"], ["y"], then_branch=branch, else_branch=other),
    ]
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    called = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    return [
        make_model(convolution, [value("x", (1, 3, 4, 4))], ["y"], arrays),
        make_model(shapes, [value("x", (2, 3))], ["y"], integers),
        make_model(control, [value("x", (3,)), value("q", (), np.bool_)], ["y"], {"n": np.array(4)}),
        make_model([called], [value("x", ("N",))], ["y"], functions=[function], domains=["mine"]),
    ]


def damaged_bytes(dice: random.Random) -> bytes:
    """A model with some bytes changed, or cut short."""
    content = bytearray(dice.choice(models()).SerializeToString())
    if dice.random() < 0.2:
        return bytes(content[: dice.randrange(len(content))])
    for _ in range(dice.choice((1, 1, 2, 4))):
        content[dice.randrange(len(content))] = dice.randrange(256)
    return bytes(content)


def damaged_fields(dice: random.Random) -> bytes:
    """A model that still is protobuf, with some fields changed."""
    model = dice.choice(models())
    for _ in range(dice.choice((1, 1, 2, 3))):
        if dice.random() < 0.2:
            _rewire(model, dice)
        else:
            _change_field(model, dice)
    return model.SerializeToString()


def damaged_text(dice: random.Random) -> bytes:
    """A model as text at some level, with some lines, words or numbers changed."""
    compilation = start(dice.choice(models()[:3]), Options())
    if dice.random() < 0.7:
        compilation.lower()
    text = print_module(compilation.module)
    for _ in range(dice.choice((1, 1, 2))):
        text = _change_line(text, dice)
    return text.encode("utf-8")


KINDS: dict[str, tuple[Callable[[random.Random], bytes], str]] = {
    "bytes": (damaged_bytes, ".onnx"), "fields": (damaged_fields, ".onnx"), "text": (damaged_text, ".rtir"),
}  # fmt: skip


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, content in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in content if field.is_repeated else [content]:
                yield from _messages(inner)


def _change_field(model: ModelProto, dice: random.Random) -> None:
    message = dice.choice(list(_messages(model)))
    present = [field for field, _ in message.ListFields()]
    field = dice.choice(present if present and dice.random() < 0.75 else message.DESCRIPTOR.fields)
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    if field.is_repeated:
        items = getattr(message, field.name)
        if len(items) and dice.random() < 0.4:
            del items[dice.randrange(len(items))]
        elif is_message:
            items.add().CopyFrom(dice.choice(items) if len(items) else items.add())
        elif len(items) and dice.random() < 0.7:
            items[dice.randrange(len(items))] = _content(field, dice)
        else:
            items.append(_content(field, dice))
    elif is_message or dice.random() < 0.25:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _content(field, dice))


def _content(field: Any, dice: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return dice.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return dice.choice((b"", b"\0", b"\xff" * 8, b"SAME_UPPER", b"linear", dice.randbytes(16)))
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return dice.choice(FLOATS)
        case FieldDescriptor.TYPE_ENUM:
            return dice.choice(field.enum_type.values).number
        case FieldDescriptor.TYPE_INT32:
            return max(-(2**31), min(2**31 - 1, dice.choice(INTEGERS)))
        case FieldDescriptor.TYPE_UINT64:
            return abs(dice.choice(INTEGERS))
        case _:
            return dice.choice(INTEGERS)


def _rewire(model: ModelProto, dice: random.Random) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)] or [""]
    if model.graph.node:
        node = dice.choice(model.graph.node)
        ends = node.input if dice.random() < 0.7 else node.output
        if ends:
            ends[dice.randrange(len(ends))] = dice.choice([*names, ""])


def _change_line(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    at = dice.randrange(len(lines))
    match dice.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, dice.choice(lines))
        case 2:
            words = re.findall(r"[\w.]+|\s+|[^\w\s]", lines[at]) or [""]
            words[dice.randrange(len(words))] = dice.choice((*WORDS, *words))
            lines[at] = "".join(words)
        case _:
            numbers = list(re.finditer(r"\d+", lines[at]))
            if numbers:
                found = dice.choice(numbers)
                new = dice.choice(("0", "1", "-1", "3", "64", "65536", "4611686018427387904", "9" * 30))
                lines[at] = lines[at][: found.start()] + new + lines[at][found.end() :]
    return "\n".join(lines)


def main() -> None:
    """Read and lower `COUNT` damaged files from case `FIRST` on; see the module's docstring."""
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    damage, suffix = KINDS[kind]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        for number in range(first, first + count):
            path.write_bytes(damage(random.Random(number)))
            print(number, _outcome(path), flush=True)


def _outcome(path: Path) -> str:
    """`ok`, the code of a typed error, or `crash:` and what it was."""
    try:
        start(path, Options()).lower()
    except RtccError as error:
        return error.code
    except Exception as error:
        traceback.print_exc()
        return f"crash:{type(error).__name__}"
    return "ok"


if __name__ == "__main__":
    main()
