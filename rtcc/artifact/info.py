"""What an artefact says of itself, as JSON: the same text from the same input, with no time and no path in
it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtcc.errors import ArtifactError

ABI_VERSION = 1
"""Changes when a loader of the previous version could no longer use an artefact."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: ONNX name, shape (the largest one where it depends on the data), element type.

    dtype: rtcc's name of the element type ("f32"); bytes: size of the buffer; symbolic: the shape as text
    where it depends on the data, such as ("2", "K"), else None. below: of an input whose elements are used as
    indices or counts, the number that they must stay below, from 0 up.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    symbolic: tuple[str, ...] | None = None
    below: int | None = None

    @property
    def alignment(self) -> int:
        """What a pointer to it must be a multiple of: the size of an element, or of a complex one's part."""
        from rtcc.ir.dtype import DType

        return max(1, DType(self.dtype).bytes // (2 if self.dtype.startswith("c") else 1))

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy element type."""
        from rtcc.ir.dtype import DType

        return DType(self.dtype).numpy


@dataclass(frozen=True)
class DeviceKernel:
    """A kernel as it runs on a GPU, and what it takes of a multiprocessor.

    symbol: what profilers call it; kernels of equal code share one. launches: in one run. threads, blocks: of
    one launch. registers: of a thread. spill_bytes: loads and stores of a thread because there are too few of
    those. stack_bytes: its local arrays. shared_bytes: of a block. share: of the operations of a run, 0 to 1.
    operations: of one launch; bytes: of its operands and results; element: the type that it mainly computes
    with ("f16"). A kernel of several phases has a row for each (`conv1.sums`); those beside its products have
    no operations, and the bytes of scratch that passes between them.
    """

    name: str
    symbol: str
    launches: int
    blocks: int
    threads: int
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    share: float
    operations: int
    bytes: int
    element: str


@dataclass(frozen=True)
class DeviceInfo:
    """What an artefact needs of a GPU.

    architecture: that its code is for ("sm_80"); newer ones compile it anew when they load it. driver: the
    oldest CUDA version whose driver can do that. workspace_bytes: of the device's memory for each workspace;
    the weights come once for all of a process. order: the kernels of a run's launches; "" is a copy.
    """

    architecture: str
    driver: str
    workspace_bytes: int
    kernels: tuple[DeviceKernel, ...]
    order: tuple[str, ...]

    def table(self) -> str:
        """What each kernel takes, a line each, the one with the most operations first."""
        heads = "launches", "blocks", "threads", "registers", "spilled", "stack", "shared", "share"
        rows = [
            (k.name[:44], k.launches, k.blocks, k.threads, k.registers, k.spill_bytes, k.stack_bytes,
             k.shared_bytes, f"{100 * k.share:.1f} %")
            for k in self.kernels
        ]  # fmt: skip
        table = (("on the GPU", *heads), *rows)
        lines = [f"{row[0]:44}" + "".join(f" {each!s:>9}" for each in row[1:]) for row in table]
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class ArtifactInfo:
    """Everything that `<name>_info` returns.

    workspace_bytes: with one thread; every further one takes `thread_bytes` more. device: where kernels run
    on a GPU.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    target: str
    triple: str
    features: tuple[str, ...]
    threads: int
    workspace_bytes: int
    thread_bytes: int
    weights_bytes: int
    weights_file: str | None
    state: dict[str, str]
    versions: dict[str, str]
    hashes: dict[str, str]
    device: DeviceInfo | None = None

    @property
    def is_bare(self) -> bool:
        """Whether it is for a machine without an operating system."""
        return self.triple.partition("-")[2].startswith("none-")

    def to_json(self) -> str:
        """One line, keys sorted."""
        row = {**vars(self), "abi": ABI_VERSION, "inputs": _rows(self.inputs), "outputs": _rows(self.outputs)}
        row.pop("device")
        if self.device is not None:
            row["device"] = asdict(self.device)
        return json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ArtifactInfo:
        """The inverse of `to_json`; ValueError or KeyError where it is something else."""
        row = json.loads(text)
        if row.pop("abi") != ABI_VERSION:
            raise ValueError("another ABI version")
        for side in ("inputs", "outputs"):
            row[side] = tuple(_tensor(tensor) for tensor in row[side])
            if len({tensor.name for tensor in row[side]}) < len(row[side]):
                raise ValueError(f"two {side} have one name")
        row["features"] = tuple(row["features"])
        if "device" in row:
            kernels = tuple(DeviceKernel(**kernel) for kernel in row["device"].pop("kernels"))
            order = tuple(row["device"].pop("order"))
            row["device"] = DeviceInfo(kernels=kernels, order=order, **row["device"])
        return ArtifactInfo(**row)


def _rows(tensors: tuple[TensorInfo, ...]) -> list[dict[str, object]]:
    return [{key: value for key, value in vars(t).items() if value is not None} for t in tensors]


def _tensor(row: dict[str, Any]) -> TensorInfo:
    symbolic = row.get("symbolic")
    row = {**row, "shape": tuple(row["shape"]), "symbolic": None if symbolic is None else tuple(symbolic)}
    return TensorInfo(**row)


def read_info(text: bytes, path: Path) -> ArtifactInfo:
    """What an artefact says of itself; ArtifactError `artefact-version` where this rtcc cannot read it."""
    try:
        return ArtifactInfo.from_json(text.decode("ascii"))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "artefact-version",
            f"cannot read the artefact's description: {error}",
            where=str(path),
            hint="load it with the rtcc version that made it",
        ) from error
