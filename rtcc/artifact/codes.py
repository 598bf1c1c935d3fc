"""The codes an artefact's functions return: one table, from which the header's enum, the text function,
the documentation and Python's errors are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What an artefact may have besides the model, with codes of its own."""

    THREADS = "threads"
    WEIGHTS_FILE = "weights file"
    DEVICE = "device"


@dataclass(frozen=True)
class Code:
    """One code: its number (0 or negative), its C name without ``RTCC_``, and what it means.

    part: which artefacts return it; None: all.
    """

    value: int
    name: str
    text: str
    part: Part | None = None

    @property
    def kebab(self) -> str:
        """The name as ``RtccError.code`` spells it."""
        return self.name.lower().replace("_", "-")


# Numbers are part of the ABI: never renumber, only append.
CODES: tuple[Code, ...] = (
    Code(0, "OK", "success"),
    Code(-1, "NULL_POINTER", "a pointer argument, or an entry of inputs or outputs, is null"),
    Code(-2, "WORKSPACE_MISALIGNED", "the workspace is not aligned to 64 bytes, or 8 for a C file"),
    Code(-3, "WORKSPACE_TOO_SMALL", "the workspace has fewer bytes than <NAME>_WORKSPACE_BYTES(threads)"),
    Code(-4, "THREADS_OUT_OF_RANGE", "threads is below 1 or above <NAME>_THREADS_MAX"),
    Code(
        -5,
        "CPU_UNSUPPORTED",
        "this CPU or its kernel lacks an instruction set that the model was compiled for",
    ),
    Code(-6, "THREAD_REFUSED", "the system refused to start a thread", Part.THREADS),
    Code(
        -7, "NOT_INITIALISED", "the workspace is not initialised for this model, was finished, or was moved"
    ),
    Code(-8, "ALREADY_INITIALISED", "the workspace still has running threads: call finish first"),
    Code(-9, "BUSY", "another run is under way in this workspace"),
    Code(-10, "BUFFER_MISALIGNED", "an input or output is not aligned to the size of its elements"),
    Code(-11, "NO_SUCH_OUTPUT", "the output index is out of range"),
    Code(-12, "NOT_RUN", "this shape depends on the data and no run has succeeded yet"),
    Code(
        -13,
        "FORKED",
        "the process forked: the workspace's threads are in the parent; finish and init again here",
    ),
    Code(-14, "WEIGHTS_MISSING", "the weights file beside the artefact cannot be opened", Part.WEIGHTS_FILE),
    Code(
        -15,
        "WEIGHTS_WRONG_SIZE",
        "the weights file is not of the size that the model was compiled with",
        Part.WEIGHTS_FILE,
    ),
    Code(
        -16,
        "WEIGHTS_WRONG_CONTENT",
        "the weights file does not hold the bytes that the model was compiled with",
        Part.WEIGHTS_FILE,
    ),
    Code(-17, "WEIGHTS_NOT_MAPPED", "the system refused to map the weights file", Part.WEIGHTS_FILE),
    Code(
        -18,
        "BUFFERS_OVERLAP",
        "an output shares bytes with another, or with an input that it was not declared to update",
    ),
    Code(-32, "INDEX_OUT_OF_RANGE", "an index in the data is outside the tensor it points into"),
    Code(-33, "SIZE_OUT_OF_RANGE", "a size that depends on the data is outside its declared bounds"),
    Code(-48, "DEVICE_MISSING", "no usable device or driver was found", Part.DEVICE),
    Code(-49, "DEVICE_MEMORY", "the device has too little free memory", Part.DEVICE),
    Code(-50, "DEVICE_FAILED", "the device reported an error", Part.DEVICE),
    Code(
        -51,
        "IMAGE_DAMAGED",
        "the device's image is none, is cut short, or does not fit its checksum",
        Part.DEVICE,
    ),
    Code(
        -52,
        "IMAGE_OTHER",
        "the device's image is of another model, or of another compilation of it",
        Part.DEVICE,
    ),
    Code(
        -53,
        "CORE_OTHER",
        "the accelerator is of another configuration than the image: "
        "compile the model for it (--target fpga,n=8 and so on)",
        Part.DEVICE,
    ),
    Code(
        -54,
        "DEVICE_BUSY",
        "another run is under way on the device, which serves one at a time",
        Part.DEVICE,
    ),
    Code(
        -55,
        "DEVICE_TIMEOUT",
        "the device was still busy after many times the cycles its program takes; it was told to stop",
        Part.DEVICE,
    ),
    Code(
        -56,
        "DEVICE_OTHER",
        "the device cannot run code for the architecture that was compiled for",
        Part.DEVICE,
    ),
    Code(
        -57,
        "DRIVER_TOO_OLD",
        "the device's driver is older than the code of the model's kernels",
        Part.DEVICE,
    ),
    Code(
        -58,
        "NOT_DEVICE_MEMORY",
        "a pointer that should be to the device's memory is to none of it",
        Part.DEVICE,
    ),
    Code(-59, "NO_SUCH_DEVICE", "there is no device of this number", Part.DEVICE),
    Code(
        -60,
        "OTHER_DEVICE_MEMORY",
        "a pointer is to the memory of another device than the workspace's",
        Part.DEVICE,
    ),
)

BY_VALUE: dict[int, Code] = {code.value: code for code in CODES}
BY_NAME: dict[str, int] = {code.name: code.value for code in CODES}

INDEX_OUT_OF_RANGE = BY_NAME["INDEX_OUT_OF_RANGE"]
"""What a kernel returns for an index in the data that it must not follow."""

SIZE_OUT_OF_RANGE = BY_NAME["SIZE_OUT_OF_RANGE"]
"""What a kernel returns for a data-dependent size beyond its bound."""


def enum_text() -> str:
    """The C enum of all codes, guarded so that several models' headers can be included together."""
    lines = ["#ifndef RTCC_CODES", "#define RTCC_CODES 1", "enum rtcc_code {"]
    rows = [f"    RTCC_{code.name} = {code.value}" for code in CODES]
    width = max(len(row) for row in rows) + 1
    for position, (row, code) in enumerate(zip(rows, CODES, strict=True)):
        comma = "," if position + 1 < len(CODES) else ""
        lines.append(f"{row + comma:<{width}}  /* {code.text} */")
    return "\n".join([*lines, "};", "#endif", ""])


def function_text(*parts: Part) -> str:
    """The C function behind ``<name>_error`` of an artefact with such parts; every number has a text."""
    known = [code for code in CODES if code.part is None or code.part in parts]
    cases = [f'    case {code.value}: return "{code.text}";' for code in known]
    return "\n".join(
        [
            "static const char *rtcc_code_text(int code)",
            "{",
            "    switch (code) {",
            *cases,
            '    default: return "not a code of this artefact";',
            "    }",
            "}",
            "",
        ]
    )


def table_text() -> str:
    """The codes as a Markdown table, for the documentation."""
    rows = [f"| `RTCC_{code.name}` | {code.value} | {code.text} |" for code in CODES]
    return "\n".join(["| code | value | meaning |", "|---|---|---|", *rows, ""])
