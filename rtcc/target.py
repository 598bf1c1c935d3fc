"""What a target is: facts about a machine, and the answers that passes ask of it.

A target is written `NAME[:CPU][,key=value…]`. Passes never test a target's name: they ask whether an
epilogue is fusible, which algorithms an op could have and what each costs, which pipeline lowers a model.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import DType, Graph, Layout, Module, Op, TensorType
from rtcc.plugins import entry_points_of, load_class

if TYPE_CHECKING:
    from ctypes import CDLL
    from pathlib import Path

    from numpy.typing import NDArray

    from rtcc.artifact import Artifact
    from rtcc.artifact.info import ArtifactInfo
    from rtcc.system.machine import Machine
    from rtcc.verification.check import Runner

CATALOGUE = {
    "x86": "rtcc.targets.x86:X86",
    "arm": "rtcc.targets.arm:Arm",
    "cortex-m": "rtcc.targets.cortex_m:CortexM",
    "c": "rtcc.targets.c:PlainC",
    "cuda": "rtcc.targets.cuda:Cuda",
    "fpga": "rtcc.targets.fpga.target:Fpga",
}
"""Built-in targets, by name; plug-ins register under the entry-point group `rtcc.targets`."""

ENTRY_POINTS = "rtcc.targets"

DEFAULT_TARGET = "x86"
"""What is compiled for where nobody names a target: this machine."""

WeightsName = Callable[[str, str], str]
"""Names the file that weights lie in beside an artefact, from its stem and the hash of their bytes."""

Progress = Callable[[int, int], None]
"""Called with (kernels done, kernels in all) as code is generated."""


def beside(stem: str, digest: str) -> str:
    """The weights' file of an artefact that is written where it stays."""
    return f"{stem}.weights"


def by_content(stem: str, digest: str) -> str:
    """The weights' file of an artefact that will be saved no one knows where: others may be called alike."""
    return f"{stem}-{digest[:8]}.weights"


def unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""


class Source(Protocol):
    """A model as its target emitted it: C, host code or an image, with what linking needs."""

    @property
    def info(self) -> ArtifactInfo:
        """What the artefact says of itself."""
        ...

    def write(self, path: Path) -> Path:
        """Build it and put it in place, with what lies beside it; the path written."""
        ...


@dataclass(frozen=True)
class Cost:
    """What a kernel's run is predicted to take, in seconds by term; ratios matter, not the absolute value.

    compute: arithmetic with operands in the first cache. memory: waiting for what lies farther off.
    communication: starting and joining threads, and data that another core wrote. alone: what one thread
    would take in all, where several share the run; else None. far: memory's part for weights that no cache
    keeps from one run to the next.
    """

    compute: float
    memory: float = 0.0
    communication: float = 0.0
    alone: float | None = None
    far: float = 0.0

    @property
    def total(self) -> float:
        """t = t_compute + t_memory + t_communication."""
        return self.compute + self.memory + self.communication

    @property
    def on_one_thread(self) -> float:
        """Seconds in all that one thread takes; this decides how many share the run."""
        return self.total if self.alone is None else self.alone

    def times(self, factor: float) -> Cost:
        """The cost of what takes so many times as long."""
        alone = None if self.alone is None else factor * self.alone
        return Cost(
            factor * self.compute, factor * self.memory, factor * self.communication, alone, factor * self.far
        )


@dataclass(frozen=True)
class Illegal:
    """Why an algorithm cannot do an anchor, as a sentence goes on: "winograd needs a 3x3 kernel"."""

    reason: str


@dataclass(frozen=True)
class DeviceReport:
    """What a run takes on a device: for each layer and in all, the same figures by name; device: its facts,
    where it is there."""

    layers: tuple[Mapping[str, str | int | float], ...]
    total: Mapping[str, str | int | float]
    device: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Transformed:
    """The operator with transformed weights that an anchor becomes, by its name, and its tiles' size.

    size: along each spatial axis, outputs (`nn.winograd_conv`) or points (`nn.fft_conv`); outputs of a block
    (`nn.sparse_conv`, `nn.sparse_mat_mul`).
    """

    operator: str
    size: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """One way to compile an anchor: the algorithm, its tile, the layouts it needs, and what it costs.

    error: bound on a result's rounding error relative to the largest Σ|weight|·max|data| (docs/arithmetic.md
    says how it is obtained). operand_layouts maps operand index → layout (None: plain); operands not named
    take what they have. result_layout: None for plain. border is the zero halo that the first operand must
    bring along (ONNX pads order), () for none. transformed: what the convolution first becomes, if anything;
    the layouts are for the operands of that. measured: seconds that it took on the machine, where somebody
    measured it; they count in place of the cost, which is predicted. of_content: the cost depends on the
    constants' numbers, so that what was measured of one says nothing of another.
    """

    algorithm: str
    cost: Cost | Illegal
    error: float = 0.0
    tile: tuple[int, ...] = ()
    operand_layouts: Mapping[int, Layout | None] = field(default_factory=dict["int", "Layout | None"])
    result_layout: Layout | None = None
    border: tuple[int, ...] = ()
    transformed: Transformed | None = None
    measured: float | None = None
    of_content: bool = False

    @property
    def seconds(self) -> float:
        """Measured seconds, else predicted ones; infinitely many where the algorithm is not legal."""
        if not isinstance(self.cost, Cost):
            return inf
        return self.cost.total if self.measured is None else self.measured

    @property
    def slowness(self) -> float:
        """How many times longer than predicted it took; 1 where it was not measured, or took less."""
        if self.measured is None or isinstance(self.cost, Illegal):
            return 1.0
        return max(1.0, self.measured / self.cost.total)

    def slowed(self, times: float) -> Candidate:
        """The same, predicted to take so many times as long; what was measured or is illegal stays."""
        if self.measured is not None or isinstance(self.cost, Illegal) or times == 1.0:
            return self
        return replace(self, cost=self.cost.times(times))


GENERIC = "generic"
"""The algorithm that every target has: plain loops over plain tensors, as the operator defines them."""


@dataclass(frozen=True)
class Halos:
    """Zero borders (ONNX pads order, () for none) of an anchor's first operand and of its region's result."""

    operand: tuple[int, ...] = ()
    result: tuple[int, ...] = ()


NO_HALOS = Halos()


class Device(Protocol):
    """A device behind a library that is loaded."""

    @property
    def counts_cycles(self) -> bool:
        """Whether it says how many cycles runs take."""
        ...

    def detach(self) -> None:
        """Take it away, where it is still there: runs then find no device."""
        ...


class Target(ABC):
    """One machine to compile for; equal texts are equal targets."""

    name: ClassVar[str]
    cpus: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {}
    """Option name → what it means, as `rtcc targets NAME` prints them."""
    algorithms: ClassVar[dict[str, str]] = {}
    """Name of each algorithm that `candidates` can give → what it is; what `--conv` takes."""
    channel_block: int = 0
    """Channels that an accelerator computes at once, whether a tensor has so many or not; 0 without one."""
    addition_bits: int = 0
    """Of the factors by which an accelerator adds two tensors, without their sign; 0 without one."""
    tools: ClassVar[dict[str, str]] = {}
    """Programs that some of its work needs → what for, and the package that has them; for `rtcc doctor`.

    `one or other` are two names of one."""
    requantizes: str = "f32"
    """How integer sums are scaled where nobody asks for a way: `f32`, or without a float unit `fixed25`."""

    view_alignment: ClassVar[int] = 1
    """Bytes of which views begin at a multiple, within their tensors: kernels may load so many at once."""

    writes_c: ClassVar[bool] = False
    """Whether kernels become C that anybody can compile, in place of objects; they have plain loops alone."""

    saves_memory: ClassVar[bool] = False
    """Whether memory is what there is least of: results are then written over operands where they can be, and
    tensors stored as is best for that."""

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        self.cpu = cpu
        self.settings = dict(options)

    def __str__(self) -> str:
        """The canonical text: parses back to an equal target, on any machine."""
        extra = "".join(f",{key}={value}" for key, value in sorted(self.settings.items()))
        return f"{self.name}{':' if self.cpu else ''}{self.cpu}{extra}"

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, object]:
        """What the machine is: vector bits, registers, cache sizes, features. Part of the cache key."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """Architecture and required CPU features of the host code, for linking and for the check in init."""

    @property
    def host(self) -> str:
        """The text of the target that computes in floats what a device of this one does not."""
        return str(self)

    @property
    def workspace_room(self) -> int:
        """Bytes that an arena may have; 0 where memory is not counted."""
        return 0

    @classmethod
    def require_c(cls) -> None:
        """InvalidInput `emit-target` where no target writes C for the same machines (`in_c`)."""
        if not cls.writes_c:
            message = f"what is compiled for {cls.name} is no C, it has instructions of its own"
            raise InvalidInput("emit-target", message, hint="leave --target out: plain C runs on any machine")

    @property
    def has_limits(self) -> bool:
        """Whether the target's text says how much room there is."""
        return False

    def require_room(self, module: Module) -> None:  # noqa: B027 (most targets have no limits)
        """Refuse a module at the plan level whose constants alone are too large. RtccError."""

    @property
    def in_c(self) -> str:
        """The text of the target that writes C for the same machine; InvalidInput as of `require_c`."""
        self.require_c()
        return str(self)

    @property
    def threads(self) -> int:
        """The most threads that one run may use."""
        return 1

    @abstractmethod
    def lanes(self, dtype: DType) -> int:
        """Elements of that type in one vector register."""

    def multiplies(self, dtype: DType) -> bool:
        """Whether convolutions and products of that float type have kernels; others are done in float32."""
        return dtype in (DType.F32, DType.F64)

    @abstractmethod
    def fusible(self, anchor: Op, epilogue: Op) -> bool:
        """Whether the elementwise `epilogue` can run in the same kernel as `anchor`."""

    def takes_prologue(self, anchor: Op, front: Op) -> bool:
        """Whether the kernel of `anchor` computes the elementwise `front` wherever it reads its result."""
        return False

    def joins_pool(self, anchor: Op, algorithm: str, pool: Op) -> bool:
        """Whether the kernel that computes `anchor` so can also pool what it has computed and finished."""
        return False

    @abstractmethod
    def candidates(
        self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS, *, weights: int = 0
    ) -> tuple[Candidate, ...]:
        """Every algorithm that an anchor could have, legal or not; none where there is but one way.

        constants: which of its operands are constants, and so can be stored as the kernel likes. Asked first
        to learn which borders are needed, and again with the halos that all readers together ask for:
        legality and layouts other than constants' must be the same both times, tiles may differ. weights:
        bytes of constants that a run of the whole model passes by; they decide where it finds the anchor's,
        which changes costs alone.
        """

    def tiles(
        self, anchor: Op, candidate: Candidate, constants: Container[int]
    ) -> tuple[tuple[int, ...], ...]:
        """Tiles that a candidate could have and that may be fast, its own first; measuring tells."""
        return (candidate.tile,)

    @abstractmethod
    def conversion_cost(self, type: TensorType, layout: Layout | None) -> Cost:
        """What it costs to store a tensor of that type in another layout."""

    @abstractmethod
    def loops_cost(self, body: Graph, operands: Sequence[Layout | None], result: Layout | None) -> Cost:
        """What a region costs that `candidates` lists nothing for, its operands and result stored so."""

    @abstractmethod
    def scratch_bytes(self, kernel: Graph) -> int:
        """Bytes of scratch memory that each task of a kernel needs; 0 for none."""

    def overwritable(self, kernel: Graph) -> tuple[int, ...]:
        """Operands over which the kernel's code can write its result, the one to do so first.

        Of those that `rtcc.ir.overlap` allows; none where memory is not worth it.
        """
        return ()

    @abstractmethod
    def tasks(self, kernel: Graph) -> int:
        """How many ways it pays to split one run of a kernel; 1 keeps it on one thread."""

    def seconds(self, kernel: Graph) -> float:
        """About how long one run of a kernel keeps one thread of the host.

        0 where the target does not know, and where an accelerator runs it: threads have nothing to divide.
        """
        return 0.0

    def repays_threads(self, kernels: Iterable[tuple[Graph, int]], saved: float = 0.0) -> bool:
        """Whether a model gains from threads at all; each of its kernels, and how often one run launches it.

        saved: the seconds that a run takes less for loops that run at once, besides these kernels. Where it
        does not, all of it runs on the caller's thread and no other is started.
        """
        return self.threads > 1

    @property
    def joining_seconds(self) -> float:
        """What it takes to let all threads go on, and to wait for the last of them."""
        return 0.0

    def keeps_near(self, weights: int) -> bool:
        """Whether a thread that reads so many bytes again and again finds them in a cache of its own."""
        return False

    @abstractmethod
    def layout_agnostic(self, op: Op) -> bool:
        """Whether the op's kernel takes and gives any channel-blocked layout as it comes."""

    @property
    def mixes_layouts(self) -> bool:
        """Whether general loops read operands of their result's shape in another layout than the result's."""
        return False

    @property
    def pass_options(self) -> Mapping[str, str]:
        """Options of passes at graph level that the target sets, by the pass's name."""
        return {}

    def graph_passes(self, level: str) -> str:
        """Pipeline text of -O0, -O1 or -O2 at graph level: `NAMED_PIPELINES` unless the target has others."""
        from rtcc.pipeline.catalogue import NAMED_PIPELINES, with_options

        return with_options(NAMED_PIPELINES[level], self.pass_options)

    @abstractmethod
    def lowering_passes(self, level: str) -> str:
        """Pipeline text of what follows at -O0, -O1 or -O2, from the graph to the plan."""

    def pipeline(self, level: str) -> str:
        """Pipeline text of -O0, -O1 or -O2 for this target, from the graph to the plan."""
        return f"{self.graph_passes(level)},{self.lowering_passes(level)}"

    @property
    def named_pipelines(self) -> dict[str, str]:
        """What -O0, -O1 and -O2 stand for at graph level within a pipeline's text (`parse_pipeline`)."""
        from rtcc.pipeline.catalogue import NAMED_PIPELINES

        return {level: self.graph_passes(level) for level in NAMED_PIPELINES}

    def expect_code(self) -> None:  # noqa: B027 (most targets have nothing to start)
        """Told that `compile_kernels` will soon be asked: what takes long to start may start now."""

    @abstractmethod
    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        """Object code of every kernel of a module at plan level, by kernel name; tells `progress` of each."""

    def runnable(self, kernels: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Objects of kernels that run alone on the target's machine, of what `compile_kernels` gave."""
        return kernels

    interprets_kernels: ClassVar[bool] = False
    """Whether `--verify-kernels` takes `interpreted`, because the target's code never runs here."""

    def interpreted(self, kernel: Graph) -> Runner:
        """What does what a kernel's code does, from what the code generator prints. Unsupported, with the
        reason, where that would take minutes, or there is no bound to hold it to."""
        raise AssertionError(f"code of {self.name} runs by itself")

    def listings(self, module: Module) -> dict[str, str]:
        """Each kernel in the code generator's language, by file name, for `--dump-ir`; none by default."""
        return {}

    @abstractmethod
    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        """What is made of a module at plan level and of its kernels' code (`compile_kernels`).

        name: the output file's stem. weights: keep them in a file beside the artefact, called so.
        """

    def why_not_accelerated(self, op: Op) -> str:
        """Why no accelerator of this target computes an op of the family `accelerator`; "" where one does."""
        return f"{self.name} has no accelerator"

    def is_accelerated(self, kernel: Graph) -> bool:
        """Whether an accelerator of this target runs a kernel: one at a time, on no thread of the host."""
        return False

    def synthesis(self) -> str:
        """What the target's own hardware takes of a chip, as a table. Unsupported where it has none."""
        message = f"{self.name} is no hardware of rtcc's own"
        raise Unsupported("no-hardware", message, hint="rtcc targets fpga --synthesize")

    def device_report(self, library: Path, device: Device | None = None) -> DeviceReport | None:
        """What a library's device part takes, as its model predicts; None where all runs on the host.

        device: one that counts cycles, whose runs so far stand beside the model's.
        """
        return None

    def profile(self, artifact: Artifact, inputs: Mapping[str, NDArray[Any]]) -> DeviceReport:
        """How long each kernel of an artefact takes on the device that it is loaded on. Unsupported where
        kernels run on the host."""
        message = f"{self.name} has no device whose kernels could be timed one by one"
        raise Unsupported("no-profile", message, hint="--target cuda:… has; rtcc bench times whole runs")

    @property
    def sum_data(self) -> DType:
        """What integer sums take as data, U8 or I8, where a pass has the choice."""
        return DType.U8

    @property
    def emulated_cpus(self) -> tuple[str, ...]:
        """QEMU's names of the CPU, the nearest that run its instructions behind; none where any does."""
        return ()

    @property
    def emulated_boards(self) -> Mapping[str, str]:
        """QEMU's boards without an operating system by the core that each has, for cores that run this code.

        The target's own core comes first; none where an operating system runs.
        """
        return {}

    @property
    def asks_ahead(self) -> bool:
        """Whether kernels name memory ahead of its use, for a CPU that would not fetch it by itself."""
        return True

    @property
    def scheduling_model(self) -> str:
        """The CPU by whose model in LLVM loops are estimated without the machine; "" where they are not."""
        return ""

    @property
    def multiplies_per_cycle(self) -> float:
        """Instructions that multiply and add whole vectors which a core finishes in a cycle; 0 unknown."""
        return 0.0

    @property
    def data_caches(self) -> tuple[tuple[int, int], ...]:
        """Bytes and ways of the caches that one core reads data through, the nearest first."""
        return ()

    def simulate(self, library: CDLL, path: Path, name: str, engine: str) -> Device:
        """Put a simulated device behind a library that is loaded, until it is detached.

        path: of its file. name: what the library's functions begin with. Raises Unsupported where the target
        has no device.
        """
        message = f"what is compiled for {self.name} runs on this machine, and nothing of it is simulated"
        raise Unsupported("no-simulator", message, hint="compile for a target with a device, such as fpga")

    @abstractmethod
    def why_unsupported(self, op: Op) -> str | None:
        """Why this target cannot compile the op as `legalize` leaves it, or None where it can."""


@cache
def parse_target(text: str) -> Target:
    """The target written `NAME[:CPU][,key=value…]`; typed errors list what there is."""
    head, *pairs = text.split(",")
    name, _, cpu = head.partition(":")
    kind = class_of(text)
    if cpu and not kind.cpus:
        raise InvalidInput("unknown-cpu", f"target {name} has no CPUs, found {cpu!r}", hint=f"write {name}")
    if cpu and cpu not in kind.cpus:
        near = difflib.get_close_matches(cpu, kind.cpus, 3)
        hint = f"did you mean {', '.join(near)}?" if near else f"`rtcc targets {name}` lists them"
        raise InvalidInput("unknown-cpu", f"target {name} knows no CPU {cpu!r}", hint=hint)
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in kind.options:
            known = ", ".join(kind.options) or "none"
            raise InvalidInput("unknown-target-option", f"target {name}: {pair!r} is not an option",
                               hint=f"options are written key=value; known: {known}")  # fmt: skip
        if key in options:
            message = f"target {name}: {key} is given twice, as {options[key]} and as {value}"
            raise InvalidInput("target-option", message, hint="give each option once")
        options[key] = value
    return kind(cpu, options)


def host_of(text: str | None) -> str | None:
    """The text of a target's host; None stays, for this machine."""
    return None if text is None else parse_target(text).host


def with_setting(text: str, key: str, value: str) -> str:
    """The target's text with one option set to a value, in place of what it said; "" takes it away."""
    head, *settings = text.split(",")
    others = [each for each in settings if not each.startswith(f"{key}=")]
    return ",".join([head, *others, *([f"{key}={value}"] if value else [])])


def target_of(module: Module) -> Target:
    """The target a module is compiled for."""
    if not module.target:
        message = "a pass asks the target, and none is chosen"
        raise InvalidInput("no-target", message, hint="give --target x86")
    return parse_target(module.target)


def class_of(text: str) -> type[Target]:
    """The class of the target that is written so, whether the rest of the text means something or not."""
    return target_class(text.partition(",")[0].partition(":")[0])


def target_names() -> tuple[str, ...]:
    """All targets that `parse_target` knows, plug-ins included."""
    return (*CATALOGUE, *sorted(set(entry_points_of(ENTRY_POINTS)) - CATALOGUE.keys()))


def target_class(name: str) -> type[Target]:
    """The class of the target of that name, imported now."""
    if name in CATALOGUE:
        module, _, attribute = CATALOGUE[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in entry_points_of(ENTRY_POINTS):
        return load_class(entry_points_of(ENTRY_POINTS)[name], Target)
    known = ", ".join(target_names())
    raise InvalidInput("unknown-target", f"no target is named {name!r}", hint=f"known: {known}")
