"""Seeded damage to models and to text IR, and the process in which damaged ones are read, lowered and run.

Run as `python -m tests.fuzz.mutation KIND FIRST COUNT [run]`: one line per case with its number and outcome,
so that the last line names the case that took the process down. With `run`, what can be lowered is compiled,
run on seeded inputs and compared with the interpreter.
"""

from __future__ import annotations

import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import RtccError
from rtcc.ir import Module
from rtcc.text import print_module
from tests.fuzz.agreement import disagreement
from tests.fuzz.models import models

MEMORY = 2 << 30
"""Bytes of its own that the process may take."""

SECONDS = 30
"""The processor time that one case may take in this process; code is generated in others."""

MOST_SECONDS = 300
"""The longest that one case may take by the clock, however busy the machine is."""

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
    """Work on `COUNT` damaged files from case `FIRST` on; see the module's docstring."""
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    damage, suffix = KINDS[kind]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for each in (signal.SIGVTALRM, signal.SIGALRM):
        signal.signal(each, _too_late)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        for number in range(first, first + count):
            path.write_bytes(damage(random.Random(number)))
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            signal.alarm(MOST_SECONDS)
            print(number, _outcome(path, number, is_run="run" in sys.argv), flush=True)


def _too_late(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s of this process, or {MOST_SECONDS} s by the clock")


def _outcome(path: Path, seed: int, *, is_run: bool) -> str:
    """`ok`, the code of a typed error, `wrong:` and where, or `crash:` and what it was."""
    try:
        compilation = start(path, Options())
        module = compilation.module.clone()
        compilation.lower()
        return _answer(path, module, seed) if is_run else "ok"
    except RtccError as error:
        return error.code
    except Exception as error:
        traceback.print_exc()
        return f"crash:{type(error).__name__}"


def _answer(path: Path, module: Module, seed: int) -> str:
    """How the compiled model answers, next to the interpreter."""
    with rtcc.compile(path) as artifact:
        feeds = artifact.random_inputs(seed)
        try:
            found = artifact.run(feeds)
        except RtccError as error:
            return f"run:{error.code}"
    try:
        with np.errstate(all="ignore"):
            expected = rtcc.interpret(module, feeds)
            exact = rtcc.interpret(module, feeds, precision="f64")
    except RtccError as error:
        return f"wrong: ran where the interpreter says {error.code}"
    wrong = disagreement(found, expected, exact)
    return f"wrong: {wrong}" if wrong else "ok"


if __name__ == "__main__":
    main()
