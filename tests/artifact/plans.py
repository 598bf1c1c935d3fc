"""Plans written by hand, and their kernels compiled from C: artefacts with no code generator involved."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.emission.emit_c import ModelSource, emit_c
from rtcc.ir import DType, Graph, KernelRef, Module, TensorType, Value, symbol
from rtcc.ir.ops.plan import Launch, PlanConstant, PlanIf, PlanLoop, View
from rtcc.system.machine import Machine

COUNT = 1000
SIZE = 4 * COUNT
SLOT = 4032
"""SIZE, rounded up to 64 bytes."""

KERNELS = Path(__file__).with_name("kernels.c")
FLOATS = TensorType(DType.F32, (COUNT,))
SCALAR = TensorType(DType.F32, ())
BOOL = TensorType(DType.BOOL, ())
I64 = TensorType(DType.I64, ())

Arrays = dict[str, NDArray[Any]]


@dataclass
class Plan:
    """A plan-level module under construction."""

    module: Module
    graph: Graph
    const_bytes: int = 0

    @staticmethod
    def of(**parameters: TensorType) -> Plan:
        graph = Graph("main", list(parameters.items()))
        module = Module(level="plan", target="x86:test")
        module.add_graph(graph)
        return Plan(module, graph)

    def constant(self, name: str, array: NDArray[Any], graph: Graph | None = None) -> Value:
        constant = self.module.add_constant(name, array)
        op = PlanConstant(constant, place=f"const+{self.const_bytes}", types=[constant.type])
        self.const_bytes += -(-array.nbytes // 64) * 64
        (self.graph if graph is None else graph).append(op)
        return op.results[0]

    def launch(
        self, kernel: str, *inputs: Value, places: tuple[str, ...], types: tuple[TensorType, ...] = (FLOATS,),
        tasks: int = 1, graph: Graph | None = None, scratch: str = "", scratch_bytes: int = 0,
    ) -> tuple[Value, ...]:  # fmt: skip
        op = Launch(*inputs, kernel=KernelRef(kernel), places=places, tasks=tasks, types=list(types),
                    scratch=scratch, scratch_bytes=scratch_bytes)  # fmt: skip
        (self.graph if graph is None else graph).append(op)
        return op.results

    def finish(self, *results: Value, names: tuple[str, ...] = ("y",)) -> Module:
        for value, name in zip(results, names, strict=True):
            value.name = name
        self.graph.return_(*results)
        return self.module


@dataclass(frozen=True)
class Case:
    """A plan, and what it computes."""

    name: str
    module: Callable[[], Module]
    expected: Callable[[Arrays], Arrays]
    inputs: Callable[[int], Arrays]


def _floats(seed: int) -> Arrays:
    # Small integers: float sums are exact in any order.
    return {"x": np.random.default_rng(seed).integers(-8, 9, COUNT).astype(np.float32)}


BIAS = np.arange(COUNT, dtype=np.float32) % 7


def mixed_plan() -> Module:
    """Divided and serial launches that depend on each other, a view, a constant."""
    plan = Plan.of(x=FLOATS)
    x = plan.graph.parameters[0]
    bias = plan.constant("bias", BIAS)
    (a,) = plan.launch("twice", x, places=("workspace+0",), tasks=8)
    (b,) = plan.launch("reverse", a, places=(f"workspace+{SLOT}",), tasks=8)
    (total,) = plan.launch("sum", b, places=(f"workspace+{2 * SLOT}",), types=(SCALAR,))
    view = View(total, offset=0, types=[SCALAR])
    plan.graph.append(view)
    (c,) = plan.launch("add", b, bias, places=("workspace+0",), tasks=8)
    (d,) = plan.launch("scale", c, view.results[0], places=(f"workspace+{SLOT}",), tasks=2)
    (e,) = plan.launch("reverse", d, places=("user:0",), tasks=8)
    return plan.finish(e)


def mixed_expected(inputs: Arrays) -> Arrays:
    b = (inputs["x"] * 2)[::-1]
    return {"y": ((b + BIAS) * b.sum())[::-1]}


def scratch_plan() -> Module:
    plan = Plan.of(x=FLOATS)
    (a,) = plan.launch("through_scratch", plan.graph.parameters[0], places=("workspace+0",), tasks=4,
                       scratch=f"workspace+{SLOT}", scratch_bytes=SLOT)  # fmt: skip
    (b,) = plan.launch("reverse", a, places=("user:0",), tasks=4)
    return plan.finish(b)


def if_plan(tasks: int = 4) -> Module:
    """y = sum(x) < 0 ? reverse(2x) : a constant that lies elsewhere."""
    plan = Plan.of(x=FLOATS)
    x = plan.graph.parameters[0]
    bias, zero = plan.constant("bias", BIAS), plan.constant("zero", np.zeros((), np.float32))
    (total,) = plan.launch("sum", x, places=("workspace+0",), types=(SCALAR,))
    (holds,) = plan.launch("below_limit", total, zero, places=("workspace+64",), types=(BOOL,))
    then, otherwise = Graph("then"), Graph("else")
    (a,) = plan.launch("twice", x, places=("workspace+128",), tasks=tasks, graph=then)
    (b,) = plan.launch("reverse", a, places=(f"workspace+{128 + SLOT}",), tasks=tasks, graph=then)
    then.return_(b)
    otherwise.return_(bias)
    op = PlanIf(holds, places=(f"workspace+{128 + SLOT}",), regions=[then, otherwise], types=[FLOATS])
    plan.graph.append(op)
    (y,) = plan.launch("twice", op.results[0], places=("user:0",), tasks=tasks)
    return plan.finish(y)


def if_expected(inputs: Arrays) -> Arrays:
    x = inputs["x"]
    return {"y": 2 * ((2 * x)[::-1] if x.sum() < 0 else BIAS)}


def loop_plan(tasks: int = 4) -> Module:
    """Up to 10 rounds of y = reverse(y) + iteration + 1 while y[0] < 20."""
    plan = Plan.of(x=FLOATS)
    x = plan.graph.parameters[0]
    limit = plan.constant("limit", np.full((), 20, np.float32))
    ones = plan.constant("ones", np.ones(COUNT, np.float32))
    carried, temporary, other = f"workspace+{SLOT}", f"workspace+{2 * SLOT}", f"workspace+{3 * SLOT}"
    (first,) = plan.launch("below_limit", x, limit, places=("workspace+0",), types=(BOOL,))
    body = Graph("body", [("i", I64), ("y", FLOATS)])
    iteration, y = body.parameters
    (a,) = plan.launch("reverse", y, places=(temporary,), tasks=tasks, graph=body)
    (b,) = plan.launch("add_iteration", iteration, a, places=(other,), tasks=tasks, graph=body)
    (c,) = plan.launch("add", b, ones, places=(temporary,), tasks=tasks, graph=body)
    (again,) = plan.launch("below_limit", c, limit, places=("workspace+64",), types=(BOOL,), graph=body)
    body.return_(again, c)
    op = PlanLoop(first, x, trip=10, places=(carried,), regions=[body], types=[FLOATS])
    plan.graph.append(op)
    (y,) = plan.launch("twice", op.results[0], places=("user:0",), tasks=tasks)
    return plan.finish(y)


def loop_expected(inputs: Arrays) -> Arrays:
    y = inputs["x"]
    for iteration in range(10):
        if not y[0] < 20:
            break
        y = y[::-1] + iteration + 1
    return {"y": 2 * y}


def at_once_plan() -> Module:
    """Two loops on threads of their own, of what a third has made, and their sum: 7 and 5 rounds."""
    plan = Plan.of(x=FLOATS)
    (x,) = plan.launch("twice", plan.graph.parameters[0], places=("workspace+0",), tasks=1)
    true = plan.constant("true", np.ones((), bool))
    ones = plan.constant("ones", np.ones(COUNT, np.float32))
    found: list[Value] = []
    for thread, trip in enumerate((7, 5)):
        carried, temporary = (f"workspace+{(1 + 2 * thread + n) * SLOT}" for n in range(2))
        body = Graph(f"body_{thread}", [("i", I64), ("y", FLOATS)])
        (a,) = plan.launch("reverse", body.parameters[1], places=(temporary,), graph=body)
        (b,) = plan.launch("add", a, ones, places=(carried,), graph=body)
        body.return_(true, b)
        loop = PlanLoop(true, x, trip=trip, places=(carried,), thread=thread, regions=[body], types=[FLOATS])
        found += plan.graph.append(loop).results
    (y,) = plan.launch("add", *found, places=("user:0",), tasks=4)
    return plan.finish(y)


def at_once_expected(inputs: Arrays) -> Arrays:
    return {"y": 2 * (2 * inputs["x"])[::-1] + 12}


def gather_plan() -> Module:
    plan = Plan.of(x=FLOATS, index=TensorType(DType.I64, (COUNT,)))
    x, index = plan.graph.parameters
    (a,) = plan.launch("gather", x, index, places=("workspace+0",), tasks=4)
    (b,) = plan.launch("reverse", a, places=("user:0",), tasks=4)
    return plan.finish(b)


def gather_inputs(seed: int) -> Arrays:
    return {**_floats(seed), "index": np.random.default_rng(seed).integers(0, COUNT, COUNT)}


def positive_plan() -> Module:
    """An output whose size depends on the data, and a static one that is an input passed through."""
    plan = Plan.of(x=FLOATS)
    x = plan.graph.parameters[0]
    found = TensorType(DType.F32, (symbol("K", 0, COUNT),))
    y, _ = plan.launch("positive", x, places=("user:0", "workspace+0"), types=(found, I64))
    plan.graph.attributes["sizes"] = {"K": "workspace+0"}
    plan.graph.return_(y, x)
    y.name = "y"
    return plan.module


def positive_expected(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"][inputs["x"] > 0], "x": inputs["x"]}


def state_plan() -> Module:
    plan = Plan.of(x=FLOATS, h=FLOATS)
    x, h = plan.graph.parameters
    (y,) = plan.launch("accumulate", h, x, places=("user:0",), tasks=4)
    plan.graph.attributes["state"] = {"h": "hn"}
    return plan.finish(y, names=("hn",))


def _state_inputs(seed: int) -> Arrays:
    return {**_floats(seed), "h": _floats(seed + 1)["x"]}


CASES = {
    case.name: case
    for case in (
        Case("mixed", mixed_plan, mixed_expected, _floats),
        Case("scratch", scratch_plan, lambda i: {"y": (i["x"] + 1)[::-1]}, _floats),
        Case("branch", if_plan, if_expected, _floats),
        Case("serial_branch", lambda: if_plan(1), if_expected, _floats),
        Case("loop", loop_plan, loop_expected, _floats),
        Case("serial_loop", lambda: loop_plan(1), loop_expected, _floats),
        Case("at_once", at_once_plan, at_once_expected, _floats),
        Case("gather", gather_plan, lambda i: {"y": i["x"][i["index"]][::-1]}, gather_inputs),
        Case("positive", positive_plan, positive_expected, _floats),
        Case("state", state_plan, lambda i: {"hn": i["h"] + i["x"]}, _state_inputs),
    )
}  # fmt: skip


def source_of(
    case: str, threads: int = 4, name: str = "model", flags: tuple[str, ...] = (), **options: Any
) -> ModelSource:
    """A case as C, with its kernels compiled with extra flags."""
    module = CASES[case].module()
    names = {str(op.kernel) for op in module.main.walk() if isinstance(op, Launch)}
    objects = {name: object_of(name, *flags) for name in sorted(names)}
    return emit_c(module, name, Machine("x86_64", ("sse2",)), objects, threads=threads, **options)


@cache
def object_of(kernel: str, *flags: str, cc: str = "gcc") -> bytes:
    """One kernel compiled alone: its function is the only global symbol."""
    with TemporaryDirectory() as name:
        output = Path(name) / "kernel.o"
        command = [cc, "-O2", "-fPIC", "-Wall", *flags, f"-DKERNEL_{kernel}", "-c", str(KERNELS)]
        subprocess.run([*command, "-o", str(output)], check=True)
        return output.read_bytes()
