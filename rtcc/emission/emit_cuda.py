"""A planned module as C that launches its kernels on a GPU: one self-contained `model.c`, its header, its
weights, and the kernels' code as one more object.

configuration  +  cpu.c  +  cuda_driver.h  +  runtime.h  +  tables of kernels and launches
               +  cuda_device.c  +  cuda.c  +  runtime.c  +  cuda_entries.c  +  cuda_profile.c
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtcc import __version__
from rtcc.artifact.codes import Part, function_text
from rtcc.artifact.info import ArtifactInfo, DeviceInfo, DeviceKernel
from rtcc.emission.blob import blob_of
from rtcc.emission.device_code import PRODUCTS, WHOLE, DeviceCode, Launch, Phases, function_name
from rtcc.emission.device_plan import Argument, Node, Regions, nodes_of, require_straight
from rtcc.emission.emit_c import (
    ModelSource,
    arena_bytes,
    configuration_text,
    hash_of,
    info_text,
    kernels_of,
    part_text,
    tables_text,
    tensors_of,
    weights_place_text,
)
from rtcc.emission.features import cpu_text
from rtcc.emission.header import device_text, header_text, identifier
from rtcc.emission.shapes import shape_function_text
from rtcc.emission.steps import steps_of
from rtcc.emission.walk import comment_text
from rtcc.emission.weights import write_weights_object
from rtcc.interpreter import input_names, output_names
from rtcc.ir import Graph, Module
from rtcc.ir.ops.plan import Launch as PlanLaunch
from rtcc.ir.regions import main_op
from rtcc.state import state_of
from rtcc.system.machine import Machine
from rtcc.target import GENERIC, WeightsName

HEAD_BYTES = 640
"""Of the host's workspace: handles alone."""

IMAGES_OBJECT = "images.o"

_ALIGNMENT = 64
"""Of cubins in the host's memory."""

_PTX_VERSION = re.compile(rb"^\.version (\d+)\.(\d+)", re.MULTILINE)

_LATER = {(8, 5): (12, 5), (8, 6): (12, 7), (8, 7): (12, 8), (8, 8): (12, 9)}
"""CUDA versions whose PTX is numbered otherwise than theirs (PTX ISA, Release Notes)."""


def emit_cuda(
    module: Module,
    name: str,
    machine: Machine,
    capability: tuple[int, int],
    kernels: Mapping[str, Phases],
    *,
    weights_name: WeightsName | None = None,
    versions: Mapping[str, str] | None = None,
) -> ModelSource:
    """The C of a module at the plan level whose kernels run on a GPU.

    name: the output file's stem. machine: the host. capability: the GPU's compute capability. kernels: their
    code by name. weights_name: keeps the weights in a file, called so. versions: of the packages that made
    the kernels. Raises Unsupported for what the data steer.
    """
    assert module.level == "plan", f"emission needs the plan level, found {module.level}"
    require_straight(module)
    graph, weights = module.main, blob_of(module, embedded=weights_name is None)
    steps = steps_of(graph)
    used = named(module, {kernel: kernels[kernel] for kernel in kernels_of(steps)})
    functions = {
        function_name(kernel, phase): code for kernel in used for phase, code in used[kernel].items()
    }
    inputs = tensors_of(input_names(graph), graph.parameters, "input", graph.attributes.get("below", {}))
    outputs = tensors_of(output_names(graph), graph.returned, "output", {})
    regions = Regions.of((t.bytes for t in inputs), (t.bytes for t in outputs), arena_bytes(graph, steps))
    nodes, images = nodes_of(steps, used, regions), Images.of(functions)
    hashes = {"weights": hashlib.sha256(weights).hexdigest(), "kernels": hash_of([images.contents])}
    info = ArtifactInfo(
        name=identifier(name), inputs=inputs, outputs=outputs, target=module.target, triple=machine.triple,
        features=(), threads=1, workspace_bytes=HEAD_BYTES, thread_bytes=0, weights_bytes=len(weights),
        weights_file=weights_name(name, hashes["weights"]) if weights_name and weights else None,
        state=state_of(graph), versions={"rtcc": __version__, **(versions or {})}, hashes=hashes,
        device=DeviceInfo(f"sm_{capability[0]}{capability[1]}", _driver_of(functions.values()),
                          regions.bytes, _table(module, used), tuple(node.function or "" for node in nodes)),
    )  # fmt: skip
    shapes, tables = shape_function_text(graph), _tables(functions, images, nodes)
    identity = hash_of(text.encode() for text in (info.to_json(), tables, shapes))
    info = replace(info, hashes={**hashes, "model": identity})
    symbol = f"rtcc_images_{identity[:8]}"
    parts = [
        f"/* {info.name}: made by rtcc; do not edit. */",
        configuration_text(info, weights, HEAD_BYTES, device=True),
        _device_configuration(info, regions, capability, functions, nodes, symbol),
        header_text(info),
        cpu_text(machine),
        *map(part_text, ("cuda_driver.h", "runtime.h")),
        tables_text(info),
        info_text(info),
        weights_place_text(info, weights),
        tables,
        _places(regions),
        shapes,
        function_text(Part.DEVICE, *([Part.WEIGHTS_FILE] if info.weights_file else [])),
        part_text("mapped_weights.c" if info.weights_file else "embedded_weights.c"),
        *map(part_text, ("cuda_device.c", "cuda.c", "checks.c", "runtime.c")),
        *map(part_text, ("cuda_entries.c", "cuda_profile.c")),
    ]
    objects = {IMAGES_OBJECT: images.object_for(machine, symbol)}
    header = f"{header_text(info)}\n{device_text(info)}"
    code, libraries = "\n".join(parts), ("-ldl", "-pthread")
    return ModelSource(info, code, header, weights, objects, machine, libraries=libraries)


@dataclass(frozen=True)
class Images:
    """The kernels' code in one piece; where each has its cubin and its PTX, which ends with a zero."""

    contents: bytes
    places: Mapping[str, tuple[int, int]]

    @staticmethod
    def of(functions: Mapping[str, DeviceCode]) -> Images:
        """The code of functions; equal code lies there once."""
        contents, places = bytearray(), dict[str, tuple[int, int]]()
        known: dict[bytes, int] = {}

        def place(image: bytes) -> int:
            if image not in known:
                contents.extend(bytes(-len(contents) % _ALIGNMENT))
                known[image] = len(contents)
                contents.extend(image)
            return known[image]

        for name, code in functions.items():
            places[name] = (place(code.cubin), place(code.ptx.rstrip(b"\0") + b"\0"))
        return Images(bytes(contents) or b"\0", places)

    def object_for(self, machine: Machine, symbol: str) -> bytes:
        """An object file that has them as read-only data under a hidden symbol."""
        with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
            path = Path(folder) / IMAGES_OBJECT
            write_weights_object(path, symbol, self.contents, machine.elf)
            return path.read_bytes()


def named(module: Module, kernels: Mapping[str, Phases]) -> dict[str, dict[str, DeviceCode]]:
    """Kernels with symbols that say what they compute; equal code has the first one's name."""
    symbols = dict[tuple[bytes, Launch], str]()

    def symbol(code: DeviceCode, kernel: Graph, phase: str) -> str:
        return symbols.setdefault((code.cubin, code.launch), _symbol(kernel, phase))

    return {
        name: {phase: code.named(symbol(code, module.kernels[name], phase)) for phase, code in phases.items()}
        for name, phases in kernels.items()
    }


def _symbol(kernel: Graph, phase: str) -> str:
    """rtcc_ and the kernel's name, which is its first ONNX node's, its main operator, algorithm, phase."""
    op = main_op(kernel)
    algorithm = kernel.attributes.get("algorithm", GENERIC)
    words = [kernel.name, op.name.rpartition(".")[2], *([] if algorithm == GENERIC else [algorithm])]
    return "_".join(["rtcc", *words, *([phase] if phase else [])])


def _driver_of(functions: Iterable[DeviceCode]) -> str:
    """The CUDA version of the oldest driver that compiles the PTX of all."""
    found = [_PTX_VERSION.search(code.ptx) for code in functions]
    versions = [(int(each[1]), int(each[2])) for each in found if each is not None]
    assert len(versions) == len(found), "PTX says its version"
    newest = max(versions, default=(7, 0))
    return ".".join(map(str, _LATER.get(newest, (newest[0] + 4, newest[1]))))


def _table(module: Module, kernels: Mapping[str, Phases]) -> tuple[DeviceKernel, ...]:
    """What each function takes, those with the most operations first."""
    found = [op for op in module.walk() if isinstance(op, PlanLaunch)]
    launches = Counter(str(op.kernel) for op in found)
    scratch = {str(op.kernel): op.scratch_bytes for op in found}
    work = {
        (name, phase): launches[name] * sum(op.operations() for op in module.kernels[name].ops)
        for name, phases in kernels.items()
        for phase in phases
        if phase in (WHOLE, PRODUCTS)
    }
    total = max(1, sum(work.values()))
    rows = [
        DeviceKernel(
            function_name(name, phase), code.symbol, launches[name], _product(code.launch.grid),
            _product(code.launch.block), code.registers, code.spill_bytes, code.stack_bytes,
            code.shared_bytes + code.launch.shared_bytes, round(work.get((name, phase), 0) / total, 4),
            work.get((name, phase), 0) // max(1, launches[name]),
            _moved(module.kernels[name]) if (name, phase) in work else scratch[name],
            _element(module.kernels[name]),
        )
        for name, phases in kernels.items()
        for phase, code in phases.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.share, row.name)))


def _moved(kernel: Graph) -> int:
    """Bytes of what a launch reads and writes, each once."""
    return sum(value.type.storage_bytes for value in (*kernel.parameters, *kernel.returned))


def _element(kernel: Graph) -> str:
    """The type of the elements that a kernel mainly computes with: those of its anchor's data."""
    op = main_op(kernel)
    return next(iter((*op.present_operands, *op.results))).type.dtype.value


def _product(extents: tuple[int, int, int]) -> int:
    return extents[0] * extents[1] * extents[2]


def _device_configuration(
    info: ArtifactInfo,
    regions: Regions,
    capability: tuple[int, int],
    functions: Mapping[str, DeviceCode],
    nodes: Sequence[Node],
    symbol: str,
) -> str:
    """What cuda.c is told."""
    assert info.device is not None
    major, _, minor = info.device.driver.partition(".")
    ends = [place + tensor.bytes for place, tensor in zip(regions.outputs, info.outputs, strict=True)]
    rows: dict[str, object] = {
        "RTCC_CAPABILITY_MAJOR": capability[0],
        "RTCC_CAPABILITY_MINOR": capability[1],
        "RTCC_DRIVER_VERSION": 1000 * int(major) + 10 * int(minor),
        "RTCC_KERNELS": len(functions),
        "RTCC_NODES": len(nodes),
        "RTCC_MOST_ARGUMENTS": max((len(node.arguments) for node in nodes), default=0),
        "RTCC_CODE_AT": regions.code,
        "RTCC_STAGED_BYTES": max([regions.code + 4, *ends]),
        "RTCC_DEVICE_BYTES": f"UINT64_C({regions.bytes})",
        "RTCC_WEIGHT_BYTES": f"UINT64_C({info.weights_bytes})",
        "RTCC_GIVES_UP": int(any(code.gives_up for code in functions.values())),
        "RTCC_IMAGES": symbol,
    }
    lines = [f"#define {key} {value}" for key, value in rows.items()]
    return "\n".join([*lines, f'extern const char {symbol}[] __attribute__((visibility("hidden")));', ""])


def _tables(functions: Mapping[str, DeviceCode], images: Images, nodes: Sequence[Node]) -> str:
    """Functions, launches, their arguments, and what each waits for, as C; none of the tables is empty."""
    numbers = {name: number for number, name in enumerate(functions)}
    places = images.places
    rows = [f'    {{"{code.symbol}", {places[n][0]}, {places[n][1]}}},' for n, code in functions.items()]
    launches: list[str] = []
    arguments: list[Argument] = []
    after: list[int] = []
    for node in nodes:
        begins = f"{len(arguments)}, {len(node.arguments)}, {len(after)}, {len(node.after)}"
        head = "-1, {0}, {0}, 0"
        if node.function is not None:
            launch = functions[node.function].launch
            grid, block = (", ".join(map(str, extents)) for extents in (launch.grid, launch.block))
            head = f"{numbers[node.function]}, {{{grid}}}, {{{block}}}, {launch.shared_bytes}"
        launches.append(f"    {{{head}, {node.bytes}, {begins}}}, /* {comment_text(node.comment)} */")
        arguments += node.arguments
        after += node.after
    pointers = [f"    {{{int(each.is_weight)}, {each.offset}}}," for each in arguments]
    return "\n".join(
        line
        for declaration, lines in (
            ("struct rtcc_kernel rtcc_kernels", rows),
            ("struct rtcc_node rtcc_nodes", launches),
            ("struct rtcc_argument rtcc_arguments", pointers),
            ("uint32_t rtcc_after", [f"    {number}," for number in after] or ["    0,"]),
        )
        for line in (f"static const {declaration}[] = {{", *(lines or ["    {0},"]), "};")
    )


def _places(regions: Regions) -> str:
    rows = (("rtcc_input_places", regions.inputs), ("rtcc_output_places", regions.outputs))
    lines = [f"static const size_t {name}[] = {{{', '.join(map(str, at)) or 0}}};" for name, at in rows]
    return "\n".join([*lines, ""])
