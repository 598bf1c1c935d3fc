"""Which passes there are: a lazy table of names, entry points, and plug-in files."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

from rtcc.errors import InvalidInput
from rtcc.pipeline.base import Pass
from rtcc.plugins import entry_points_of, load_class

BUILT_IN: dict[str, str] = {
    "accelerate": "rtcc.passes.accelerate:Accelerate",
    "convert-signedness": "rtcc.passes.convert_signedness:ConvertSignedness",
    "cut-recurrent": "rtcc.passes.cut_recurrent:CutRecurrent",
    "drop-silent-channels": "rtcc.passes.drop_silent_channels:DropSilentChannels",
    "eliminate-common": "rtcc.passes.eliminate_common:EliminateCommon",
    "eliminate-dead": "rtcc.passes.eliminate_dead:EliminateDead",
    "expand-loops": "rtcc.passes.expand_loops:ExpandLoops",
    "factorize": "rtcc.passes.factorize:Factorize",
    "fold-batch-norm": "rtcc.passes.fold_batch_norm:FoldBatchNorm",
    "fold-constants": "rtcc.passes.fold_constants:FoldConstants",
    "fuse": "rtcc.passes.fuse:Fuse",
    "fuse-attention": "rtcc.passes.fuse_attention:FuseAttention",
    "inline-control": "rtcc.passes.inline_control:InlineControl",
    "join-pools": "rtcc.passes.join_pools:JoinPools",
    "keep-narrow": "rtcc.passes.keep_narrow:KeepNarrow",
    "legalize": "rtcc.passes.legalize:Legalize",
    "lower-quantization": "rtcc.passes.lower_quantization:LowerQuantization",
    "merge-linear": "rtcc.passes.merge_linear:MergeLinear",
    "outline-kernels": "rtcc.passes.outline_kernels:OutlineKernels",
    "partition": "rtcc.passes.partition:Partition",
    "plan-memory": "rtcc.passes.plan_memory:PlanMemory",
    "prune": "rtcc.passes.prune:Prune",
    "quantize": "rtcc.passes.quantize:Quantize",
    "raise-patterns": "rtcc.passes.raise_patterns:RaisePatterns",
    "reduce-strength": "rtcc.passes.reduce_strength:ReduceStrength",
    "select-conv": "rtcc.passes.select_conv:SelectConv",
    "select-layout": "rtcc.passes.select_layout:SelectLayout",
    "simplify": "rtcc.passes.simplify:Simplify",
    "simplify-movement": "rtcc.passes.simplify_movement:SimplifyMovement",
    "sparsify": "rtcc.passes.sparsify:Sparsify",
    "unfold-stride": "rtcc.passes.unfold_stride:UnfoldStride",
}
"""Name → where the class lives; nothing is imported before it is asked for."""

NAMED_PIPELINES: dict[str, str] = {
    "-O0": "fold-constants,inline-control",
    "-O1": "fold-constants,inline-control,simplify,simplify-movement,fold-constants,eliminate-common,"
    "eliminate-dead",
    "-O2": "convert-signedness,lower-quantization,keep-narrow,fold-constants,inline-control,simplify,"
    "simplify-movement,fold-batch-norm,merge-linear,reduce-strength,simplify,fold-constants,eliminate-common,"
    "eliminate-dead,raise-patterns",
}
"""What runs at graph level. -O0: what is needed to emit; -O1: exact passes; -O2: the default.

A target appends the passes that lower the graph to its plan."""


def with_options(pipeline: str, options: Mapping[str, str]) -> str:
    """One of the pipelines above with some passes' options, by their names, which one of them must have."""
    unknown = options.keys() - ",".join(NAMED_PIPELINES.values()).split(",")
    assert not unknown, f"no pipeline has {sorted(unknown)}"
    return ",".join(f"{each}{{{options[each]}}}" if each in options else each for each in pipeline.split(","))


BEFORE_PRUNING = (
    "fold-constants,inline-control,simplify,simplify-movement,fold-batch-norm,fold-constants,eliminate-dead"
)
"""What makes shapes known and layers few. Equal constants stay apart: joined, their channels would be."""

BEFORE_SCALES = "fold-constants"
"""What makes the scales of batch normalisations constants, which those passes then fold into layers."""

BEFORE_TRAINING = (
    "fold-constants{dequantize=false},inline-control,simplify,simplify-movement,fold-batch-norm,"
    "fold-constants{dequantize=false},eliminate-dead"
)
"""The same, but integers that stand for weights stay, behind what makes real numbers of them."""

ENTRY_POINTS = "rtcc.passes"

_loaded: dict[str, type[Pass]] = {}
_files: dict[str, Path] = {}


def pass_names() -> tuple[str, ...]:
    """Every pass that pipeline text can name, sorted."""
    return tuple(sorted({*BUILT_IN, *entry_points_of(ENTRY_POINTS), *_loaded}))


def find_pass(name: str) -> type[Pass] | None:
    """The class of a pass, imported now; None where no pass has that name."""
    if name in _loaded:
        return _loaded[name]
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast("type[Pass]", getattr(import_module(module), attribute))
    point = entry_points_of(ENTRY_POINTS).get(name)
    return None if point is None else load_class(point, Pass)


def load_plugin(path: str | Path) -> tuple[type[Pass], ...]:
    """Make the passes that a Python file defines known by name (`--load my_pass.py`).

    Loading the same file again is harmless. Errors (InvalidInput): plugin-missing, plugin-broken (with
    the line of the file that failed), plugin-empty, pass-name-taken.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise InvalidInput("plugin-missing", f"there is no file {path}", hint="--load takes a Python file")
    module = _import_file(path)
    classes = tuple(
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Pass) and value.__module__ == module.__name__
    )
    if not classes:
        raise InvalidInput(
            "plugin-empty", f"{path} defines no subclass of rtcc.pipeline.Pass", where=str(path)
        )
    for pass_class in classes:
        _register(pass_class, path)
    return classes


def _register(pass_class: type[Pass], path: Path) -> None:
    name = pass_class.name
    if name in BUILT_IN or name in entry_points_of(ENTRY_POINTS) or _files.get(name, path) != path:
        owner = BUILT_IN.get(name) or str(_files.get(name, "an installed package"))
        raise InvalidInput("pass-name-taken", f"{path} defines pass {name!r}, which {owner} defines already",
                           where=str(path), hint="rename the class")  # fmt: skip
    _loaded[name], _files[name] = pass_class, path


def _import_file(path: Path) -> ModuleType:
    name = f"rtcc_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput("plugin-broken", f"{path} is not a Python file", hint="--load takes a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = _failing_line(error, path)
        raise InvalidInput("plugin-broken", f"{type(error).__name__}: {error}", where=f"{path}:{line}",
                           hint="the file must import on its own: try `python FILE`") from error  # fmt: skip
    return module


def _failing_line(error: Exception, path: Path) -> int:
    """The last line of the plug-in on the way to an error."""
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 1 for f in reversed(frames) if f.filename == str(path)), 1)
