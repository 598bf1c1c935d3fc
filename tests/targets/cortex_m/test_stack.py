"""The stack that functions take, read from machine code: single instructions, and compiled C."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rtcc.artifact.elf import Elf
from rtcc.emission.footprint import Footprint
from rtcc.emission.room import Room
from rtcc.emission.stack import CallGraph, Depth
from rtcc.emission.thumb import Flow, Instruction, expanded, instruction_at
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import RtccError
from rtcc.target import parse_target
from tests.targets.cortex_m.boards import require_boards


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("70b5", Instruction(2, takes=16)),  # push {r4-r6, lr}
        ("70bd", Instruction(2, Flow.LEAVE, takes=-16)),  # pop {r4-r6, pc}
        ("86b0", Instruction(2, takes=24)),  # sub sp, #24
        ("2de9f04f", Instruction(4, takes=36)),  # push.w {r4-r11, lr}
        ("2ded108b", Instruction(4, takes=64)),  # vpush {d8-d15}
        ("adf5807d", Instruction(4, takes=256)),  # sub.w sp, sp, #256
        ("adf20c4d", Instruction(4, takes=1036)),  # subw sp, sp, #1036
        ("4df8047d", Instruction(4, takes=4)),  # str r7, [sp, #-4]!
        ("5df804fb", Instruction(4, Flow.LEAVE, takes=-4)),  # ldr pc, [sp], #4
        ("adeb040d", Instruction(4, takes=None)),  # sub.w sp, sp, r4
        ("6ff30304", Instruction(4, cleared=(4, 4))),  # bfc r4, #0, #4
        ("a546", Instruction(2, pointer=4)),  # mov sp, r4
        ("7047", Instruction(2, Flow.LEAVE)),  # bx lr
        ("9847", Instruction(2, Flow.CALL_POINTER)),  # blx r3
        ("18bf", Instruction(2, guards=1)),  # it ne
        ("fee7", Instruction(2, Flow.BRANCH)),  # b .
        ("fdd1", Instruction(2, Flow.CHOICE, there=-2)),  # bne.n .-2
        ("fff7feff", Instruction(4, Flow.CALL)),  # bl .
        ("fff7febf", Instruction(4, Flow.BRANCH)),  # b.w .
        ("dfe803f0", Instruction(4, Flow.TABLE, row=1)),  # tbb [pc, r3]
        ("0846", Instruction(2)),  # mov r0, r1
    ],
)
def test_instructions(code: str, found: Instruction) -> None:
    words = struct.unpack(f"<{len(code) // 4}H", bytes.fromhex(code))
    assert instruction_at(words, 0) == found


def test_immediates_of_instructions() -> None:
    bytes_of = [expanded(each) for each in (0x0FF, 0x1AB, 0x2AB, 0x3AB)]
    assert bytes_of == [0xFF, 0xAB00AB, 0xAB00AB00, 0xABABABAB]
    assert expanded(0xF80) == 0x100


SOURCE = """
#define APART __attribute__((noinline))
APART static int inner(volatile char *at) { volatile char room[400]; room[3] = *at; return room[3]; }
APART int small(void) { volatile char room[40]; room[1] = 1; return room[1]; }
APART int large(void) { volatile char room[200]; room[1] = 1; return inner(room) + 1; }
int nested(int x) { volatile char room[100]; room[2] = 2; return x ? small() + room[2] : large() + room[2]; }
int chosen(int x) {
    switch (x) {
        case 0: return small() + 5; case 1: return 7; case 2: return large() + 3; case 3: return small() - 1;
        case 4: return small() * 3; case 5: return 11; case 6: return small() + x;
        default: return 0;
    }
}
int recursive(int x) { return x < 2 ? x : recursive(x - 1) + recursive(x - 2); }
int pointer(int (*f)(void)) { return f() + 1; }
int variable(int n) { volatile char room[n]; room[0] = 1; return room[0]; }
extern int missing(void);
int needing(void) { return missing() + 1; }
"""


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4"])
def test_the_longest_path_of_calls_counts(core: str, tmp_path: Path) -> None:
    require_boards()
    toolchain = find_toolchain(parse_target(f"cortex-m:{core}").machine)
    (tmp_path / "calls.c").write_text(SOURCE)
    toolchain.run([*toolchain.compile, "-std=gnu11", "-O2", "-c", "calls.c", "-o", "calls.o"], tmp_path)
    graph = CallGraph([Elf((tmp_path / "calls.o").read_bytes(), "calls.o")])
    depths = {name: graph.depth(name) for name in ("small", "large", "nested", "chosen")}
    assert not any(depth.unknown for depth in depths.values())
    assert 40 <= depths["small"].bytes < 60
    assert 600 <= depths["large"].bytes < 640
    assert 100 <= depths["nested"].bytes - depths["large"].bytes < 130
    assert 0 <= depths["chosen"].bytes - depths["large"].bytes < 20
    for name, why in (
        ("recursive", "recursive calls itself"),
        ("pointer", "pointer calls what it computes"),
        ("variable", "variable takes what it computes"),
        ("needing", "missing is in no library"),
    ):
        assert graph.depth(name).unknown == (why,)


def test_a_limit_of_memory_takes_a_stack_that_is_known() -> None:
    footprint = Footprint(0, 0, {}, {}, 64, Depth(100, ("f calls itself",)))
    assert "stack at least 100 (f calls itself)" in str(footprint)
    Room(flash=1000).require(footprint)
    with pytest.raises(RtccError, match="f calls itself") as refused:
        Room(ram=1000).require(footprint)
    assert refused.value.code == "stack-unknown"
