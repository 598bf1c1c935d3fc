"""Running pipelines: reports, dumps, levels, --verify-each, crashes, reproducers, bisection."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rtcc.errors import InvalidInput, RtccError
from rtcc.ir import Module
from rtcc.ir.ops.math import Abs, Add, Exp, Neg
from rtcc.pipeline import Pass, Rewriter, apply, approximates, reassociates, rewrite
from rtcc.pipeline.bisect import first_wrong_pass
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.text import parse_module, print_module, read_module
from tests.unit.pipeline.graphs import chain, op_names


@rewrite(Exp)
def exp_to_neg(op: Exp, rw: Rewriter) -> None:
    rw.replace(op, Neg(op.data))


@rewrite(Abs)
def nudge(op: Abs, rw: Rewriter) -> None:
    shift = rw.constant(np.full((), 1e-4, np.float32), name="shift")
    if not isinstance(op.data.producer, Add):
        rw.replace(op, Abs(Add(op.data, shift).result))


@dataclass(frozen=True)
class Wrong(Pass):
    """Says exact, changes the result."""

    def run(self, module: Module) -> bool:
        return apply(module, (exp_to_neg,), self.name)


@dataclass(frozen=True)
class WrongAndSilent(Pass):
    """Changes the result and does not say so."""

    def run(self, module: Module) -> bool:
        apply(module, (exp_to_neg,), self.name)
        return False


@dataclass(frozen=True)
class Nudges(Pass):
    """Moves a result by 1e-4, and says so."""

    exactness = approximates("max-abs", 2e-4)

    def run(self, module: Module) -> bool:
        return apply(module, (nudge,), self.name)


@dataclass(frozen=True)
class NudgesTooFar(Nudges):
    """Moves a result by 1e-4, and declares less."""

    exactness = approximates("max-abs", 1e-5)


@dataclass(frozen=True)
class NudgesAsRounding(Nudges):
    """Moves a result by 1e-4, and says that it only reorders sums."""

    exactness = reassociates(1e-6)


@dataclass(frozen=True)
class Crashes(Pass):
    """Fails with an internal error."""

    def run(self, module: Module) -> bool:
        raise KeyError("oops")


@dataclass(frozen=True)
class BreaksTheIr(Pass):
    """Leaves an invalid module."""

    def run(self, module: Module) -> bool:
        next(module.main.ops).attributes["no_such_attribute"] = 1
        return True


@dataclass(frozen=True)
class Harmless(Pass):
    """Does nothing."""

    def run(self, module: Module) -> bool:
        return False


@dataclass(frozen=True)
class ToPlan(Pass):
    """Pretends to lower."""

    requires = ("graph",)
    produces = "plan"

    def run(self, module: Module) -> bool:
        return False


EACH = RunOptions(verify_each=True)


def test_report_counts_and_names() -> None:
    module = chain([Neg, Neg, Exp])
    report = run_pipeline(module, "simplify,eliminate-dead")
    assert [each.text for each in report.passes] == ["simplify", "eliminate-dead"]
    first, second = report.passes
    assert (first.ops_before, first.ops_after, first.changed) == (3, 1, True)
    assert (second.ops_before, second.ops_after, second.changed) == (1, 1, False)
    assert module.after == ["simplify", "eliminate-dead"]
    assert report.changed
    assert "simplify" in str(report)


def test_dumps_read_back(tmp_path: Path) -> None:
    run_pipeline(chain([Neg, Neg, Exp]), "simplify,eliminate-dead", RunOptions(dump_dir=tmp_path))
    names = sorted(path.name for path in tmp_path.glob("*.rtir"))
    assert names == ["00-start.rtir", "01-simplify.rtir", "02-eliminate-dead.rtir"]
    last = read_module(tmp_path / names[-1])
    assert last.after == ["simplify", "eliminate-dead"]
    assert op_names(last) == ["math.exp"]


def test_level_is_checked_and_set() -> None:
    module = chain([Neg])
    run_pipeline(module, [ToPlan()], RunOptions(verify=False))
    assert module.level == "plan"
    with pytest.raises(InvalidInput) as caught:
        run_pipeline(module, [Harmless()])
    assert caught.value.code == "wrong-level"
    assert "to-plan" in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [Wrong(), WrongAndSilent(), NudgesTooFar(), NudgesAsRounding()], ids=lambda p: p.name
)
def test_verify_each_finds_changed_results(wrong: Pass, tmp_path: Path) -> None:
    module = chain([Exp, Abs])
    options = RunOptions(verify_each=True, reproducer_dir=tmp_path)
    with pytest.raises(RtccError) as caught:
        run_pipeline(module, [Harmless(), wrong, Harmless()], options)
    error = caught.value
    assert error.code == "pass-changed-result"
    for word in (wrong.name, "'y'", str(wrong.exactness), "passes run before it: harmless"):
        assert word in error.message
    assert error.hint is not None
    (path,) = tmp_path.glob("*.rtir")
    assert f"rtcc opt {path} -p {wrong.name},harmless --verify-each" in error.hint


GATHER = """// rtir 1  level=graph
const #inside : i64[1] = [1]
const #outside : i64[1] = [7]
graph @main(%x: f32[4]) {
  %y = tensor.gather(%x, #INDEX) : f32[1]
  return(%y)
}"""


@dataclass(frozen=True)
class PointsOutside(Pass):
    """Makes an index that no interpreter can follow; the IR stays valid."""

    def run(self, module: Module) -> bool:
        gather = next(module.main.ops)
        gather.set_operand(1, module.constants["outside"])
        return True


def test_a_pass_after_which_the_module_cannot_be_run_is_blamed(tmp_path: Path) -> None:
    module = parse_module(GATHER.replace("INDEX", "inside"))
    options = RunOptions(verify_each=True, reproducer_dir=tmp_path)
    with pytest.raises(RtccError) as caught:
        run_pipeline(module, [Harmless(), PointsOutside(), Harmless()], options)
    assert caught.value.code == "pass-changed-result"
    assert caught.value.message.startswith("points-outside: ")
    assert "the module cannot be run after it" in caught.value.message
    (path,) = tmp_path.glob("*.rtir")
    assert f"rtcc opt {path} -p points-outside,harmless --verify-each" in str(caught.value.hint)
    assert "tensor.gather(%x, #inside)" in path.read_text()


def test_a_module_that_could_not_be_run_before_is_not_the_pass_s_fault() -> None:
    @dataclass(frozen=True)
    class Renames(Pass):
        """Changes the text and nothing else."""

        def run(self, module: Module) -> bool:
            next(module.main.ops).result.name = "renamed"
            return True

    with pytest.raises(RtccError) as caught:
        run_pipeline(parse_module(GATHER.replace("INDEX", "outside")), [Renames()], EACH)
    assert caught.value.code != "pass-changed-result"


@pytest.mark.parametrize("right", [Nudges(), Harmless()], ids=lambda p: p.name)
def test_verify_each_lets_declared_changes_pass(right: Pass) -> None:
    run_pipeline(chain([Exp, Abs]), [right], EACH)


def test_reproducer_holds_the_ir_before_and_the_command(tmp_path: Path) -> None:
    module = chain([Neg, Neg, Exp])
    options = RunOptions(reproducer_dir=tmp_path)
    with pytest.raises(RtccError) as caught:
        run_pipeline(module, [*pass_list("simplify"), Crashes(), Harmless()], options)
    assert caught.value.code == "pass-crashed"
    assert "KeyError" in caught.value.message
    path = tmp_path / "reproducer-crashes.rtir"
    before = read_module(path)
    assert op_names(before) == ["math.exp"]
    assert before.after == ["simplify"]
    command = path.read_text().split("\n")[1].removeprefix("// ")
    assert shlex.split(command) == ["rtcc", "opt", str(path), "-p", "crashes,harmless"]


def test_second_reproducer_does_not_overwrite_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RtccError):
            run_pipeline(chain([Exp]), [Crashes()], RunOptions(reproducer_dir=tmp_path))
    assert sorted(p.name for p in tmp_path.glob("*.rtir")) == [
        "reproducer-crashes-2.rtir",
        "reproducer-crashes.rtir",
    ]


def test_invalid_ir_names_the_pass() -> None:
    with pytest.raises(RtccError) as caught:
        run_pipeline(chain([Exp]), [BreaksTheIr()])
    assert caught.value.code == "pass-broke-ir"
    assert "breaks-the-ir" in caught.value.message


def test_user_errors_of_a_pass_are_left_as_they_are() -> None:
    @dataclass(frozen=True)
    class Refuses(Pass):
        """Refuses."""

        def run(self, module: Module) -> bool:
            raise InvalidInput("no-data", "give data")

    with pytest.raises(InvalidInput) as caught:
        run_pipeline(chain([Exp]), [Refuses()])
    assert caught.value.code == "no-data"


def test_bisection_finds_the_pass_and_leaves_the_module() -> None:
    module = chain([Exp, Abs])
    before = print_module(module)

    def is_wrong(candidate: Module) -> bool:
        return "math.neg" in op_names(candidate)

    passes = [*[Harmless()] * 5, Wrong(), *[Harmless()] * 3]
    found = first_wrong_pass(module, passes, is_wrong)
    assert isinstance(found, Wrong)
    assert first_wrong_pass(module, passes[:5], is_wrong) is None
    assert print_module(module) == before
    with pytest.raises(ValueError, match="before any pass"):
        first_wrong_pass(module, passes, lambda _: True)


def test_symbolic_inputs_take_a_size_that_runs() -> None:
    module = parse_module(
        """// rtir 1  level=graph
        dim N in [1,64]
        const #w : f32[1,1,5] = [1.0,2.0,3.0,4.0,5.0]
        graph @main(%x: f32[1,1,N]) {
          %c = nn.conv(%x, #w) : f32[1,1,N+-4]
          %a = math.neg(%c) : f32[1,1,N+-4]
          %y = math.neg(%a) : f32[1,1,N+-4]
          return(%y)
        }"""
    )
    assert run_pipeline(module, "simplify", EACH).changed


def pass_list(text: str) -> tuple[Pass, ...]:
    from rtcc.pipeline.text import parse_pipeline

    return parse_pipeline(text)
