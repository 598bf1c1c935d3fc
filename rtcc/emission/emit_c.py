"""A planned module as C: one self-contained `model.c`, its header, its weights, and the kernels under
unique names.

configuration  +  cpu.c  +  runtime.h  +  tables and launch list  +  runtime.c   =   model.c

Before runtime.c stands what needs an operating system, or what takes its place: threads, a file of weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from rtcc import __version__
from rtcc.artifact.codes import Part, function_text
from rtcc.artifact.elf import rename_and_hide
from rtcc.artifact.info import ArtifactInfo, TensorInfo
from rtcc.emission.blob import blob_of, checksum
from rtcc.emission.features import cpu_text
from rtcc.emission.header import header_text, identifier
from rtcc.emission.room import Room
from rtcc.emission.shapes import shape_function_text
from rtcc.emission.steps import Base, Call, If, Loop, Step, is_serial, reads_and_writes, steps_of
from rtcc.emission.walk import walk_text
from rtcc.emission.weights import weights_text
from rtcc.errors import InvalidInput
from rtcc.interpreter import input_names, output_names
from rtcc.ir import Graph, Module, Value
from rtcc.ir.dimension import upper_bound
from rtcc.state import state_of
from rtcc.system.machine import Machine
from rtcc.target import WeightsName

_HEAD_BYTES, BARE_HEAD_BYTES = 640, 64
_WORKER_BYTES = 32


@dataclass(frozen=True)
class ModelSource:
    """Everything that linking needs. `objects` are by file name; `weights` lies beside the artefact as
    `info.weights_file` where that is set, and is embedded otherwise. room: what it must fit into. libraries:
    options of the linker for others than the runtime's usual ones."""

    info: ArtifactInfo
    code: str
    header: str
    weights: bytes | bytearray
    objects: dict[str, bytes]
    machine: Machine
    room: Room | None = None
    libraries: tuple[str, ...] = ()

    def write(self, path: Path) -> Path:
        """Compile and link it to PATH.so or PATH.a, with the header and external weights beside it."""
        from rtcc.emission.link import write_artifact

        return write_artifact(self, path)


def emit_c(
    module: Module,
    name: str,
    machine: Machine,
    objects: Mapping[str, bytes],
    *,
    threads: int = 1,
    weights_name: WeightsName | None = None,
    versions: Mapping[str, str] | None = None,
    device: bool = False,
) -> ModelSource:
    """The C of a module at the plan level.

    name: the output file's stem; functions are called by the identifier made of it. objects: each kernel's
    object file, whose one global function it is. threads: the largest number that init will accept.
    weights_name: keeps the weights in a file, called so. versions: of the packages that made the kernels.
    device: whether kernels may report a device's errors.
    Raises `RtccError` where constants or features do not fit.
    """
    assert module.level == "plan", f"emission needs the plan level, found {module.level}"
    if threads < 1:
        raise InvalidInput("threads", f"threads must be at least 1, found {threads}")
    if machine.is_bare and weights_name is not None:
        raise InvalidInput(
            "weights-external",
            "there are no files where nothing runs but the program",
            hint="leave --weights external out; docs/cortex-m.md says how to place weights",
        )
    graph, weights = module.main, blob_of(module, embedded=weights_name is None)
    steps = steps_of(graph)
    used = kernels_of(steps)
    missing = [kernel for kernel in used if kernel not in objects]
    assert not missing, f"no object code for {missing}"
    hashes = {
        "weights": hashlib.sha256(weights).hexdigest(),
        "kernels": hash_of(part for kernel in used for part in (kernel.encode(), objects[kernel])),
    }
    stem = identifier(name)
    info = ArtifactInfo(
        name=stem,
        inputs=tensors_of(input_names(graph), graph.parameters, "input", graph.attributes.get("below", {})),
        outputs=tensors_of(output_names(graph), graph.returned, "output", {}),
        target=module.target,
        triple=machine.triple,
        features=tuple(sorted(machine.features)),
        threads=threads,
        workspace_bytes=_head_bytes(machine, threads) + arena_bytes(graph, steps),
        thread_bytes=_thread_bytes(steps) if threads > 1 else 0,
        weights_bytes=len(weights),
        weights_file=weights_name(name, hashes["weights"]) if weights_name and weights else None,
        state=state_of(graph),
        versions={"rtcc": __version__, **(versions or {})},
        hashes=hashes,
    )
    symbols = {kernel: kernel for kernel in used}
    shapes = shape_function_text(graph)
    texts = (info.to_json(), walk_text(steps, symbols, threads), shapes)
    identity = hash_of(text.encode() for text in texts)
    info = replace(info, hashes={**hashes, "model": identity})
    symbols = {kernel: f"{kernel}_{identity[:8]}" for kernel in used}
    code = _code(info, machine, weights, steps, symbols, shapes, device=device)
    renamed = {
        f"{symbols[kernel]}.o": rename_and_hide(objects[kernel], kernel, symbols[kernel]) for kernel in used
    }
    return ModelSource(info, code, header_text(info), weights, renamed, machine)


def weights_symbol(info: ArtifactInfo) -> str:
    """What a static library calls its weights, as no other does."""
    return f"rtcc_weights_{info.hashes['model'][:8]}"


def kernels_of(steps: Iterable[Step]) -> list[str]:
    """The kernels that steps call, each once, sorted."""
    found: set[str] = set()
    for step in steps:
        match step:
            case Call():
                found.add(step.kernel)
            case If():
                found.update(kernels_of((*step.then, *step.otherwise)))
            case Loop():
                found.update(kernels_of(step.body))
            case _:
                pass
    return sorted(found)


def calls_of(steps: Iterable[Step]) -> Iterable[Call]:
    """The calls of steps, in the order in which they stand."""
    for step in steps:
        match step:
            case Call():
                yield step
            case If():
                yield from calls_of((*step.then, *step.otherwise))
            case Loop():
                yield from calls_of(step.body)
            case _:
                pass


def hash_of(parts: Iterable[bytes]) -> str:
    """One hash of several texts, which says where each ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def tensors_of(
    names: Iterable[str], values: Iterable[Value], side: str, below: Mapping[str, int]
) -> tuple[TensorInfo, ...]:
    found: list[TensorInfo] = []
    for name, value in zip(names, values, strict=True):
        type = value.type
        assert type.layout is None, (
            f"the {side} {value!r} has a storage layout; the caller's tensors are plain"
        )
        symbolic = None if type.is_static else tuple(map(str, type.shape))
        shape = type.sizes if side == "input" else tuple(map(upper_bound, type.shape))
        size = type.storage_bytes
        found.append(TensorInfo(name, shape, type.dtype.value, size, symbolic, below.get(name)))
    return tuple(found)


def _head_bytes(machine: Machine, threads: int) -> int:
    if machine.is_bare:
        return BARE_HEAD_BYTES
    return _HEAD_BYTES + -(-threads * _WORKER_BYTES // 64) * 64


def arena_bytes(graph: Graph, steps: Iterable[Step]) -> int:
    """What the planner says, which must cover what the launches touch."""
    touched = [a for addresses in reads_and_writes(steps) for a in addresses if a.base is Base.ARENA]
    needed = max((address.offset + address.bytes for address in touched), default=0)
    planned = int(graph.attributes.get("workspace", needed))
    assert planned >= needed, f"the plan announces {planned} bytes of workspace and uses {needed}"
    return -(-planned // 64) * 64


def _thread_bytes(steps: Iterable[Step]) -> int:
    """What every thread but the first needs of its own: the most scratch of a divided call."""
    needed = (call.scratch.bytes for call in calls_of(steps) if call.scratch is not None and call.tasks > 1)
    return -(-max(needed, default=0) // 64) * 64


def _code(
    info: ArtifactInfo,
    machine: Machine,
    weights: bytes | bytearray,
    steps: tuple[Step, ...],
    symbols: Mapping[str, str],
    shapes: str,
    *,
    device: bool,
) -> str:
    pool = not (is_serial(steps) or info.threads == 1)
    has = ((Part.THREADS, pool), (Part.WEIGHTS_FILE, info.weights_file), (Part.DEVICE, device))
    parts = [
        f"/* {info.name}: made by rtcc; do not edit. */",
        configuration_text(info, weights, _head_bytes(machine, info.threads), pool=pool),
        header_text(info),
        cpu_text(machine),
        *([part_text("pool.h")] if pool else []),
        part_text("runtime.h"),
        tables_text(info),
        info_text(info),
        weights_place_text(info, weights),
        _declarations(steps, symbols),
        walk_text(steps, symbols, info.threads),
        shapes,
        function_text(*(part for part, is_there in has if is_there)),
        part_text("mapped_weights.c" if info.weights_file else "embedded_weights.c"),
        part_text("pool.c" if pool else "one_thread.c"),
        part_text("checks.c"),
        part_text("runtime.c"),
    ]
    return "\n".join(parts)


def part_text(name: str) -> str:
    """A file of the runtime."""
    return files("rtcc.emission").joinpath(name).read_text(encoding="ascii")


def configuration_text(
    info: ArtifactInfo, weights: bytes | bytearray, head: int, *, pool: bool = False, device: bool = False
) -> str:
    """What the runtime's files are told. head: bytes of the workspace before the arena. pool: whether a call
    is divided among threads; device: whether kernels run on a GPU."""
    rows: list[tuple[str, object]] = [
        ("RTCC_ENTRY(suffix)", f"{info.name}_##suffix"),
        ("RTCC_EXPORT", '__attribute__((visibility("default")))'),
        ("RTCC_MAGIC", f"UINT64_C(0x{info.hashes['model'][:16]})"),
        ("RTCC_THREADS_MAX", info.threads),
        ("RTCC_POOL", int(pool)),
        ("RTCC_DEVICE", int(device)),
        ("RTCC_ALIGNMENT", 64),
        ("RTCC_HEAD_BYTES", head),
        ("RTCC_ARENA_BYTES", info.workspace_bytes - head),
        ("RTCC_THREAD_BYTES", info.thread_bytes),
        ("RTCC_INPUT_COUNT", len(info.inputs)),
        ("RTCC_OUTPUT_COUNT", len(info.outputs)),
    ]
    if info.weights_file:
        sums = checksum(weights)
        rows += [
            ("RTCC_EXTERNAL_BYTES", len(weights)),
            ("RTCC_EXTERNAL_NAME", _c_text(info.weights_file)),
            ("RTCC_EXTERNAL_SUM", f"UINT64_C(0x{sums.sum:x})"),
            ("RTCC_EXTERNAL_SUM_OF_SUMS", f"UINT64_C(0x{sums.sum_of_sums:x})"),
        ]
    lines = ["#ifndef _GNU_SOURCE", "#define _GNU_SOURCE 1 /* syscall, cpu_set_t, dladdr */", "#endif"]
    return "\n".join([*lines, *(f"#define {key} {value}" for key, value in rows), ""])


def _c_text(text: str) -> str:
    """A C string of the text's bytes."""
    plain = "".join(
        chr(b) if (chr(b).isalnum() and b < 128) or b in b" ._-" else f"\\{b:03o}" for b in os.fsencode(text)
    )
    return f'"{plain}"'


def tables_text(info: ArtifactInfo) -> str:
    """C tables of the caller's tensors."""
    lines: list[str] = []
    for name, tensors in (("rtcc_inputs", info.inputs), ("rtcc_outputs", info.outputs)):
        rows = [f"    {{{t.bytes}u, {t.alignment}}}," for t in tensors] or ["    {0, 1},"]
        lines += [f"static const struct rtcc_tensor {name}[] = {{", *rows, "};"]
    lines.append(f"static const int32_t rtcc_updates[] = {{{', '.join(map(str, _updates(info)))}}};")
    return "\n".join([*lines, ""])


def info_text(info: ArtifactInfo) -> str:
    """The C string that `info` returns."""
    text = info.to_json().replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?")
    pieces: list[str] = []
    while text:
        cut = 90
        while text[:cut].endswith("\\") and cut < len(text):
            cut += 1
        pieces.append(f'    "{text[:cut]}"')
        text = text[cut:]
    return "\n".join(["static const char rtcc_info_text[] =", *pieces, "    ;", ""])


def _updates(info: ArtifactInfo) -> list[int]:
    """For each output the index of the input whose buffer it may lie in, or -1; never empty."""
    indices = {tensor.name: index for index, tensor in enumerate(info.inputs)}
    sources = {output: indices[name] for name, output in info.state.items()}
    return [sources.get(tensor.name, -1) for tensor in info.outputs] or [-1]


def weights_place_text(info: ArtifactInfo, weights: bytes | bytearray) -> str:
    """The C that says where the host has the weights: RTCC_WEIGHTS(w)."""
    if info.weights_file or not weights:
        return (
            f"#define RTCC_WEIGHTS(w) {'((w)->weights)' if info.weights_file else '((const char *)NULL)'}\n"
        )
    return weights_text(weights_symbol(info))


def _declarations(steps: Iterable[Step], symbols: Mapping[str, str]) -> str:
    signatures: dict[str, str] = {}
    for call in calls_of(steps):
        parameters = ["int32_t task", "int32_t tasks", *(["const void *"] * len(call.reads))]
        parameters += ["void *"] * (len(call.writes) + (call.scratch is not None))
        parameters += ["int32_t *code"]
        text = f"extern int32_t {symbols[call.kernel]}({', '.join(parameters)});"
        assert signatures.setdefault(call.kernel, text) == text, f"@{call.kernel} is called in two ways"
    return "\n".join([*signatures.values(), ""])
