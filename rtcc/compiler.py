"""From a model to an artefact: read, run the pipeline, generate code, emit, link."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.limits import within_limits
from rtcc.target import Progress, Target, parse_target, unseen

if TYPE_CHECKING:
    from rtcc.artifact import Artifact
    from rtcc.emission.emit_c import ModelSource
    from rtcc.pipeline.base import Pass
    from rtcc.pipeline.run import Report


@dataclass(frozen=True)
class Options:
    """What `compile` can be told.

    target: `NAME[:CPU][,key=value…]`. threads: the most that one run may use. shapes, dims: sizes for
    symbolic dimensions, by input name or by symbol. pipeline: pipeline text, or -O0, -O1, -O2 (default).
    dump_ir: folder for one `.rtir` after each pass. verify: check the IR after each pass. verify_each:
    interpret before and after each pass on seeded inputs. verify_kernels: run every kernel against the
    interpreter. max_workspace: refuse an arena of more bytes. external_weights: keep the weights in a file
    beside the artefact.
    """

    target: str = "x86"
    threads: int = 1
    shapes: Mapping[str, Sequence[int]] | None = None
    dims: Mapping[str, int] | None = None
    pipeline: str = "-O2"
    dump_ir: Path | None = None
    verify: bool = True
    verify_each: bool = False
    verify_kernels: bool = False
    max_workspace: int | None = None
    external_weights: bool = False


@dataclass
class Compilation:
    """One model on its way to an artefact, with what happened."""

    options: Options
    module: Module
    target: Target
    report: Report | None = None
    source: ModelSource | None = None
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @within_limits("running the passes")
    def lower(self) -> None:
        """Run the pipeline, down to the plan."""
        from rtcc.pipeline.run import RunOptions, run_pipeline

        self._require_static_inputs()
        options = self.options
        self.report = run_pipeline(
            self.module,
            self._passes(),
            RunOptions(
                verify=options.verify,
                verify_each=options.verify_each,
                dump_dir=options.dump_ir,
                reproducer_dir=options.dump_ir or Path(tempfile.gettempdir()) / "rtcc-reproducers",
            ),
        )
        if self.module.level != "plan":
            message = f"the pipeline ends at level {self.module.level}, not plan"
            hint = "end it with fuse,select-layout,outline-kernels,plan-memory"
            raise InvalidInput("pipeline-incomplete", message, hint=hint)

    def _passes(self) -> list[Pass]:
        """What is to run: the pipeline given, or what the module has not been through of a named one."""
        from rtcc.pipeline.text import parse_pipeline

        pipeline, limit = self.options.pipeline, self.options.max_workspace
        if pipeline in ("-O0", "-O1", "-O2"):
            passes = remaining(self.target.pipeline(pipeline), self.module)
        else:
            passes = list(parse_pipeline(pipeline))
        return passes if limit is None else [_limited(each, limit) for each in passes]

    def _require_static_inputs(self) -> None:
        """Refuse symbolic input sizes: an artefact has fixed ones."""
        open_inputs = [p for p in self.module.main.parameters if not p.type.is_static]
        if open_inputs:
            shown = ", ".join(f"{p.name} : {p.type}" for p in open_inputs)
            example = open_inputs[0]
            sizes = "x".join(str(d) if isinstance(d, int) else "1" for d in example.type.shape)
            raise InvalidInput("unbound-dimension", f"inputs with symbolic sizes: {shown}",
                               hint=f"bind them, as in --shape {example.name}={sizes}")  # fmt: skip

    @within_limits("generating code")
    def generate(self, name: str, progress: Progress = unseen) -> None:
        """Make the kernels' code and the C around them; tells `progress` of each kernel."""
        from importlib.metadata import version

        from rtcc.emission.emit_c import emit_c

        self.objects = self.target.compile_kernels(self.module, progress)
        if self.options.verify_kernels:
            from rtcc.verify_kernels import verify_kernels

            verify_kernels(self.module, self.objects, self.target)
        self.source = emit_c(
            self.module, name, self.target.machine, self.objects,
            threads=self.target.threads, external_weights=self.options.external_weights,
            versions={"apache-tvm": version("apache-tvm")},
        )  # fmt: skip


def read_model(
    model: Any, shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None
) -> Module:
    """The IR of a model: a path (.onnx or .rtir), the bytes of an ONNX file, an onnx.ModelProto, or a Module.

    Sizes are bound as ONNX is read; a module has its own, and `fixed-shape` is raised where others are given.
    """
    if isinstance(model, Module):
        return _with_shapes(model.clone(), shapes, dims)
    if isinstance(model, str | Path) and Path(model).suffix == ".rtir":
        from rtcc.ir.verify import verify
        from rtcc.text import read_module

        module = read_module(Path(model))
        with within_limits("verifying the module"):
            verify(module)
        return _with_shapes(module, shapes, dims)
    from rtcc.onnx import read

    return read(model, shapes=shapes, dims=dims)


def _with_shapes(
    module: Module, shapes: Mapping[str, Sequence[int]] | None, dims: Mapping[str, int] | None
) -> Module:
    """The module, if it has those shapes already."""
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


def remaining(pipeline: str, module: Module) -> list[Pass]:
    """The passes of a pipeline that a module read from a dump has not been through yet.

    A dump of this very pipeline goes on where it stopped. One of another pipeline starts over at the graph
    level, whose passes may run twice, and below it takes the lowering passes that are left.
    """
    from rtcc.ir import LEVELS
    from rtcc.pipeline.text import parse_pipeline, print_pass

    passes = list(parse_pipeline(pipeline))
    names = [print_pass(each) for each in passes]
    if names[: len(module.after)] == module.after:
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


def _limited(each: Pass, limit: int) -> Pass:
    """The pass, with the workspace's limit where it takes one."""
    from rtcc.pipeline.base import Size

    has_limit = hasattr(each, "max_workspace")
    return replace(cast("Any", each), max_workspace=Size(limit)) if has_limit else each


def start(model: Any, options: Options) -> Compilation:
    """Read a model and settle its target."""
    module = read_model(model, options.shapes, options.dims)
    wanted = options.target
    if options.threads > 1:
        if "threads=" in wanted:
            raise InvalidInput("threads", f"threads are given twice: {options.threads} and in {wanted!r}")
        wanted = f"{wanted},threads={options.threads}"
    is_chosen = wanted != Options.target
    target = parse_target(wanted if is_chosen else module.target or wanted)
    if module.level != "graph" and module.target and str(target) != module.target:
        message = f"this module was lowered for {module.target}, not {target}"
        hint = "compile the ONNX model, or a dump at graph level, for another target"
        raise InvalidInput("other-target", message, hint=hint)
    module.target = str(target)
    return Compilation(options, module, target)


def compile(model: Any, target: str = "x86", **options: Any) -> Artifact:
    """Compile a model and load the result.

    model: a path (.onnx or .rtir), the bytes of an ONNX file, an onnx.ModelProto, or a Module. The keywords
    are the fields of `Options`. Raises RtccError.
    """
    from rtcc.artifact import Artifact

    compilation = start(model, Options(target=target, **options))
    compilation.lower()
    folder = tempfile.TemporaryDirectory(prefix="rtcc-")
    try:
        path = write(compilation, Path(folder.name) / f"{model_stem(model)}.so")
        return Artifact(path, folder=folder)
    except BaseException:
        folder.cleanup()
        raise


def write(compilation: Compilation, path: Path, progress: Progress = unseen) -> Path:
    """Generate code for a lowered model and link it to PATH.so or PATH.a, with its header beside it."""
    from rtcc.emission.link import write_artifact

    compilation.generate(path.stem, progress)
    assert compilation.source is not None
    return write_artifact(compilation.source, path)


def model_stem(model: Any) -> str:
    """What an artefact is called when nobody named it: the file's stem, else "model"."""
    return Path(model).stem if isinstance(model, str | Path) else "model"
