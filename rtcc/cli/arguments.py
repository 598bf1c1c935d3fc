"""Reading what the user wrote (shapes, dimensions, values, state), and the options that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcc.compiler import Options
    from rtcc.ir import Module
    from rtcc.target import Target

    Command = Callable[..., None]

MOST_DIGITS = 20
"""A size with more digits is past any 64-bit number."""

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX model, or a .rtir file to go on from.")
]
AnyModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An artefact (.so, .a), an ONNX model, or a .rtir file.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="NAME[:CPU][,key=value...]; this machine by default. `rtcc targets` lists them.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=SIZES", help="Input shape, such as input=1x3x224x224; repeatable."),
]
DimOption = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Symbolic dimension, such as N=1; repeatable."),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--value", metavar="NAME=VALUE", help="Fix an input: a number, numbers 1,2,3 or FILE.npy; repeatable."
    ),
]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="IN=OUT", help="OUT may be written over IN, such as h=hn; repeatable."),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, metavar="N", help="Threads that one run may use.")
]
TunedOption = Annotated[
    Path | None,
    typer.Option("--tuned", metavar="FILE", help="Measurements to choose by, as `rtcc tune` writes them."),
]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="An input; repeatable.")
]
SeedOption = Annotated[
    int, typer.Option("--random", min=0, metavar="SEED", help="Seed for inputs that are not given.")
]
RemoteOption = Annotated[
    str | None, typer.Option("--remote", metavar="USER@HOST", help="Run it on another machine, over ssh.")
]
DeviceOption = Annotated[
    int | None, typer.Option("--device", min=0, metavar="N", help="The number of the GPU to run on.")
]
LoadOption = Annotated[
    list[Path] | None,
    typer.Option("--load", metavar="FILE", help="Python file with passes of your own; repeatable."),
]
DumpOption = Annotated[
    Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write the IR after each pass there.")
]
VerifyEachOption = Annotated[
    bool, typer.Option("--verify-each", help="Interpret before and after each pass and compare.")
]
O0Option = Annotated[bool, typer.Option("-O0", help="Only what is needed to emit code.")]
O1Option = Annotated[bool, typer.Option("-O1", help="Exact passes only, and what lowering needs.")]
O2Option = Annotated[bool, typer.Option("-O2", help="All passes; the default.")]


class Reading:
    """How the user wants a model read: for which target, with which sizes and values."""

    def __init__(
        self,
        target: TargetOption = None,
        shape: ShapeOption = None,
        dim: DimOption = None,
        value: ValueOption = None,
    ) -> None:
        self.target = target
        self.shapes = parse_shapes(shape)
        self.dims = parse_dims(dim)
        self.values = parse_values(value)
        given = {"--target": target, "--shape": shape, "--dim": dim, "--value": value}
        self.given = [option for option, words in given.items() if words]

    def read(self, path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Module:
        """The module of a model's file; shapes: of given arrays, which bind an ONNX model's too."""
        from rtcc.compiler import read_model

        return read_model(path, self.shapes_of(path, shapes), self.dims, self.values)

    def shapes_of(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, tuple[int, ...]]:
        """The shapes that a model's file is read with: of given arrays, where it is ONNX, and those asked."""
        others = {} if path.suffix == ".rtir" else dict(shapes or {})
        return {**others, **self.shapes}

    def target_for(self, module: Module) -> Target:
        """The target asked for, else the one that the module was dumped for, else this machine."""
        from rtcc.target import DEFAULT_TARGET, parse_target

        return parse_target(self.target or module.target or DEFAULT_TARGET)

    def require_here(self) -> None:
        """Refuse --measure for a target that is another machine: Unsupported `other-machine`."""
        from rtcc.target import DEFAULT_TARGET, parse_target

        hint = "leave --measure out: times are predicted for the target"
        parse_target(self.target or DEFAULT_TARGET).machine.require_here("models compiled", hint)

    def require_none(self, path: Path) -> None:
        """Refuse options that an artefact, which is compiled already, cannot take."""
        if self.given:
            message = f"{path.name} is compiled already, {', '.join(self.given)} cannot change it"
            raise InvalidInput("artefact-options", message, hint="give the model it was made from")


class Compiling(Reading):
    """How the user wants a model compiled: besides, with how many threads, which state and measurements."""

    def __init__(
        self,
        target: TargetOption = None,
        shape: ShapeOption = None,
        dim: DimOption = None,
        value: ValueOption = None,
        state: StateOption = None,
        threads: ThreadsOption = 1,
        tuned: TunedOption = None,
    ) -> None:
        super().__init__(target, shape, dim, value)
        self.state = parse_state(state)
        self.threads = threads
        self.tuned = tuned
        self.given += ["--state"] if state else []
        self.given += ["--tuned"] if tuned else []

    def options(self, **others: Any) -> Options:
        """What the compiler is told, the sizes and values included; others: further options, or in place."""
        from rtcc.compiler import Options

        asked: dict[str, Any] = {
            "target": self.target, "threads": self.threads, "shapes": self.shapes, "dims": self.dims,
            "values": self.values, "state": self.state, "tuned": self.tuned,
        }  # fmt: skip
        return Options(**{**asked, **others})

    def require_interpretable(self, others: Mapping[str, object]) -> None:
        """Refuse what says how to compile, where nothing is: these options, and others by what they hold."""
        given = {
            "--target": self.target, "--state": self.state, "--tuned": self.tuned,
            "--threads": self.threads > 1, **others,
        }  # fmt: skip
        unused = [option for option, value in given.items() if value]
        if unused:
            message = f"--interpret compiles nothing, and has no use for {', '.join(unused)}"
            raise InvalidInput("interpret-options", message, hint="leave one or the other out")


def with_options_of(kind: type[Any], name: str = "asked") -> Callable[[Command], Command]:
    """Give a command the options that make an object of some class, which it takes under that name."""

    def extend(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        shared = inspect.signature(kind, eval_str=True).parameters

        @wraps(command)
        def extended(**words: Any) -> None:
            made = kind(**{each: words.pop(each) for each in shared})
            command(**words, **{name: made})

        parameters = [*(each for each in own.parameters.values() if each.name != name), *shared.values()]
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        extended.__signature__ = own.replace(parameters=keywords)  # pyright: ignore[reportAttributeAccessIssue]
        return extended

    return extend


def is_artifact(path: Path) -> bool:
    """Whether a path is of an artefact that can be loaded; `static-library` for one that cannot."""
    if path.suffix == ".a":
        from rtcc.artifact.archive import info_of

        info = info_of(path)
        message = f"{path.name} is a static library for {info.target}, which this process cannot load"
        hint = f"--remote USER@HOST runs it there; for here, or --emulate, compile to {path.stem}.so"
        if info.is_bare:
            hint = f"`rtcc run {path.name} --emulate` runs it on an emulated board, as `rtcc bench` does"
        raise InvalidInput("static-library", message, hint=hint)
    return path.suffix == ".so"


@dataclass(frozen=True)
class PairForm:
    """How a repeatable option NAME=… is written, and the code of the error where it is not."""

    option: str
    written: str
    example: str
    code: str

    def pairs(self, texts: list[str] | None) -> Iterator[tuple[str, str]]:
        """Each name with what is given for it; a name holds all up to the last `=`, and is given once."""
        seen: set[str] = set()
        for text in texts or []:
            name, equals, given = text.rpartition("=")
            if not equals or not name:
                raise self.refused(text)
            if name in seen:
                message = f"{self.option} is given twice for {name!r}"
                raise InvalidInput("given-twice", message, hint="leave one out")
            seen.add(name)
            yield name, given

    def refused(self, text: str) -> InvalidInput:
        """The error for what is not written so."""
        message = f"{self.option} {text!r} is not {self.written}"
        return InvalidInput(self.code, message, hint=f"write it as in {self.option} {self.example}")


SHAPE = PairForm("--shape", "NAME=SIZExSIZEx...", "input=1x3x224x224", "bad-shape")
DIM = PairForm("--dim", "NAME=SIZE", "N=1", "bad-dim")
VALUE = PairForm("--value", "NAME=NUMBER, NAME=NUMBER,NUMBER,... or NAME=FILE.npy", "sr=16000", "bad-value")
STATE = PairForm("--state", "INPUT=OUTPUT", "h=hn", "bad-state")
INPUT = PairForm("--input", "NAME=FILE.npy", "x=x.npy", "bad-input")


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`["x=1x3x8"]` → {"x": (1, 3, 8)}; an empty right side is a scalar."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, sizes in SHAPE.pairs(texts):
        parts = sizes.split("x") if sizes else []
        if not all(map(_is_size, parts)):
            raise SHAPE.refused(f"{name}={sizes}")
        shapes[name] = tuple(map(int, parts))
    return shapes


def parse_dims(texts: list[str] | None) -> dict[str, int]:
    """`["N=1"]` → {"N": 1}."""
    dims: dict[str, int] = {}
    for name, size in DIM.pairs(texts):
        if not _is_size(size):
            raise DIM.refused(f"{name}={size}")
        dims[name] = int(size)
    return dims


def parse_values(texts: list[str] | None) -> dict[str, Any]:
    """`["sr=16000", "k=1,2", "t=t.npy"]` → {"sr": 16000, "k": [1, 2], "t": array}."""
    values: dict[str, Any] = {}
    for name, given in VALUE.pairs(texts):
        is_file = given.endswith(".npy")
        values[name] = _read_array(name, given, "bad-value") if is_file else _numbers(name, given)
    return values


def _numbers(name: str, given: str) -> Any:
    """One number, or a list of those with commas between them."""
    words = {"true": True, "false": False}
    found: list[Any] = []
    for word in given.split(","):
        try:
            found.append(words[word] if word in words else int(word) if _is_integer(word) else float(word))
        except ValueError:
            raise VALUE.refused(f"{name}={given}") from None
    return found if "," in given else found[0]


def parse_state(texts: list[str] | None) -> dict[str, str]:
    """`["h=hn"]` → {"h": "hn"}."""
    state: dict[str, str] = {}
    for source, result in STATE.pairs(texts):
        if not result:
            raise STATE.refused(f"{source}=")
        state[source] = result
    return state


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < MOST_DIGITS


def _is_integer(text: str) -> bool:
    return _is_size(text.removeprefix("-"))


def optimisation_level(o0: bool, o1: bool, o2: bool, pipeline: str | None) -> str | None:
    """The pipeline that the options ask for, if any; a usage error where they ask for two."""
    given = [level for level, chosen in (("-O0", o0), ("-O1", o1), ("-O2", o2)) if chosen]
    given += [pipeline] if pipeline is not None else []
    if len(given) > 1:
        raise typer.BadParameter("give one of -O0, -O1, -O2 and --pipeline, not several")
    return given[0] if given else None


def load_plugins(paths: list[Path] | None) -> None:
    """Register the passes of the user's own files."""
    from rtcc.pipeline.catalogue import load_plugin

    for path in paths or []:
        load_plugin(path)


def read_arrays(texts: list[str] | None) -> dict[str, NDArray[Any]]:
    """`["x=x.npy"]` → {"x": array}."""
    return {name: _read_array(name, path, "bad-input") for name, path in INPUT.pairs(texts)}


def _read_array(name: str, path: str, code: str) -> NDArray[Any]:
    """The array in a .npy file, for the input of that name."""
    import numpy as np

    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(code, f"cannot read {path!r} for input {name!r}: {error}",
                           hint="write it with numpy.save") from error  # fmt: skip
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise InvalidInput(code, f"{path!r} for input {name!r} holds several arrays (.npz)",
                           hint="write one array with numpy.save")  # fmt: skip
    return array
