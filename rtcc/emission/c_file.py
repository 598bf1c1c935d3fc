"""A planned module as one C99 file: constants, kernels, the walk that calls them, and the interface.

    what it is  +  interface  +  constants  +  helpers  +  kernels  +  walk  +  checks and entries
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from textwrap import wrap

from rtcc import __version__
from rtcc.artifact.codes import function_text
from rtcc.artifact.info import ArtifactInfo
from rtcc.emission.blob import blob_of
from rtcc.emission.c_constants import CConstants
from rtcc.emission.c_kernel import PLACEHOLDER, CKernel
from rtcc.emission.emit_c import (
    ModelSource,
    arena_bytes,
    calls_of,
    hash_of,
    info_text,
    part_text,
    tables_text,
    tensors_of,
)
from rtcc.emission.header import SOURCE_ALIGNMENT, SOURCE_HEAD_BYTES, TABLE, header_text, identifier
from rtcc.emission.shapes import shape_function_text
from rtcc.emission.steps import Address, Base, Call, Copy, If, Loop, Step, steps_of
from rtcc.emission.walk import WalkWriter, comment_text
from rtcc.interpreter import input_names, output_names
from rtcc.ir import Graph, Module
from rtcc.state import state_of
from rtcc.system.files import NewFile, alone_in, replace_files
from rtcc.system.machine import Machine
from rtcc.text.printer import print_graph

_LONGEST_LITERAL = 4095
"""Characters of a string that every C99 compiler takes (5.2.4.1)."""

_WIDTH = 110


_POINTERS = [
    ("IN(number, offset)", "((void *)((const char *)in[number] + (offset)))"),
    ("OUT(number, offset)", "((void *)((char *)out[number] + (offset)))"),
    ("CONST(name, offset)", "((void *)((const char *)const_##name + (offset)))"),
    ("ARENA(offset)", "((void *)(arena + (offset)))"),
]
"""Without const, since C99 lets no pointer to constant bytes become one to rows of constants."""


@dataclass(frozen=True)
class CFile:
    """A model's C file, and the header for who calls it.

    code, kernels, entries: what stands before the constants, before the info and behind it. machine: where a
    library of it is to run.
    """

    info: ArtifactInfo
    code: str
    constants: CConstants
    kernels: str
    entries: str
    machine: Machine

    def texts(self, info: ArtifactInfo | None = None) -> Iterator[str]:
        """The file, in pieces. info: what it says of itself, where that is not its own."""
        yield self.code
        yield from self.constants.texts()
        yield "\n".join([self.kernels, _info(info or self.info), self.entries])

    @property
    def header(self) -> str:
        """The header, which the file contains as well."""
        return header_text(self.info, is_source=True, is_library=False)

    def write(self, path: Path) -> Path:
        """Write PATH.c and its header PATH.h; or PATH.so or PATH.a, which this machine's C compiler makes."""
        if path.suffix != ".c":
            return self.library().write(path)
        header = NewFile(path.with_suffix(".h"), self.header.encode("ascii"))
        with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
            written = Path(folder) / "model.c"
            with written.open("w", encoding="ascii") as file:
                file.writelines(self.texts())
            with alone_in(path.parent):
                replace_files([header, NewFile(path, written)])
        return path

    def library(self) -> ModelSource:
        """The same code with what a shared object has for its loader."""
        opened = '#pragma GCC visibility push(default)\n#include <stddef.h>\n#include <stdint.h>\n'
        table = _LOADERS_TABLE.replace("@NAME@", self.info.name).replace("@UPPER@", self.info.name.upper())
        info = replace(self.info, triple=self.machine.triple)
        code = "".join([opened, TABLE, *self.texts(info), table])
        header = header_text(info, is_source=True)
        return ModelSource(info, code, header, b"", {}, self.machine)


_LOADERS_TABLE = """
static size_t rtcc_workspace_bytes(int threads) { return @UPPER@_WORKSPACE_BYTES(threads); }

__attribute__((weak)) const struct rtcc_artifact rtcc_artifact_v1 = {
    sizeof(struct rtcc_artifact), 1, rtcc_workspace_bytes, @NAME@_init, @NAME@_run, @NAME@_output_shape,
    @NAME@_finish, @NAME@_info, @NAME@_error,
};
"""


def c_file(
    module: Module, name: str, kernels: Mapping[str, CKernel], machine: Machine, versions: Mapping[str, str]
) -> CFile:
    """The C file of a module at the plan level.

    name: the file's stem; functions are called by the identifier made of it. kernels: the C of each.
    """
    assert module.level == "plan", f"emission needs the plan level, found {module.level}"
    graph, weights = module.main, blob_of(module, embedded=False)
    steps = steps_of(graph)
    used = list(dict.fromkeys(call.kernel for call in calls_of(steps)))
    hashes = {
        "weights": sha256(weights).hexdigest(),
        "kernels": hash_of(part for kernel in used for part in (kernel.encode(), kernels[kernel].to_bytes())),
    }
    constants = CConstants.of(module)
    walk = _walk_text(steps, kernels, constants)
    info = ArtifactInfo(
        name=identifier(name),
        inputs=tensors_of(input_names(graph), graph.parameters, "input", graph.attributes.get("below", {})),
        outputs=tensors_of(output_names(graph), graph.returned, "output", {}),
        target=module.target,
        triple="c99",
        features=(),
        threads=1,
        workspace_bytes=SOURCE_HEAD_BYTES + arena_bytes(graph, steps),
        thread_bytes=0,
        weights_bytes=len(weights),
        weights_file=None,
        state=state_of(graph),
        versions={"rtcc": __version__, **versions},
        hashes=hashes,
    )
    identity = hash_of(text.encode() for text in (info.to_json(), walk, shape_function_text(graph)))
    info = replace(info, hashes={**hashes, "model": identity})
    entries = part_text("source_entries.c").replace("@NAME@", info.name).replace("@UPPER@", info.name.upper())
    body = [*_kernel_texts(module, used, kernels), walk, shape_function_text(graph), function_text()]
    head, end = _head(info, {k: kernels[k] for k in used}), "\n".join([part_text("checks.c"), entries])
    return CFile(info, head, constants, "\n".join(body), end, machine)


def _head(info: ArtifactInfo, kernels: Mapping[str, CKernel]) -> str:
    """What stands before the constants."""
    headers = {"float.h", "stddef.h", "stdint.h", "string.h", "math.h"}
    headers.update(header for kernel in kernels.values() for header in kernel.headers)
    rows: list[tuple[str, object]] = [
        ("RTCC_MAGIC", f"UINT64_C(0x{info.hashes['model'][:16]})"),
        ("RTCC_ALIGNMENT", SOURCE_ALIGNMENT),
        ("RTCC_HEAD_BYTES", SOURCE_HEAD_BYTES),
        ("RTCC_INPUT_COUNT", len(info.inputs)),
        ("RTCC_OUTPUT_COUNT", len(info.outputs)),
        *_POINTERS,
    ]
    tensors = [f" *     {side} {n}: {comment_text(f'{t.name}: {t.dtype}{list(t.shape)}')}"
               for side, of in (("input", info.inputs), ("output", info.outputs))
               for n, t in enumerate(of)]  # fmt: skip
    return "\n".join([
        f"/* {info.name}.c: a neural network as C99, made by rtcc {__version__}; do not edit.",
        " *",
        *tensors,
        f" *     {info.weights_bytes} bytes of constants, {info.workspace_bytes} bytes of workspace",
        " *",
        " * cc -std=c99 -O2 -c; it calls functions of string.h and math.h, and no others. */",
        *(f"#include <{header}>" for header in sorted(headers)),
        "",
        header_text(info, is_source=True, is_library=False),
        *(f"#define {key} {value}" for key, value in rows),
        "",
        part_text("source_head.c"),
        "/* ---- constants ---- */\n\n",
    ])  # fmt: skip


def _info(info: ArtifactInfo) -> str:
    """What `info` returns, and the tables of the caller's tensors."""
    text = info.to_json()
    if len(text) <= _LONGEST_LITERAL:
        return f"{tables_text(info)}\n{info_text(info)}"
    numbers = ", ".join(map(str, (*text.encode("ascii"), 0)))
    rows = "\n".join(wrap(numbers, _WIDTH, initial_indent="    ", subsequent_indent="    "))
    return f"{tables_text(info)}\nstatic const char rtcc_info_text[] = {{\n{rows}\n}};\n"


def _kernel_texts(module: Module, used: list[str], kernels: Mapping[str, CKernel]) -> Iterator[str]:
    """Helpers, then each kernel under the IR that it computes."""
    helpers = {name: text for kernel in used for name, text in kernels[kernel].helpers.items()}
    if helpers:
        yield "/* ---- what C has no operator for ---- */\n"
        yield from helpers.values()
    yield "/* ---- kernels ---- */\n"
    for kernel in used:
        function = kernels[kernel].function.replace(PLACEHOLDER, f"kernel_{kernel}")
        yield f"{_comment(module.kernels[kernel])}\n{function}"


def _comment(kernel: Graph) -> str:
    """A kernel's IR as a comment."""
    lines = print_graph(kernel, "kernel").strip().splitlines()
    rows = [part for line in lines for part in _folded(comment_text(line))]
    return "\n".join([f"/* {rows[0]}", *(f" * {row}" for row in rows[1:]), " */"])


def _folded(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return wrap(line.strip(), _WIDTH - 3, initial_indent=indent, subsequent_indent=indent + "    ",
                break_long_words=False, break_on_hyphens=False) or [""]  # fmt: skip


class _SourceWriter(WalkWriter):
    """The walk of one thread over typed kernels; it returns as soon as one fails."""

    def __init__(self, kernels: Mapping[str, CKernel], constants: CConstants) -> None:
        super().__init__({kernel: f"kernel_{kernel}" for kernel in kernels}, 1)
        self.kernels = kernels
        self.constants = constants
        self.can_fail = False

    def step(self, step: Step, guard: str) -> None:
        match step:
            case Call():
                self.call(step, guard)
            case Copy():
                source, destination = self.pointer(step.source), self.pointer(step.destination)
                self.line(f"memmove({destination}, {source}, {step.destination.bytes});")
            case If():
                self.branches(step, serial=True)
            case Loop():
                self.rounds(step, [])

    def call(self, step: Call, guards: str) -> None:
        scratch = () if step.scratch is None else (step.scratch,)
        arguments = ", ".join(map(self.pointer, (*step.reads, *step.writes, *scratch)))
        text = f"{self.symbols[step.kernel]}({arguments})"
        self.line(f"/* {comment_text(step.comment)} */")
        if not self.kernels[step.kernel].can_fail:
            self.line(f"{text};")
            return
        self.can_fail = True
        self.line(f"if ((code = {text}) != RTCC_OK)")
        self.line("    return code;")

    def pointer(self, address: Address) -> str:
        match address.base:
            case Base.ARENA:
                return f"ARENA({address.offset})"
            case Base.WEIGHTS:
                return self.constants.pointer(address)
            case Base.INPUT | Base.OUTPUT:
                return f"{address.base.value.upper()}({address.index}, {address.offset})"
            case Base.ITERATION:
                return super().pointer(address)


def _walk_text(steps: tuple[Step, ...], kernels: Mapping[str, CKernel], constants: CConstants) -> str:
    """The C function that calls the kernels in their order."""
    writer = _SourceWriter(kernels, constants)
    writer.all_of(steps)
    lines = writer.lines
    unused = [name for name in ("arena", "in", "out") if not any(_reads(line, name) for line in lines)]
    return "\n".join([
        "/* ---- the network ---- */",
        "",
        "static int32_t rtcc_walk(unsigned char *arena, const void *const *in, void *const *out)",
        "{",
        *(["    int32_t code;"] if writer.can_fail else []),
        *(f"    (void){name};" for name in unused),
        *lines,
        "    return RTCC_OK;",
        "}",
        "",
    ])  # fmt: skip


def _reads(line: str, name: str) -> bool:
    return f"{name.upper()}(" in line.partition("/*")[0]
