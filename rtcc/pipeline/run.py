"""Run a pipeline: order of levels, checks after each pass, dumps, times, and what to do when one breaks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from rtcc.errors import InvalidInput, RtccError
from rtcc.ir import Module, Return
from rtcc.pipeline.base import Pass
from rtcc.pipeline.text import parse_pipeline, print_pass
from rtcc.selection.decision import Decision, PlacedConversion


@dataclass(frozen=True)
class RunOptions:
    """What to do besides running the passes.

    verify: check the IR's invariants after each pass that changed it. verify_each: also interpret
    before and after on seeded inputs and compare within what the pass declares. explain: ask each pass
    what it is going to decide, and why. dump_dir: write
    `NN-pass-name.rtir` there. reproducer_dir: where a reproducer goes when a pass breaks; None writes
    none. seed: of the inputs.
    """

    verify: bool = True
    verify_each: bool = False
    explain: bool = False
    dump_dir: Path | None = None
    reproducer_dir: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class PassReport:
    """What one pass did: its text, seconds, number of ops before and after, whether it changed anything."""

    text: str
    seconds: float
    ops_before: int
    ops_after: int
    changed: bool


@dataclass
class Report:
    """What each pass of a pipeline did, in order, and what was decided for single layers."""

    passes: list[PassReport] = field(default_factory=list[PassReport])
    decisions: list[Decision | PlacedConversion] = field(default_factory=list["Decision | PlacedConversion"])

    @property
    def changed(self) -> bool:
        """Whether any pass changed the module."""
        return any(each.changed for each in self.passes)

    @property
    def seconds(self) -> float:
        """Time spent in passes, checks left out."""
        return sum(each.seconds for each in self.passes)

    def __str__(self) -> str:
        lines = [f"{'pass':36} {'ms':>9} {'ops':>15}"]
        for each in self.passes:
            arrow = "→" if each.changed else "="
            counts = f"{each.ops_before:7} {arrow} {each.ops_after:5}"
            lines.append(f"{each.text[:36]:36} {each.seconds * 1e3:9.2f} {counts}")
        return "\n".join(lines)


def run_pipeline(module: Module, pipeline: str | Sequence[Pass], options: RunOptions | None = None) -> Report:
    """Run passes on a module in place; what each did.

    -O0, -O1 and -O2 within a text stand for the passes of the module's target, where it has one.

    Errors: wrong-level (a pass at a level it does not work at), pass-crashed (an internal fault),
    pass-broke-ir (the IR's invariants), pass-changed-result (the results moved more than declared); the
    last three name a reproducer where options say to write one.
    """
    passes = _parsed(pipeline, module) if isinstance(pipeline, str) else tuple(pipeline)
    return _Runner(module, passes, options or RunOptions()).run()


def _parsed(pipeline: str, module: Module) -> tuple[Pass, ...]:
    if not module.target:
        return parse_pipeline(pipeline)
    from rtcc.target import target_of

    return parse_pipeline(pipeline, target_of(module).named_pipelines)


def count_ops(module: Module) -> int:
    """Operations of all graphs and kernels, nested ones included, returns left out."""
    return sum(1 for op in module.walk() if not isinstance(op, Return))


class _Runner:
    """One run of one pipeline."""

    def __init__(self, module: Module, passes: tuple[Pass, ...], options: RunOptions) -> None:
        self.module = module
        self.passes = passes
        self.options = options
        self.first = len(module.after)
        self.feeds: dict[str, NDArray[Any]] | None = None
        keeps_start = options.reproducer_dir is not None or options.verify_each
        self.start = module.clone() if keeps_start else None

    def run(self) -> Report:
        report = Report()
        self._dump(0, "start")
        for index in range(len(self.passes)):
            require_level(self.passes[index], self.module)
            if self.options.explain:
                report.decisions += self.passes[index].explain(self.module)
            report.passes.append(self._run_one(index))
        return report

    def _run_one(self, index: int) -> PassReport:
        each, module = self.passes[index], self.module
        before = module.clone() if self.options.verify_each else None
        count = count_ops(module)
        started = time.perf_counter()
        try:
            changed = each.run(module)
        except (RtccError, MemoryError, RecursionError):
            raise
        except Exception as error:
            self._fail(index, "pass-crashed", f"{type(error).__name__}: {error}", error)
        seconds = time.perf_counter() - started
        module.level = each.produces or module.level
        module.after.append(print_pass(each))
        module.left = _left_after(each, module)
        self._check(index, before, changed)
        self._dump(index + 1, each.name)
        return PassReport(print_pass(each), seconds, count, count_ops(module), changed)

    def _check(self, index: int, before: Module | None, changed: bool) -> None:
        from rtcc.ir.verify import verify

        each = self.passes[index]
        is_last = index + 1 == len(self.passes)
        if self.options.verify_each or (self.options.verify and (changed or is_last)):
            try:
                verify(self.module)
            except RtccError as error:
                self._fail(index, "pass-broke-ir", error.message, error)
        if before is not None and (changed or _body(before) != _body(self.module)):
            self._compare(index, before, each)

    def _compare(self, index: int, before: Module, each: Pass) -> None:
        from rtcc.pipeline.compare import compare
        from rtcc.pipeline.inputs import runnable_inputs

        if self.feeds is None:
            self.feeds = runnable_inputs(before, self.options.seed)
        declared = each.declared_exactness()
        try:
            deviations = compare(before, self.module, declared, each.inputs(before, self.feeds))
        except (ValueError, IndexError, TypeError, ArithmeticError, AssertionError) as error:
            message = f"the module before {each.name} cannot be run: {type(error).__name__}: {error}"
            raise RtccError("no-runnable-inputs", message, hint="compile without --verify-each") from error
        for deviation in deviations:
            if not deviation.is_allowed:
                reason = f" ({deviation.reason})" if deviation.reason else ""
                message = (
                    f"output {deviation.output!r} moved by {deviation.moved:.3g}, allowed "
                    f"{deviation.allowed:.3g}: the pass declares {declared}{reason}"
                )
                self._fail(index, "pass-changed-result", message)

    def _fail(self, index: int, code: str, message: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error for pass `index`, after writing a reproducer."""
        each = self.passes[index]
        earlier = ", ".join(self.module.after[: self.first + index]) or "none"
        hint = "report this" if self.options.reproducer_dir is None else self._reproduce(index, code)
        message = f"{print_pass(each)}: {message}\n  passes run before it: {earlier}"
        raise RtccError(code, message, hint=hint) from cause

    def _reproduce(self, index: int, code: str) -> str:
        """Run the passes before the failing one again, write what they give; the hint that names it."""
        from rtcc.pipeline.reproducer import command_line, write_reproducer

        assert self.start is not None
        assert self.options.reproducer_dir is not None
        run_pipeline(self.start, self.passes[:index], RunOptions(verify=False))
        flags = ["--verify-each"] if code == "pass-changed-result" else []
        remaining = self.passes[index:]
        try:
            path = write_reproducer(self.start, remaining, self.options.reproducer_dir, flags=flags)
        except (OSError, RtccError) as error:
            return f"report this; no reproducer could be written: {error}"
        return f"reproduce with: {command_line(path, remaining, flags)}"

    def _dump(self, number: int, name: str) -> None:
        if self.options.dump_dir is None:
            return
        from rtcc.text import write_module

        self.options.dump_dir.mkdir(parents=True, exist_ok=True)
        write_module(self.module, self.options.dump_dir / f"{number:02}-{name}.rtir")


def _left_after(each: Pass, module: Module) -> list[str]:
    """What a compilation has left to run after a pass.

    After another pass than the next one the graph level starts over, for there may be more to do, as does
    what leaps past others to a later level.
    """
    if module.left and module.left[0].partition("{")[0] == each.name:
        return module.left[1:]
    return [] if module.level == "graph" or each.produces else module.left


def _body(module: Module) -> str:
    """The text without its header, which lists the passes run."""
    from rtcc.text import print_module

    return print_module(module).partition("\n")[2]


def require_level(each: Pass, module: Module) -> None:
    """Raise wrong-level unless the pass works at the module's level."""
    if module.level not in each.requires:
        levels = " or ".join(each.requires)
        message = f"{each.name} works at level {levels}, the module is at {module.level}"
        hint = f"passes already run: {','.join(module.after) or 'none'}"
        raise InvalidInput("wrong-level", message, hint=hint)
