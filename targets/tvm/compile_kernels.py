"""From a module's kernels to their object code: from the cache where known, else from worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rtcc.errors import RtccError
from rtcc.ir import Constant, Expression, Graph, Location, Module, Value, clone_graph, symbol
from rtcc.target import Progress, Target, unseen
from rtcc.targets.tvm.cache import KernelCache, kernel_key, sources_known
from rtcc.targets.tvm.worker import BRIDGE, Job
from rtcc.targets.tvm.worker_pool import generate, get_workers_ready
from rtcc.text import print_module


def compile_kernels(
    module: Module,
    target: Target,
    packages: Sequence[Path],
    progress: Progress = unseen,
    generator: str = BRIDGE,
    tools: Sequence[str] = (),
) -> dict[str, bytes]:
    """Object code of every kernel, by name; packages: sources besides the bridge that decide the code.

    generator: the module that makes it, as `worker.Job` has it. tools: versions of what it calls besides TVM.

    Raises `CodegenError` naming the kernel, `Unsupported` naming the ONNX node.
    """
    cache = KernelCache()
    objects: dict[str, bytes] = {}
    jobs: dict[str, Job] = {}
    keys: dict[str, str] = {}
    for name, kernel in module.kernels.items():
        job = job_of(kernel, target, packages, generator)
        keys[name] = kernel_key(job.text, target.facts, job.sources, tools)
        found = cache.get(keys[name])
        if found is None:
            jobs[name] = job
        else:
            objects[name] = found

    def done(name: str, contents: bytes) -> None:
        objects[name] = contents
        progress(len(objects), len(module.kernels))
        cache.put(keys[name], contents)

    if jobs:
        try:
            generate(_longest_first(jobs), len(os.sched_getaffinity(0)), done)
        except RtccError as error:
            error.where = _in_the_model(error.where, module)
            raise
        cache.note(sources_known(tuple(packages)))
        cache.trim()
    return {name: objects[name] for name in module.kernels}


def expect_kernels(packages: Sequence[Path], generator: str = BRIDGE) -> None:
    """Start workers where kernels will soon be asked for and the cache cannot have any of them."""
    sources = sources_known(tuple(packages))
    if not KernelCache().may_have(sources):
        get_workers_ready(tuple(packages), len(os.sched_getaffinity(0)), generator)


def _in_the_model(where: str | None, module: Module) -> str | None:
    """The ONNX nodes that a kernel came from, in place of the kernel's bare name."""
    name = (where or "").removeprefix("kernel @")
    if name not in module.kernels:
        return where
    nodes = dict.fromkeys(node for op in module.kernels[name].ops for node in op.location.nodes)
    return f"{', '.join(nodes)} ({where})" if nodes else where


def job_of(kernel: Graph, target: Target, packages: Sequence[Path], generator: str = BRIDGE) -> Job:
    """A kernel as workers take it."""
    text, blobs = kernel_text(kernel)
    return Job(text, blobs, str(target), tuple(packages), sources_known(tuple(packages)), generator)


def kernel_text(kernel: Graph) -> tuple[str, dict[str, bytes]]:
    """A kernel as a module of its own, without names and locations, and the bytes of its large constants.

    Equal texts are equal code, so this is what the cache is keyed by.
    """
    module = Module(level="kernels")
    mapping: dict[Value, Value] = {}
    blobs: dict[str, bytes] = {}
    for number, constant in enumerate(_constants(kernel)):
        mapping[constant] = module.add_constant(f"c{number}", constant.data, constant.type)
        if not constant.is_inline:
            blobs[constant.sha256] = constant.data.tobytes()
    copy = clone_graph(kernel, mapping)
    copy.name = "kernel"
    module.kernels["kernel"] = copy
    values = [*copy.parameters, *(r for op in copy.walk() for r in op.results)]
    for value in values:
        value.name = None
    _rename_symbols(module, values)
    for op in copy.walk():
        op.location = Location()
    return print_module(module), blobs


def _rename_symbols(module: Module, values: Sequence[Value]) -> None:
    """Call symbolic sizes n0000, n0001… in the order of their names, which the model's nodes gave."""
    sizes = [size for value in values for size in value.type.shape if isinstance(size, Expression)]
    found = sorted({s for size in sizes for s in size.symbols})
    new = {s.name: symbol(f"n{number:04}", s.lower, s.upper) for number, s in enumerate(found)}
    module.dimensions = {f"n{number:04}": (s.lower, s.upper) for number, s in enumerate(found)}
    for value in values:
        value.type = value.type.substitute(new)


def _constants(kernel: Graph) -> list[Constant]:
    found: dict[Constant, None] = {}
    for op in kernel.walk():
        found |= {value: None for value in op.present_operands if isinstance(value, Constant)}
    return list(found)


def _longest_first(jobs: dict[str, Job]) -> dict[str, Job]:
    """Big kernels first, so that the last worker does not end alone with the biggest; ties by name."""
    return dict(sorted(jobs.items(), key=lambda item: (-len(item[1].text), item[0])))
