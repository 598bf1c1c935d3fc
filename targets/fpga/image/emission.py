"""A planned module as a host library whose accelerated kernels go through the driver, and its image."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from rtcc.artifact.info import ArtifactInfo
from rtcc.emission.emit_c import ModelSource, emit_c
from rtcc.emission.header import identifier
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.errors import CodegenError, InvalidInput
from rtcc.ir import Graph, Module
from rtcc.system.files import replace_file
from rtcc.system.machine import Machine
from rtcc.target import WeightsName
from rtcc.targets.fpga.compiler.meaning_check import check_program
from rtcc.targets.fpga.compiler.region import Program, compile_region
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.image.form import image_of, read_header
from rtcc.targets.fpga.isa.table import IDENTITY, Register

SUFFIX = ".fpga"
"""Of the image, beside the library."""

PATIENCE = 16
"""How many times the predicted cycles the driver waits, each read of a register taken as one cycle."""

LEAST_POLLS = 1 << 16

_COMPILE = ("-std=c11", "-O2", "-fPIC", "-g0", "-ffile-prefix-map=.=")


@dataclass(frozen=True)
class FpgaSource:
    """The host's library and the accelerator's image."""

    host: ModelSource
    image: bytes

    @property
    def info(self) -> ArtifactInfo:
        """What the library says of itself."""
        return self.host.info

    def write(self, path: Path) -> Path:
        """Write PATH.so or PATH.a with its header, and the image PATH.fpga beside it."""
        written = self.host.write(path)
        replace_file(written.with_suffix(SUFFIX), self.image)
        return written


def emit(
    module: Module, name: str, objects: Mapping[str, bytes], accelerated: Mapping[str, Graph], core: Core,
    machine: Machine, threads: int, weights_name: WeightsName | None,
) -> FpgaSource:  # fmt: skip
    """objects: of the host's kernels. accelerated: the others.

    InvalidInput `nothing-accelerated` where there are none; CodegenError `accelerator-program` where a
    program does not pass its check.
    """
    if not accelerated:
        message = "no layer of the model runs on the accelerator"
        hint = (
            "--explain says why of each; a pipeline of your own has to name accelerate, as -O0 to -O2 do; "
            "--target x86 compiles for the host"
        )
        raise InvalidInput("nothing-accelerated", message, hint=hint)
    versions = {"apache-tvm": version("apache-tvm")}
    programs = [_checked_program(kernel, body, core) for kernel, body in accelerated.items()]
    stubs = _stubs(identifier(name), accelerated, programs, find_toolchain(machine))
    host = emit_c(
        module,
        name,
        machine,
        {**objects, **stubs},
        threads=threads,
        weights_name=weights_name,
        versions=versions,
        device=True,
    )
    image = image_of(programs)
    code = "\n".join(
        [host.code, _definitions(host.info.name, image, programs), _text("driver.c"), _attach(host.info.name)]
    )
    header = "\n".join([host.header, _text("driver.h"), _declaration(host.info.name)])
    return FpgaSource(replace(host, code=f"{_text('driver.h')}\n{code}", header=header), image)


def _checked_program(kernel: str, body: Graph, core: Core) -> Program:
    program = compile_region(body, core)
    findings = check_program(program)
    if findings:
        raise CodegenError(
            "accelerator-program",
            f"the accelerator's program for {kernel} fails its check, so nothing is written: {findings[0]}",
            where=kernel,
            hint="this is a defect of rtcc, please report it with the model; another core (fpga,n=8 or other "
            "buffer sizes) or a target without an accelerator compiles the model meanwhile",
        )
    return program


def _text(name: str) -> str:
    return files("rtcc.targets.fpga.image").joinpath(name).read_text(encoding="ascii")


def _definitions(name: str, image: bytes, programs: list[Program]) -> str:
    """What the driver's text leaves open: names, the model, the registers, how long to wait."""
    polls = [f"UINT64_C({_polls(program)})" for program in programs]
    registers = [f"#define RTCC_FPGA_{each.name} {each.value:#x}u" for each in Register]
    return "\n".join(
        [
            f"#define RTCC_FPGA_MODEL UINT64_C({read_header(image, name).model:#x})",
            f"#define RTCC_FPGA_RUN {_run_name(name)}",
            f"#define RTCC_FPGA_IDENTITY_VALUE {IDENTITY:#x}u",
            *registers,
            f"static const uint64_t rtcc_fpga_polls[] = {{{', '.join(polls)}}};",
            f"int32_t {_run_name(name)}(uint32_t index, const void *const inputs[], void *const outputs[]);",
            "",
        ]
    )


def _polls(program: Program) -> int:
    """Reads of STATUS after which the driver gives a program up: many times its predicted cycles."""
    return PATIENCE * sum(placed.chosen.cycles for placed in program.layers) + LEAST_POLLS


def _run_name(name: str) -> str:
    """What this model's kernels call, which no other model defines."""
    return f"rtcc_fpga_run_{name}"


_ATTACH = "int {name}_attach(const struct rtcc_fpga_port *port, const void *image, uint64_t bytes)"


_DETACH = "int {name}_detach(void)"


def _attach(name: str) -> str:
    """The functions that the library exports for its device."""
    bodies = {_ATTACH: "rtcc_fpga_attach(port, image, bytes)", _DETACH: "rtcc_fpga_detach()"}
    return "\n".join(
        f"RTCC_EXPORT {head.format(name=name)}\n{{\n    return {call};\n}}\n" for head, call in bodies.items()
    )


def _declaration(name: str) -> str:
    return "\n".join(
        [
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "/* Gives the model its accelerator: places the image (NAME.fpga, kept by the caller) in the",
            "   port's memory. Before the first run, by one thread; until then a run returns",
            "   RTCC_DEVICE_MISSING. */",
            f"{_ATTACH.format(name=name)};",
            "/* Takes the accelerator away again: the port and the image are used no more. Where a run is",
            "   under way it returns RTCC_DEVICE_BUSY and changes nothing. */",
            f"{_DETACH.format(name=name)};",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
        ]
    )


def _stubs(
    name: str, accelerated: Mapping[str, Graph], programs: list[Program], toolchain: Toolchain
) -> dict[str, bytes]:
    """An object file for each accelerated kernel, which hands its arguments to the driver."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        for index, (kernel, program) in enumerate(zip(accelerated, programs, strict=True)):
            text = _stub(_run_name(name), index, len(program.inputs), len(program.outputs))
            (Path(folder) / "stub.c").write_text(text, encoding="ascii")
            command = [*toolchain.compile, *_COMPILE, "-c", "stub.c", "-o", "stub.o"]
            toolchain.run(command, Path(folder))
            found[kernel] = (Path(folder) / "stub.o").read_bytes()
    return found


def _stub(run: str, index: int, inputs: int, outputs: int) -> str:
    reads, writes = [f"in{n}" for n in range(inputs)], [f"out{n}" for n in range(outputs)]
    parameters = [f"const void *{each}" for each in reads] + [f"void *{each}" for each in writes]
    return f"""#include <stdint.h>
extern __attribute__((visibility("hidden")))
int32_t {run}(uint32_t index, const void *const inputs[], void *const outputs[]);
int32_t rtcc_kernel(int32_t task, int32_t tasks, {", ".join(parameters)}, int32_t *code)
{{
    const void *const inputs[] = {{{", ".join(reads)}}};
    void *const outputs[] = {{{", ".join(writes)}}};
    (void)task, (void)tasks;
    *code = {run}({index}u, inputs, outputs);
    return 0;
}}
"""
