"""The launch list in C: barriers stand where one thread's bytes matter to another, and nowhere else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rtcc.emission.emit_c import emit_c
from rtcc.emission.steps import Address, Base, Call, Copy, If, Loop, Step, is_serial, steps_of
from rtcc.emission.walk import comment_text, walk_text
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.plan import PlanLoop
from rtcc.system.machine import Machine
from tests.artifact.plans import BOOL, COUNT, FLOATS, SLOT, Plan, object_of, source_of
from tests.artifact.test_c import compile_program, write_data


def arena(slot: int) -> Address:
    return Address(Base.ARENA, 64 * slot, 64)


def call(reads: list[int], writes: list[int], tasks: int = 4) -> Call:
    return Call("k", tuple(map(arena, reads)), tuple(map(arena, writes)), None, tasks, "k")


def outline(*steps: Step, threads: int = 4) -> str:
    """The walk's shape: | barrier, k kernel, c copy, { } nesting; the last barrier, which ends every run,
    left out.
    """
    text = walk_text(steps, {"k": "k"}, threads)
    marks = {"rtcc_barrier(w": "|", "    k(": "k", "memmove": "c", "{": "{", "}": "}"}
    found = re.findall("|".join(map(re.escape, marks)), text.split("int32_t code = 0;")[1])
    return "".join(marks[mark] for mark in found)[:-2]


SERIAL = 1


def alone(thread: int, reads: list[int], writes: list[int]) -> Loop:
    """A loop that one thread makes all rounds of."""
    return Loop(thread, 9, None, None, (call(reads, writes, SERIAL),), thread)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([call([0], [1]), call([1], [2])], "k|k"),  # read after write
        ([call([0], [1]), call([2], [0])], "k|k"),  # write after read
        ([call([0], [1]), call([0], [1])], "k|k"),  # write after write
        ([call([0], [1]), call([0], [2])], "kk"),
        ([call([0], [1], SERIAL), call([1], [2], SERIAL)], "kk"),  # the first thread's own order
        ([call([0], [1], SERIAL), call([1], [2])], "k|k"),
        ([call([0], [1]), call([1], [2], SERIAL), call([3], [4], SERIAL)], "k|kk"),
        ([call([0], [1]), call([5], [6]), call([1], [2]), call([6], [7])], "kk|kk"),
        ([Copy(arena(0), arena(1)), Copy(arena(1), arena(2)), call([2], [3])], "cc|k"),
        ([call([0], [1]), If(arena(1), (call([0], [2]),), ())], "k|{k}"),
        ([call([0], [1]), If(arena(0), (call([0], [2]),), (call([0], [1]),)), call([2], [3])], "k{k}{|k}|k"),
        ([If(arena(0), (call([1], [2], SERIAL),), ()), call([3], [4])], "{{k}}k"),  # inside the first thread
        ([If(arena(0), (call([1], [2], SERIAL),), ()), call([3], [0])], "{{k}}|k"),
        ([If(arena(0), (call([1], [2]),), ()), call([3], [0])], "{k}|k"),  # every thread read the condition
        ([Loop(0, 9, None, None, (call([0], [1]), call([2], [3])))], "{|kk}"),  # against the round before
        ([Loop(0, 9, None, None, (call([0], [1]), call([1], [0])))], "{|k|k}"),
        ([alone(0, [0], [1]), alone(1, [2], [3]), call([4], [5])], "{{k}}{{k}}k"),
        ([alone(0, [0], [1]), alone(1, [2], [3]), call([3], [5])], "{{k}}{{k}}|k"),
        ([alone(0, [0], [1]), alone(1, [1], [3])], "{{k}}|{{k}}"),
        ([alone(1, [0], [1]), alone(1, [1], [3])], "{{k}}{{k}}"),
        # What the second needs of what went before is there before the first.
        ([call([0], [2], SERIAL), alone(0, [0], [1]), alone(1, [2], [3])], "k|{{k}}{{k}}"),
        (
            [
                call([0], [2], SERIAL),
                Copy(arena(4), arena(5)),
                alone(0, [5], [1]),
                Copy(arena(2), arena(6), 1),
                alone(1, [6], [3]),
            ],
            "k|c{{k}}c{{k}}",
        ),
    ],
)
def test_barriers(steps: list[Step], expected: str) -> None:
    assert outline(*steps) == expected
    assert "|" not in outline(*steps, threads=1)


def test_a_loop_condition_is_complete_before_every_thread_reads_it() -> None:
    body = (call([0], [1]), call([1], [5], SERIAL))
    assert outline(call([0], [4], SERIAL), Loop(0, 9, arena(4), arena(5), body)) == "k|{k|k|}"


def test_outputs_may_be_the_buffers_of_inputs() -> None:
    first = Call("k", (Address(Base.INPUT, 0, 64),), (arena(0),), None, 4, "k")
    second = Call("k", (arena(1),), (Address(Base.OUTPUT, 0, 64),), None, 4, "k")
    assert outline(first, second) == "k|k"


def test_scratch_counts_as_written() -> None:
    first = Call("k", (arena(0),), (arena(1),), arena(2), 4, "k")
    assert outline(first, call([2], [3])) == "k|k"


def test_a_loop_of_a_thread_that_does_not_run_is_the_first_ones() -> None:
    loops = [alone(0, [0], [1]), alone(2, [2], [3])]
    assert "task == (tasks > 2 ? 2 : 0)" in walk_text(loops, {"k": "k"}, 4)
    assert "tasks > 2" not in walk_text(loops, {"k": "k"}, 2)
    assert not is_serial(loops)


def test_narrow_launches_use_no_more_threads_than_parts() -> None:
    text = walk_text([call([0], [1], 2)], {"k": "k"}, 4)
    assert "task < 2" in text
    assert "tasks < 2 ? tasks : 2" in text
    assert "task < 2" not in walk_text([call([0], [1], 2)], {"k": "k"}, 2)


def test_copies_are_ordered_and_cycles_refused() -> None:
    def shuffled(order: list[int]) -> Module:
        plan = Plan.of(x=FLOATS, y=FLOATS)
        body = Graph("body", [("i", TensorType(DType.I64, ())), ("a", FLOATS), ("b", FLOATS)])
        body.return_(plan.constant("true", np.ones((), bool), body), *(body.parameters[1 + i] for i in order))
        true = plan.constant("true", np.ones((), bool))
        places = ("workspace+0", f"workspace+{SLOT}")
        loop = PlanLoop(
            true, *plan.graph.parameters, trip=2, places=places, regions=[body], types=[FLOATS] * 2
        )
        plan.graph.append(loop)
        return plan.finish(*loop.results, names=("a", "b"))

    loop = next(step for step in steps_of(shuffled([1, 1]).main) if isinstance(step, Loop))
    assert [(c.source.offset, c.destination.offset) for c in loop.body if isinstance(c, Copy)] == [(SLOT, 0)]
    assert loop.first is loop.again is None
    with pytest.raises(AssertionError, match="circle"):
        steps_of(shuffled([1, 0]).main)


def test_comments_cannot_end_early() -> None:
    assert comment_text("a */ b\n/* ü") == "a * / b?/ * ?"


def random_plan(seed: int, length: int = 24) -> Module:
    """Launches, divided and not, over few buffers, so that they depend on each other in every way."""
    random = np.random.default_rng(seed)
    plan = Plan.of(x=FLOATS)
    slots = [plan.graph.parameters[0]] * 4
    for _ in range(length):
        target = int(random.integers(4))
        others = [value for slot, value in enumerate(slots) if slot != target]
        a, b = others[int(random.integers(3))], others[int(random.integers(3))]
        tasks = int(random.choice([1, 2, 3, 8]))
        kernel = ("reverse", "add", "twice")[int(random.integers(3))]
        inputs = (a, b) if kernel == "add" else (a,)
        place = f"workspace+{64 + target * SLOT}"
        (slots[target],) = plan.launch(kernel, *inputs, places=(place,), tasks=tasks)
    total, holds = slots[0], plan.constant("true", np.ones((), bool))
    assert holds.type == BOOL
    (y,) = plan.launch("reverse", total, places=("user:0",), tasks=8)
    return plan.finish(y)


def simulate(module: Module, x: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bytes:
    values = {module.main.parameters[0]: x}
    kernels = {"reverse": lambda a: a[::-1], "add": lambda a, b: a + b, "twice": lambda a: 2 * a}  # pyright: ignore
    for op in module.main.ops:
        if op.name == "plan.launch":
            arguments = [values[v] for v in op.present_operands]
            values[op.results[0]] = kernels[str(op.attributes["kernel"])](*arguments)
    return np.ascontiguousarray(values[module.main.returned[0]], np.float32).tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_random_plans_have_no_data_race(tmp_path: Path, seed: int) -> None:
    module = random_plan(seed)
    flag = "-fsanitize=thread"
    objects = {name: object_of(name, flag) for name in ("reverse", "add", "twice")}
    compile_program(tmp_path, emit_c(module, "model", Machine("x86_64"), objects, threads=3), flag)
    x = (np.arange(COUNT) % 3 - 1).astype(np.float32)
    (tmp_path / "in0.bin").write_bytes(x.tobytes())
    (tmp_path / "out0.bin").write_bytes(simulate(module, x))
    done = subprocess.run(
        ["./program", "3", "1", "50"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_barrier_is_found_by_these_tests(tmp_path: Path) -> None:
    flag = "-fsanitize=thread"
    source = source_of("mixed", flags=(flag,))
    barrier = "    if ((code = rtcc_barrier(w, code)) != 0)\n        return code;\n"
    assert barrier in source.code
    compile_program(tmp_path, source, flag, code=source.code.replace(barrier, "", 1))
    write_data(tmp_path, "mixed")
    done = subprocess.run(
        ["./program", "3", "1", "50"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "data race" in done.stderr
