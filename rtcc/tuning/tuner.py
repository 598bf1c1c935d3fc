"""Measure what the kernels of a model take, and write it where `rtcc compile --tuned` finds it.

For each anchor that can be computed in several ways, every legal algorithm with a few tiles is compiled as it
would be within the model and run alone, in turns. A kernel is noted, in the file too, once all of its ways
are measured: whoever stops loses no more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, cast

from rtcc.compiler import Compilation, Options, split_at_choice, start
from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Graph, Module, Op, Value, clone_graph
from rtcc.ir.ops import nn
from rtcc.ir.ops.fused import Call, Fused
from rtcc.ir.regions import anchor_of, constant_slots, flow_graphs
from rtcc.pipeline.base import Choice, Pass
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import Decision, PlacedConversion
from rtcc.selection.layout_rules import obstacle
from rtcc.system.files import require_folder
from rtcc.target import Candidate, Cost, Target, with_setting
from rtcc.tuning.store import OPTION, Measurement, Tuning, kernel_key, read_tuning, require_choice, use
from rtcc.tuning.timing import Timed
from rtcc.tuning.watch import ChildWatch, Failure

FAR_OFF = 3.0
"""Algorithms predicted to take so many times the best are not measured."""

Watch = Callable[[Mapping[str, Timed]], Mapping[str, float | Failure]]
"""Seconds of kernels, by name, or how they failed."""


@dataclass(frozen=True)
class Progress:
    """Kernels measured and in all, ways measured by this call, the layer that comes next ("" at the end)."""

    done: int
    total: int
    ways: int
    layer: str


@dataclass(frozen=True)
class Failed:
    """A way to compute a layer whose kernel did not come back, so that it is not taken."""

    layer: str
    algorithm: str
    tile: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Gain:
    """Seconds of one run in the kernels that were measured: as predicted to be best, and as is best.

    failed: the ways that could not be measured.
    """

    predicted: float
    measured: float
    failed: tuple[Failed, ...] = ()


@dataclass
class Work:
    """One anchor to be measured: a region that has it, how often the model has it, and its ways."""

    key: str
    region: Fused
    anchor: Op
    uses: int = 0
    ways: list[Candidate] = field(default_factory=list[Candidate])

    @property
    def seconds(self) -> float:
        """Predicted, in one run of the model."""
        return self.uses * min(way.seconds for way in self.ways)


def tune(
    model: Any,
    output: str | Path,
    target: str | None = None,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    watch: Watch | None = None,
    **options: Any,
) -> Gain:
    """Measure the kernels of a model on this machine and write what they took to `output`.

    A file that is there is gone on with. options: as `rtcc.compile` takes them (threads, shapes, dims,
    values). watch: what measures, by default this machine's clock, in a process of its own: a kernel that
    crashes or does not end is one of the result's `failed`. Raises InvalidInput: tuning-target where
    the file is of another target, tuning-damaged, tuning-version; wrong-level where the algorithms are chosen
    already; and what `rtcc.compile` raises.
    """
    output = Path(output)
    require_folder(output)
    compilation = start(model, Options(target=target, **options))
    require_choice(compilation.target)
    tuner = _Tuner(compilation, _begun(output, compilation.target))
    works = tuner.works()
    if watch is not None:
        return _measured(tuner, works, output, progress, watch)
    with ChildWatch(compilation.target, tuner.weight_bytes) as clock:
        return _measured(tuner, works, output, progress, clock)


def _measured(
    tuner: _Tuner, works: list[Work], output: Path, progress: Callable[[Progress], None], watch: Watch
) -> Gain:
    """Measure what the file does not have yet, and note it kernel by kernel."""
    left = [work for work in works if work.key not in tuner.tuning.kernels]
    ways = 0
    for number, work in enumerate(left):
        progress(Progress(len(works) - len(left) + number, len(works), ways, str(work.anchor.location)))
        measured = tuner.measured(work, watch)
        for key, found in measured.items():
            tuner.tuning.add(key, found)
        ways += len(measured[work.key])
        tuner.tuning.write(output)
    tuner.tuning.write(output)
    progress(Progress(len(works), len(works), ways, ""))
    return tuner.gain(works)


def _begun(output: Path, target: Target) -> Tuning:
    """What the file holds already, or nothing yet."""
    if not output.exists():
        return Tuning(str(target))
    tuning = read_tuning(output)
    if tuning.target != str(target):
        message = f"this holds measurements for {tuning.target}, and these would be for {target}"
        raise InvalidInput("tuning-target", message, where=str(output), hint="give another file: -o FILE")
    return tuning


@dataclass(frozen=True)
class _Form:
    """One way to compute an anchor, lowered: the key of what the anchor became, its kernel, and which of the
    kernel's operands are no constants.
    """

    key: str
    kernel: Graph
    activations: tuple[int, ...]


class _Tuner:
    """One model's kernels, compiled one way after the other."""

    def __init__(self, compilation: Compilation, tuning: Tuning) -> None:
        self._module, self._target = compilation.module, compilation.target
        if OPTION in self._target.settings:
            raise InvalidInput("tuning-target", f"{self._target} is tuned already", hint="leave tuned= out")
        pipeline, start = self._target.pipeline("-O2"), self._module.clone()
        before, self._choosing, after = split_at_choice(pipeline, self._module, Choice.ALGORITHMS)
        self._to_kernels = _until_kernels(after)
        report = run_pipeline(self._module, before, RunOptions(explain=True))
        self._contested = {node: form for each in report.decisions for node, form in _contested(each)}
        self._other_forms = [_in_form(form, start, before) for form in sorted({*self._contested.values()})]
        self.weight_bytes = self._module.weight_bytes
        self.tuning = tuning

    def works(self) -> list[Work]:
        """What there is to measure, what takes longest first; last what the model does not have.

        That is layers in floats that are in integers now, or the other way round, where neither is predicted
        to be far off.
        """
        found: dict[str, Work] = {}
        for region, anchor in _anchors(self._module):
            is_contested = not self._contested.keys().isdisjoint(anchor.location.nodes)
            work = self._work(region, anchor)
            if len(work.ways) > 1 or (work.ways and is_contested):
                found.setdefault(work.key, work).uses += 1
        for form, module in self._other_forms:
            for region, anchor in _anchors(module):
                if any(self._contested.get(node) == form for node in anchor.location.nodes):
                    work = self._work(region, anchor)
                    if work.ways:
                        found.setdefault(work.key, work)
        return sorted(found.values(), key=lambda work: -work.seconds)

    def _work(self, region: Fused, anchor: Op) -> Work:
        key = kernel_key(anchor, constant_slots(region, anchor))
        return Work(key, region, anchor, 0, _ways(self._target, region, anchor, self.weight_bytes))

    def measured(self, work: Work, watch: Watch) -> dict[str, list[Measurement]]:
        """Seconds of each way of computing an anchor, by key: its own, and those of what it becomes."""
        ways = {f"way{number}": way for number, way in enumerate(work.ways)}
        forms = {name: self._lowered(work, way) for name, way in ways.items()}
        module = Module(level="kernels", target=str(self._target))
        module.kernels = {name: form.kernel for name, form in forms.items()}
        codes = self._target.compile_kernels(module)
        timed = {name: Timed(form.kernel, codes[name], form.activations) for name, form in forms.items()}
        answers = watch(timed)
        found: dict[str, list[Measurement]] = {work.key: []}
        for name, way in ways.items():
            taken = _measurement(way, answers[name])
            for key in {work.key, forms[name].key}:
                found.setdefault(key, []).append(taken)
        return found

    def _lowered(self, work: Work, way: Candidate) -> _Form:
        """An anchor's region as a kernel of its own, computed in one way."""
        module = _alone(work.region, self._module)
        forced = {work.key: (Measurement(way.algorithm, way.tile, 0.0),)}
        asked = {"conv": way.algorithm} if isinstance(work.anchor, nn.Conv) else {}
        self._run(module, [replace(cast("Any", self._choosing), **asked)], forced)
        ((region, anchor),) = _anchors(module)
        key = kernel_key(anchor, constant_slots(region, anchor))
        self._run(module, self._to_kernels, {**forced, key: forced[work.key]})
        fitting = [
            (call, kernel) for call in module.main.ops
            if isinstance(call, Call) and (kernel := module.kernels[call.kernel])
            and _way_of(kernel) == (way.algorithm, way.tile)
        ]  # fmt: skip
        assert len(fitting) == 1, f"{way.algorithm} {way.tile} was asked for, {list(module.kernels)} came out"
        call, kernel = fitting[0]
        activations = (n for n, value in enumerate(call.inputs) if not isinstance(value, Constant))
        return _Form(key, kernel, tuple(activations))

    def _run(
        self, module: Module, passes: Sequence[Pass], forced: Mapping[str, tuple[Measurement, ...]]
    ) -> None:
        """Run passes for the target with nothing measured but what is to be chosen.

        Two passes ask the target, and layouts depend on the tile: so a way is not declared but made the only
        one that was measured.
        """
        chosen = use(Tuning(str(self._target), dict(forced)))
        module.target = with_setting(str(self._target), OPTION, chosen)
        run_pipeline(module, passes, RunOptions(verify=False))

    def gain(self, works: list[Work]) -> Gain:
        """What the measurements say of the choices."""
        predicted = measured = 0.0
        failed: list[Failed] = []
        for work in works:
            found, layer = self.tuning.kernels[work.key], str(work.anchor.location)
            bad = (each for each in found if each.failure)
            failed += [Failed(layer, each.algorithm, each.tile, each.failure) for each in bad]
            seconds = {(each.algorithm, each.tile): each.seconds for each in found if not each.failure}
            usual = min(work.ways, key=lambda way: way.seconds)
            best = min(seconds.values(), default=0.0)
            predicted += work.uses * seconds.get((usual.algorithm, usual.tile), best)
            measured += work.uses * best
        return Gain(predicted, measured, tuple(failed))


def _measurement(way: Candidate, found: float | Failure) -> Measurement:
    """What was found of one way, in four digits, which is more than clocks are worth."""
    if isinstance(found, Failure):
        return Measurement(way.algorithm, way.tile, inf, found.reason)
    assert isinstance(way.cost, Cost)
    return Measurement(way.algorithm, way.tile, float(f"{found + way.cost.communication:.3e}"))


def _way_of(kernel: Graph) -> tuple[object, object]:
    return kernel.attributes.get("algorithm"), kernel.attributes.get("tile", ())


def _contested(decision: Decision | PlacedConversion) -> Iterator[tuple[str, str]]:
    """The nodes of a layer that might be quicker in the form that it does not have, each with that form."""
    if not isinstance(decision, Decision) or any(each.obstacle for each in decision.offers):
        return
    for each in decision.offers:
        if each.form and each is not decision.chosen and each.seconds <= FAR_OFF * decision.chosen.seconds:
            yield from ((node, each.form) for node in decision.nodes)


def _in_form(form: str, start: Module, passes: Sequence[Pass]) -> tuple[str, Module]:
    """The form, and a module whose layers have it wherever they can."""
    module = start.clone()
    told = [
        replace(cast("Any", each), form=form) if each.chooses is Choice.ARITHMETIC else each
        for each in passes
    ]
    run_pipeline(module, told, RunOptions(verify=False))
    return form, module


def _until_kernels(passes: Sequence[Pass]) -> Sequence[Pass]:
    """The passes up to the one that makes kernels."""
    makes_kernels = [each.produces == "kernels" for each in passes]
    return passes[: makes_kernels.index(True) + 1]


def _anchors(module: Module) -> Iterator[tuple[Fused, Op]]:
    """Every region that has an anchor, with it."""
    for graph in flow_graphs(module):
        for op in graph.ops:
            if isinstance(op, Fused) and (anchor := anchor_of(op.body)) is not None:
                yield op, anchor


def _ways(target: Target, region: Fused, anchor: Op, weights: int) -> list[Candidate]:
    """Every algorithm that may be the fastest, with every tile that may be; the predicted tile first."""
    constants = constant_slots(region, anchor)
    legal = [
        each for each in target.candidates(anchor, constants, weights=weights)
        if isinstance(each.cost, Cost) and not each.of_content and not obstacle(region.body, anchor, each)
    ]  # fmt: skip
    limit = FAR_OFF * min((each.seconds for each in legal), default=0.0)
    near = [each for each in legal if each.seconds <= limit]
    return [
        Candidate(each.algorithm, each.cost, each.error, tile, each.operand_layouts, each.result_layout)
        for each in near
        for tile in target.tiles(anchor, each, constants)
    ]


def _alone(region: Fused, module: Module) -> Module:
    """A module that has one region only; what it reads and is no constant comes in as inputs."""
    alone = Module(level=module.level)
    inputs = [value for value in dict.fromkeys(region.inputs) if not isinstance(value, Constant)]
    graph = alone.add_graph(Graph("main", [(f"x{n}", value.type) for n, value in enumerate(inputs)]))
    mapping: dict[Value, Value] = dict(zip(inputs, graph.parameters, strict=True))
    inner = (value for op in region.body.walk() for value in op.present_operands)
    for value in (*region.inputs, *inner):
        if isinstance(value, Constant) and value not in mapping:
            mapping[value] = alone.add_constant(value.symbol, value.data, value.type)
    copy = Fused(
        *(mapping[value] for value in region.inputs),
        regions=[clone_graph(region.body, mapping)],
        location=region.location,
    )
    graph.append(copy)
    graph.return_(*copy.results)
    return alone
