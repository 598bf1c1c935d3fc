"""ONNX's backend test suite, every case in a worker process: a table of what passes and what does not.

    python benchmarks/onnx_suite.py [--interpret] [--target TEXT] [--sample N --seed S] [--only REGEX]
                                    [--json FILE] [--list]
    python benchmarks/onnx_suite.py --coverage docs/coverage.md [--recorded FILE]

Groups: `ordinary` node cases (default domain, tensors of 8- to 64-bit numbers and booleans), `other` node
cases, `light` networks, and `models` (small whole models). A case ends as passed; unsupported (a typed
refusal, counted by its code); refused (a typed error that calls the model wrong); wrong (another answer);
crashed (an untyped error, or the process died); or hung.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.models.coverage import Case, page
from rtcc.backend import InterpreterBackend, RtccBackend
from rtcc.errors import RtccError, Unsupported

ORDINARY = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
GROUPS = ("ordinary", "other", "light", "models")
OUTCOMES = ("passed", "unsupported", "refused", "wrong", "crashed", "hung")
LIGHT = Path(onnx.__file__).parents[1]

Data = list[tuple[Sequence[Any], Sequence[Any]]]


@dataclass(frozen=True)
class Result:
    """How one case ended. reason: the error's code, or the first line of what went wrong."""

    name: str
    group: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0


def group_of(case: Any) -> str:
    """The group of the table that a case counts in."""
    if case.kind != "node":
        return "light" if case.kind == "real" else "models"
    values = [*case.model.graph.input, *case.model.graph.output]
    plain = all(v.type.HasField("tensor_type") and v.type.tensor_type.elem_type in ORDINARY for v in values)
    default = all(node.domain in ("", "ai.onnx") for node in case.model.graph.node)
    return "ordinary" if plain and default else "other"


def cases() -> list[Any]:
    """All cases of the suite, sorted by group and name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = ("node", "real", "simple", "pytorch-converted", "pytorch-operator")
        found = [case for kind in kinds for case in load_model_tests(kind=kind)]
    return sorted(found, key=lambda case: (GROUPS.index(group_of(case)), case.name))


def operator_of(case: Any) -> str:
    """The operator that a node case is about; the kind of any other case."""
    if case.kind != "node":
        return f"{case.kind} models"
    name = case.name.removesuffix("_expanded")
    nodes = _single_nodes().get(name)
    return nodes or next((node.op_type for node in case.model.graph.node if node.op_type != "Constant"), name)


@cache
def _single_nodes() -> dict[str, str]:
    """The operator of each case that is one node, by name; a case "…_expanded" is the function of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {case.name: case.model.graph.node for case in load_model_tests(kind="node")}
    return {name: nodes[0].op_type for name, nodes in found.items() if len(nodes) == 1}


def coverage_of(results: Sequence[Result]) -> list[Case]:
    """Results as docs/coverage.md has them."""
    operators = {case.name: operator_of(case) for case in cases()}
    return [Case(r.name, r.group, operators[r.name], r.outcome, r.reason.partition(":")[0]) for r in results]


def content(case: Any) -> tuple[ModelProto, Data]:
    """The model of a case and its data sets (inputs, expected outputs)."""
    if case.model is not None:
        return case.model, [([_array(i) for i in a], [_array(o) for o in b]) for a, b in case.data_sets]
    if case.model_dir is None:
        path = LIGHT / case.url
        model = onnx.load(path)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [Runner.generate_dummy_data(i) for i in model.graph.input if i.name not in stored]
        outputs = [_array(f) for f in sorted(path.parent.glob(f"{path.stem}_output_*.pb"))]
        return model, [(inputs, outputs)]
    folder = Path(case.model_dir)
    data: Data = []
    for subfolder in sorted(folder.glob("test_data_set_*")):
        files = [sorted(subfolder.glob(f"{kind}_*.pb"), key=_number) for kind in ("input", "output")]
        data.append(([_array(f) for f in files[0]], [_array(f) for f in files[1]]))
    return onnx.load(folder / "model.onnx"), data


def run_case(case: Any, interpret: bool, target: str = "x86") -> Result:
    """Run one case in this process."""
    backend = InterpreterBackend if interpret else RtccBackend
    start = time.perf_counter()
    outcome, reason = "passed", ""
    try:
        model, data = content(case)
        prepared = backend.prepare(model, target=target)
        for inputs, expected in data:
            found = prepared.run(list(inputs))
            assert list(map(_lengths, expected)) == list(map(_lengths, found)), (
                "Not equal: sequences' lengths"
            )
            Runner.assert_similar_outputs(_tensors(expected), _tensors(found), case.rtol, case.atol)
    except Unsupported as error:
        outcome, reason = "unsupported", f"{error.code}: {error.message}"
    except RtccError as error:
        outcome, reason = "refused", f"{error.code}: {error.message}"
    except AssertionError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        wrong = any(word in str(error) for word in ("Not equal", "not equal", "incorrect shape", "Items"))
        outcome, reason = "wrong" if wrong else "crashed", " / ".join(lines[:4]) or "assertion failed"
    except Exception as error:
        outcome, reason = "crashed", f"{type(error).__name__}: {error}"
    return Result(case.name, group_of(case), outcome, reason[:300], round(time.perf_counter() - start, 3))


def _worker(connection: Connection, known: list[Any], interpret: bool, target: str) -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    while (index := connection.recv()) is not None:
        connection.send(run_case(known[index], interpret, target))


class _Pool:
    """Worker processes that are replaced when they die or take too long."""

    def __init__(self, known: list[Any], jobs: int, timeout: float, interpret: bool, target: str) -> None:
        self._known, self._timeout = known, timeout
        self._how = (interpret, target)
        self._fork = multiprocessing.get_context("fork")
        self._jobs = jobs

    def run(self) -> list[Result]:
        pending = list(range(len(self._known)))[::-1]
        results: list[Result] = []
        busy: dict[Connection, tuple[Any, int, float]] = {}
        while pending or busy:
            while pending and len(busy) < self._jobs:
                connection, process = self._start()
                index = pending.pop()
                connection.send(index)
                busy[connection] = (process, index, time.monotonic())
            for connection in wait(list(busy), timeout=0.2):
                assert isinstance(connection, Connection)
                process, index, _ = busy.pop(connection)
                try:
                    results.append(connection.recv())
                except EOFError:
                    process.join()
                    results.append(
                        self._failed(index, "crashed", f"the process ended with {process.exitcode}")
                    )
                    continue
                if pending:
                    busy[connection] = (process, pending[-1], time.monotonic())
                    connection.send(pending.pop())
                else:
                    connection.send(None)
                    process.join()
            for connection, (process, index, since) in list(busy.items()):
                if time.monotonic() - since > self._timeout:
                    process.kill()
                    process.join()
                    del busy[connection]
                    results.append(self._failed(index, "hung", f"more than {self._timeout:g} s"))
        return sorted(results, key=lambda r: (GROUPS.index(r.group), r.name))

    def _start(self) -> tuple[Connection, Any]:
        ours, theirs = self._fork.Pipe()
        process = self._fork.Process(target=_worker, args=(theirs, self._known, *self._how), daemon=True)
        process.start()
        theirs.close()
        return ours, process

    def _failed(self, index: int, outcome: str, reason: str) -> Result:
        case = self._known[index]
        return Result(case.name, group_of(case), outcome, reason)


def table(results: Sequence[Result]) -> str:
    """One row per group, one column per outcome, and the reasons for refusals."""
    lines = [f"{'':10}{'cases':>7}" + "".join(f"{outcome:>13}" for outcome in OUTCOMES)]
    for group in GROUPS:
        counts = Counter(r.outcome for r in results if r.group == group)
        if counts:
            cells = "".join(f"{counts[outcome]:>13}" for outcome in OUTCOMES)
            lines.append(f"{group:10}{sum(counts.values()):>7}{cells}")
    reasons = Counter((r.group, r.reason.partition(":")[0]) for r in results if r.outcome == "unsupported")
    for (group, code), count in sorted(reasons.items()):
        lines.append(f"  unsupported {group} {code}: {count}")
    return "\n".join(lines)


def main() -> int:
    """Run from the command line; exit status 1 when anything is wrong, crashed or hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interpret", action="store_true", help="use the interpreter instead of compiling")
    parser.add_argument("--target", default="x86", help="what to compile for; `c` is plain C99")
    parser.add_argument("--sample", type=int, help="run only N cases, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="run only cases whose name matches this expression")
    parser.add_argument("--group", choices=GROUPS, help="run only one group")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds one case may take")
    parser.add_argument("--json", type=Path, help="write every result there")
    parser.add_argument("--list", action="store_true", help="print every case that did not pass")
    parser.add_argument("--coverage", type=Path, help="write the page of operators there; all cases are run")
    parser.add_argument("--recorded", type=Path, help="write it from this JSON of an earlier run instead")
    options = parser.parse_args()
    if options.recorded:
        results = [Result(**each) for each in json.loads(options.recorded.read_text())]
        options.coverage.write_text(page(coverage_of(results), onnx.__version__))
        return 0
    chosen = [c for c in cases() if re.search(options.only, c.name)]
    chosen = [c for c in chosen if options.group in (None, group_of(c))]
    if options.sample is not None:
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    results = _Pool(chosen, options.jobs, options.timeout, options.interpret, options.target).run()
    if options.list:
        for r in results:
            if r.outcome != "passed":
                print(f"{r.outcome:12} {r.group:9} {r.name}: {r.reason}")
    print(table(results))
    if options.coverage:
        options.coverage.write_text(page(coverage_of(results), onnx.__version__))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    return int(any(r.outcome in ("wrong", "crashed", "hung") for r in results))


def _array(item: Any) -> Any:
    """The array of what the suite stores as an array, a TensorProto or a file; other kinds as they are."""
    if isinstance(item, Path):
        tensor = TensorProto()
        tensor.ParseFromString(item.read_bytes())
        return numpy_helper.to_array(tensor)
    return numpy_helper.to_array(item) if isinstance(item, TensorProto) else item


def _lengths(result: Any) -> int | None:
    """How many tensors a sequence has, None for a tensor."""
    return len(cast("list[Any]", result)) if isinstance(result, list) else None


def _tensors(results: Sequence[Any]) -> list[Any]:
    """The tensors of results: ONNX's own comparison takes the length of scalars in sequences."""
    return [each for r in results for each in (cast("list[Any]", r) if isinstance(r, list) else [r])]


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


if __name__ == "__main__":
    raise SystemExit(main())
