"""From a model to an artefact: read, run the pipeline, generate code, emit, link."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rtcc.errors import InvalidInput
from rtcc.ir import Module, Value
from rtcc.pipeline.catalogue import NAMED_PIPELINES
from rtcc.quoting import name_text
from rtcc.state import declare_state
from rtcc.system.limits import within_limits
from rtcc.target import (
    DEFAULT_TARGET,
    Progress,
    Source,
    Target,
    WeightsName,
    beside,
    by_content,
    class_of,
    parse_target,
    unseen,
    with_setting,
)

if TYPE_CHECKING:
    from rtcc.artifact import Artifact
    from rtcc.pipeline.base import Choice, Pass
    from rtcc.pipeline.run import Report
    from rtcc.verification.kernels import Compared


ELSEWHERE = (
    "`rtcc run --emulate` runs it under QEMU, --remote USER@HOST on a machine that can; "
    "in Python rtcc.emulation and rtcc.remote"
)
"""What runs a model for another machine."""


@dataclass(frozen=True)
class Options:
    """What `compile` can be told.

    target: `NAME[:CPU][,key=value…]`; None is what the module was dumped for, else `x86`. threads: the most
    that one run may use. shapes, dims: sizes for symbolic dimensions, by input name or by symbol. values:
    inputs to fix as constants, as arrays or numbers. state: input → output that is its next value, which may
    then share one buffer. pipeline: pipeline text, such as -O1; the passes that lower the result to a plan
    follow by themselves; None is what a dump has left to run, else -O2. dump_ir: folder for one `.rtir` after
    each pass. verify: check the IR after each pass. verify_each: interpret before and after each pass on
    seeded inputs. verify_kernels: run every kernel against the interpreter. max_workspace: refuse an arena of
    more bytes. conv: the algorithm of all convolutions (`rtcc targets NAME` lists them); layers: that of
    single layers, by the name of the ONNX node. max_error: forbids algorithms with a larger error bound; None
    forbids none. explain: keep in the report what was decided and why. external_weights: keep the weights in
    a file beside the artefact. tuned: file of measurements (`rtcc tune`) that count more than predicted
    times. widen_weights: weights stored in fewer bits become float32 in the artefact, too. requantize: how
    integer sums are scaled, f32 or fixed25; auto is the target's way.
    """

    target: str | None = None
    threads: int = 1
    shapes: Mapping[str, Sequence[int]] | None = None
    dims: Mapping[str, int] | None = None
    values: Mapping[str, Any] | None = None
    state: Mapping[str, str] | None = None
    pipeline: str | None = None
    dump_ir: Path | None = None
    verify: bool = True
    verify_each: bool = False
    verify_kernels: bool = False
    max_workspace: int | None = None
    conv: str = "auto"
    layers: Mapping[str, str] = field(default_factory=dict[str, str])
    max_error: float | None = None
    explain: bool = False
    external_weights: bool = False
    tuned: Path | None = None
    widen_weights: bool = False
    requantize: str = "auto"


@dataclass
class Compilation:
    """One model on its way to an artefact, with what happened."""

    options: Options
    module: Module
    target: Target
    report: Report | None = None
    source: Source | None = None
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    weights_name: WeightsName = beside
    compared: Compared | None = None
    """What `verify_kernels` compared, where it was asked to."""

    @within_limits("running the passes")
    def lower(self) -> None:
        """Run the pipeline, down to the plan."""
        from rtcc.pipeline.run import RunOptions, run_pipeline
        from rtcc.pipeline.text import print_pass

        self.require_static_inputs()
        self._note_index_bounds()
        options, passes = self.options, self.passes()
        self.module.left = [print_pass(each) for each in passes]
        self.report = run_pipeline(
            self.module,
            passes,
            RunOptions(
                verify=options.verify,
                verify_each=options.verify_each,
                explain=options.explain,
                dump_dir=options.dump_ir,
                reproducer_dir=self._reproducers,
            ),
        )
        if self.module.level != "plan":
            message = f"the pipeline ends at level {self.module.level}, not plan"
            hint = "leave its last passes out: those that lower to the plan follow by themselves"
            raise InvalidInput("pipeline-incomplete", message, hint=hint)

    @property
    def _reproducers(self) -> Path:
        """The folder for what shows an internal fault again."""
        return self.options.dump_ir or Path(tempfile.gettempdir()) / "rtcc-reproducers"

    def rest(self) -> Options:
        """What is told to compile this module on from a later stage: it has its sizes, values and state."""
        return replace(self.options, target=str(self.target), threads=1, shapes=None, dims=None, values=None,
                       state=None, tuned=None, pipeline=None)  # fmt: skip

    def passes(self) -> list[Pass]:
        """What is to run: the pipeline given and its way to the plan, or what is left of one."""
        pipeline = self.options.pipeline
        if pipeline is None:
            passes = left_to_run(self.target.pipeline("-O2"), self.module)
        elif pipeline in NAMED_PIPELINES:
            passes = remaining(self.target.pipeline(pipeline), self.module)
        else:
            passes = completed(pipeline, self.module, self.target)
        return _with_settings(passes, self._settings())

    def _settings(self) -> dict[str, Any]:
        """Options of passes that were given as options of the whole compilation."""
        from rtcc.pipeline.base import Size

        options = self.options
        limit = None if options.max_workspace is None else Size(options.max_workspace)
        if limit is not None and limit < 1:
            raise InvalidInput("bad-size", f"max_workspace is {limit}, and no run takes less than a byte",
                               hint="leave it out where there is no limit")  # fmt: skip
        layers = tuple(f"{layer}={algorithm}" for layer, algorithm in options.layers.items())
        given: dict[str, tuple[Any, Any]] = {
            "max_workspace": (limit, None), "conv": (options.conv, "auto"), "layers": (layers, ()),
            "max_error": (options.max_error, None), "widen_weights": (options.widen_weights, False),
            "requantize": (options.requantize, "auto"),
        }  # fmt: skip
        return {name: value for name, (value, default) in given.items() if value != default}

    def require_static_inputs(self) -> None:
        """Refuse symbolic input sizes: an artefact has fixed ones."""
        open_inputs = [p for p in self.module.main.parameters if not p.type.is_static]
        if open_inputs:
            shown = ", ".join(f"{name_text(p.name or '')} : {p.type}" for p in open_inputs)
            raise InvalidInput("unbound-dimension", f"inputs with symbolic sizes: {shown}",
                               hint=f"bind them, as in {_binding_of(open_inputs)}")  # fmt: skip

    def _note_index_bounds(self) -> None:
        """Record what index inputs must stay below while the ops that index are still there to be seen."""
        from rtcc.pipeline.inputs import index_bounds

        main = self.module.main
        bounds = index_bounds(main) if self.module.level == "graph" else {}
        if bounds:
            main.attributes["below"] = bounds

    @within_limits("generating code")
    def generate(self, name: str, progress: Progress = unseen) -> None:
        """Make the kernels' code and the C around them; tells `progress` of each kernel."""
        from rtcc.pipeline.reproducer import reproducible

        with reproducible(self.module, self._reproducers):
            self._generate(name, progress)

    def _generate(self, name: str, progress: Progress) -> None:
        self.objects = self.target.compile_kernels(self.module, progress)
        if self.options.verify_kernels:
            from rtcc.verification.kernels import verify_kernels

            self.compared = verify_kernels(self.module, self.objects, self.target)
        if self.options.dump_ir is not None:
            self._write_listings(self.options.dump_ir / "tir")
        weights = self.weights_name if self.options.external_weights else None
        self.source = self.target.emit(self.module, name, self.objects, weights=weights)

    def _write_listings(self, folder: Path) -> None:
        """The kernels in the code generator's language, one file each."""
        from rtcc.system.files import replace_file

        for name, text in self.target.listings(self.module).items():
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / name, text.encode())


def _binding_of(inputs: Sequence[Value]) -> str:
    """Options that give every symbolic size of the inputs the smallest number it can be."""
    from rtcc.ir import Expression

    sizes = [size for each in inputs for size in each.type.shape if isinstance(size, Expression)]
    smallest = {symbol.name: max(1, symbol.lower) for size in sizes for symbol in size.symbols}
    return " ".join(f"--dim {shlex.quote(f'{name}={size}')}" for name, size in smallest.items())


def read_model(
    model: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Module:
    """The IR of a model: a path (.onnx or .rtir), the bytes of an ONNX file, an onnx.ModelProto, or a Module.

    Sizes are bound and values fixed as ONNX is read; a module has its own, and `fixed-shape` is raised where
    others are given, `fixed-value` where any are.
    """
    if isinstance(model, Module):
        return _as_it_is(model.clone(), shapes, dims, values)
    if isinstance(model, str | Path) and Path(model).suffix == ".rtir":
        from rtcc.ir.verify import verify
        from rtcc.text import read_module

        module = read_module(Path(model))
        with within_limits("verifying the module"):
            verify(module)
        return _as_it_is(module, shapes, dims, values)
    from rtcc.onnx import read

    return read(model, shapes=shapes, dims=dims, values=values)


def _as_it_is(
    module: Module,
    shapes: Mapping[str, Sequence[int]] | None,
    dims: Mapping[str, int] | None,
    values: Mapping[str, Any] | None,
) -> Module:
    """The module, if it has those shapes already and nothing else is asked of it."""
    if values:
        message = f"values were given for {', '.join(values)}, but they are fixed as ONNX is read"
        raise InvalidInput("fixed-value", message, hint="give them with the ONNX model")
    types = {parameter.name: parameter.type for parameter in module.main.parameters}
    wrong = [
        name
        for name, shape in (shapes or {}).items()
        if name not in types or types[name].shape != tuple(shape)
    ]
    if wrong or dims:
        found = ", ".join(f"{name} : {type}" for name, type in types.items())
        asked = ", ".join([*wrong, *(dims or {})])
        message = f"sizes were given for {asked}, but a module keeps its own: {found}"
        raise InvalidInput("fixed-shape", message, hint="give them when the ONNX model is read")
    return module


def left_to_run(pipeline: str, module: Module) -> list[Pass]:
    """The passes that a dump says are left to run, else those of a pipeline that it has not been through."""
    from rtcc.pipeline.text import parse_pipeline

    return list(parse_pipeline(",".join(module.left))) if module.left else remaining(pipeline, module)


def remaining(pipeline: str, module: Module) -> list[Pass]:
    """The passes of a pipeline that a module read from a dump has not been through yet.

    A dump of this very pipeline, whatever the options of its passes, goes on where it stopped. One of another
    pipeline starts over at the graph
    level, whose passes may run twice, and below it takes the lowering passes that are left.
    """
    from rtcc.ir import LEVELS
    from rtcc.pipeline.text import parse_pipeline

    passes = list(parse_pipeline(pipeline))
    names = [each.name for each in passes]
    if names[: len(module.after)] == [text.partition("{")[0] for text in module.after]:
        return passes[len(module.after) :]
    reached = LEVELS.index(module.level)
    if reached == 0:
        return passes
    done = {text.partition("{")[0] for text in module.after}
    return [
        each
        for each in passes
        if max(LEVELS.index(level) for level in each.requires) >= reached and each.name not in done
    ]


def split_at_choice(pipeline: str, module: Module, choice: Choice) -> tuple[list[Pass], Pass, list[Pass]]:
    """What is left of a pipeline: the passes before the one that makes a choice, that one, those after it.

    InvalidInput `wrong-level` where that one is not left.
    """
    passes = left_to_run(pipeline, module)
    place = next((number for number, each in enumerate(passes) if each.chooses is choice), None)
    if place is None:
        message = f"{choice.value} are chosen already, the module is at level {module.level}"
        raise InvalidInput("wrong-level", message, hint="give the ONNX model")
    return passes[:place], passes[place], passes[place + 1 :]


def completed(pipeline: str, module: Module, target: Target) -> list[Pass]:
    """The passes that a text names, then the target's lowering passes that are left to reach the plan.

    Left are those after the last lowering pass that the text names or the module has been through, save what
    cannot run any more at the level reached. A text with an -O item is lowered as that is, others as -O2;
    InvalidInput `two-levels` where two items differ.
    """
    from rtcc.ir import LEVELS
    from rtcc.pipeline.text import levels_in, parse_pipeline

    passes = list(parse_pipeline(pipeline, target.named_pipelines))
    levels = set(levels_in(pipeline)) or {"-O2"}
    if len(levels) > 1:
        message = f"{' and '.join(sorted(levels))} stand in one pipeline, and are lowered in different ways"
        raise InvalidInput("two-levels", message, hint="leave one of them out")
    (level,) = levels
    graph_passes = [each.name for each in parse_pipeline(target.graph_passes(level))]
    lowering = parse_pipeline(target.lowering_passes(level))
    done = {each.name for each in passes} | {text.partition("{")[0] for text in module.after}
    reached = next((each.produces for each in reversed(passes) if each.produces), module.level)
    passed = [n for n, each in enumerate(lowering) if each.name in done - {*graph_passes}]
    return passes + [
        each
        for each in lowering[max(passed, default=-1) + 1 :]
        if max(map(LEVELS.index, each.requires)) >= LEVELS.index(reached)
    ]


def _with_settings(passes: list[Pass], settings: Mapping[str, Any]) -> list[Pass]:
    """The passes, each told what it asks to be; `no-pass-for-option` where none asks for one."""
    untold = set(settings)
    told: list[Pass] = []
    for each in passes:
        own = {name: settings[name] for name in each.told if name in settings}
        untold -= set(own)
        told.append(replace(cast("Any", each), **own) if own else each)
    if untold:
        message = f"no pass that is left to run takes {', '.join(sorted(untold))}"
        raise InvalidInput("no-pass-for-option", message, hint="give it before that stage, or leave it out")
    return told


def start(model: Any, options: Options) -> Compilation:
    """Read a model and settle its target."""
    module = read_model(model, options.shapes, options.dims, options.values)
    if options.state:
        declare_state(module, options.state)
    target = parse_target(_wanted_target(options, module))
    settle(module, target)
    return Compilation(options, module, target)


def settle(module: Module, target: Target) -> None:
    """Note the target that a module is for; for one of other pipelines, what was left to run is forgotten.

    InvalidInput `other-target` where it was lowered for another, and where it declares what this one does not
    offer (`rtcc.selection.check_choices`).
    """
    if module.level != "graph" and module.target and str(target) != module.target:
        message = f"this module was lowered for {module.target}, not {target}"
        hint = "take the ONNX model, or a dump at graph level, for another target"
        raise InvalidInput("other-target", message, hint=hint)
    if module.left and module.target and not _lowers_alike(parse_target(module.target), target):
        module.left = []
    module.target = str(target)
    if module.level != "graph":
        from rtcc.selection.check_choices import check_choices

        check_choices(module, target)


def _lowers_alike(one: Target, other: Target) -> bool:
    """Whether two targets have the same pipelines."""
    return all(one.pipeline(level) == other.pipeline(level) for level in NAMED_PIPELINES)


def _wanted_target(options: Options, module: Module) -> str:
    """The text of the target asked for: the one given, or the one that the module was dumped for."""
    text = options.target or module.target or DEFAULT_TARGET
    if options.threads != 1:
        if "threads=" in (options.target or ""):
            message = f"threads are given twice: {options.threads} and in {options.target!r}"
            raise InvalidInput("threads", message, hint="leave one of the two out")
        text = with_setting(text, "threads", str(options.threads))
    return text if options.tuned is None else _tuned_target(text, options.tuned)


def _tuned_target(text: str, path: Path) -> str:
    """The target's text with the hash of a file's measurements; InvalidInput where they are of another."""
    from rtcc.tuning.store import OPTION, keep, read_tuning, require_choice

    require_choice(parse_target(with_setting(text, OPTION, "")))
    tuning, target = read_tuning(path), str(parse_target(with_setting(text, OPTION, "")))
    if tuning.target != target:
        message = f"this was measured for {tuning.target}, and the model is compiled for {target}"
        raise InvalidInput("tuning-target", message, where=str(path), hint="measure on that: rtcc tune MODEL")
    return with_setting(target, OPTION, keep(tuning))


def compile(model: Any, target: str | None = None, **options: Any) -> Artifact:
    """Compile a model and load the result.

    model: a path (.onnx or .rtir), the bytes of an ONNX file, an onnx.ModelProto, or a Module. The keywords
    are the fields of `Options`. Raises RtccError.
    """
    return compile_with(model, Options(target=target, **options))


def compile_with(model: Any, options: Options, *, device: int | None = None) -> Artifact:
    """`compile`, told by `Options`, to run on the GPU of a number. Unsupported `other-machine`, before any
    work, for another machine."""
    from rtcc.artifact import Artifact

    compilation = start(model, options)
    compilation.target.machine.require_here("models compiled", ELSEWHERE)
    folder = Path(tempfile.mkdtemp(prefix="rtcc-"))
    try:
        library = _built(compilation, folder / f"{model_stem(model)}.so")
        return Artifact(library, device=device, folder=folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def build(model: Any, folder: Path, options: Options, *, suffix: str | None = None) -> Path:
    """Compile a model to a shared or static library (suffix) in a folder; it is not loaded, so it may be for
    another machine. Shared, unless asked otherwise, where its machine has such."""
    from rtcc.emission.link import suffixes_of

    compilation = start(model, options)
    suffix = suffix or suffixes_of(compilation.target.machine)[0]
    return _built(compilation, folder / f"{model_stem(model)}{suffix}")


def _built(compilation: Compilation, path: Path) -> Path:
    """Compile a model that was read to a library that may be saved elsewhere, its weights with it."""
    compilation.weights_name = by_content
    compilation.target.expect_code()
    compilation.lower()
    return write(compilation, path)


def write(compilation: Compilation, path: Path, progress: Progress = unseen) -> Path:
    """Generate code for a lowered model and put it in PATH.so or PATH.a, with its header beside it."""
    compilation.generate(path.stem, progress)
    assert compilation.source is not None
    return compilation.source.write(path)


def write_c(model: Any, path: str | Path, target: str | None = None, **options: Any) -> Path:
    """Compile a model to one C99 file, PATH.c, with its header PATH.h; the path written.

    target: one that writes C, `c` by default. The keywords are the fields of `Options`. Raises RtccError.
    """
    from rtcc.emission.link import require_destination

    path = Path(path)
    require_destination(path, (".c",))
    compilation = start(model, in_c(Options(target=target, **options)))
    compilation.target.expect_code()
    compilation.lower()
    return write(compilation, path)


def in_c(options: Options) -> Options:
    """The options with the target that writes C for the same machine. InvalidInput where there is none."""
    if options.target is None:
        return replace(options, target="c")
    class_of(options.target).require_c()
    return replace(options, target=parse_target(options.target).in_c)


def model_stem(model: Any) -> str:
    """What an artefact is called when nobody named it: the file's stem, else "model"."""
    return Path(model).stem if isinstance(model, str | Path) else "model"
