# pyright: basic
"""The table of ARM CPUs: what LLVM may use is what init checks, and which model a machine is."""

from __future__ import annotations

import platform

import pytest
from tvm.target.codegen import llvm_get_cpu_features

from rtcc.emission.features import requirements
from rtcc.errors import InvalidInput
from rtcc.ir import DType
from rtcc.target import parse_target
from rtcc.targets.arm.cpus import CPUS, host_cpu
from rtcc.targets.cpu.cost import cost_of
from rtcc.targets.tvm.build import target_of
from rtcc.targets.tvm.demand import Demand

NO_INSTRUCTIONS = frozenset(
    """
    a53 a72 a76 a78ae addr-lsl-slow-14 alu-lsl-fast balance-fp-ops cmp-bcc-fusion enable-select-opt
    disable-maximize-scalable-bandwidth fuse-adrp-add fuse-aes fuse-csel fuse-cset fuse-literals neoversen1
    neoversen2 predictable-select-expensive use-postra-scheduler use-wzr-to-vec-move
    v8a v8.1a v8.2a v8.3a v8.4a v8.5a v9a
    CONTEXTIDREL2 am ccdp ccidx ccpp el2vmsa el3 ete lor lse2 mpam nv pan pan-rwv perfmon ras sel2
    specrestrict spe tlb-rmi tracev8.4 trbe uaops vh
    """.split()
)
"""How code is scheduled, names of architectures, and what only systems have to do with."""

NEVER_CHOSEN = frozenset(
    "altnzcv bti dit flagm fpac fptoint jsconv mte pauth predres rcpc rcpc-immo sb ssbs".split()
)
"""Instructions that LLVM selects for atomic loads, intrinsics or attributes that no kernel has."""


@pytest.mark.parametrize("cpu", CPUS)
def test_what_llvm_may_use_is_what_init_checks(cpu: str) -> None:
    machine = parse_target(f"arm:{cpu}").machine
    signs = [*(f"+{each}" for each in machine.features), *(f"-{each}" for each in machine.absent)]
    enabled = {str(each) for each in llvm_get_cpu_features(target_of(cpu, tuple(signs), machine.triple))}
    assert set(machine.features) <= enabled
    assert enabled - set(machine.features) - NO_INSTRUCTIONS <= NEVER_CHOSEN
    assert requirements("aarch64", machine.features).words


def test_facts_are_of_the_core() -> None:
    for cpu in CPUS:
        target = parse_target(f"arm:{cpu}")
        assert (target.lanes(DType.F32), target.facts["vector registers"]) == (4, 32)
    demand = Demand(1e6, ())
    assert cost_of(demand, CPUS["cortex-a53"], 1).compute == 1e6 * 2 / 1.4e9
    assert cost_of(demand, CPUS["cortex-a76"], 1).compute == 1e6 / 2.4e9


PI5 = "asimd fp evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PI4 = "fp asimd evtstrm crc32 cpuid"


def cpuinfo(features: str, *parts: str) -> str:
    """What Linux tells of cores of these parts."""
    core = "processor : {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
    return "".join(core.format(number, features, part) for number, part in enumerate(parts))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (cpuinfo(PI5, "0xd0b", "0xd0b"), "cortex-a76"),
        (cpuinfo(PI4, "0xd08"), "cortex-a72"),
        (cpuinfo(PI5, "0xd05", "0xd0b"), "cortex-a76"),  # a big core beside small ones
        (cpuinfo(PI4, "0xd0b"), "generic"),  # a system that hides what the part has
        (cpuinfo(PI5, "0xfff"), "generic"),
    ],
)
def test_which_model_a_machine_is(text: str, name: str) -> None:
    assert host_cpu(text).name == name


def test_a_machine_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="lacks NEON"):
        host_cpu(cpuinfo("fp", "0xd03"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(InvalidInput, match="arm:cortex-a76") as raised:
        parse_target("arm")
    assert raised.value.code == "target-needs-cpu"
