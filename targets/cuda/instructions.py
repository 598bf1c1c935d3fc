# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""What kernels ask of a GPU beyond TIR: asynchronous copies, matrices of a warp, shuffles, as CUDA functions.

Each is a function of CUDA C around the instruction of PTX that it is named after; `targets/cuda/simt` has
what each means. Fragments are local arrays, given by their first element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

Expr = Any


@dataclass(frozen=True)
class Instruction:
    """A device function; result: TVM's name of what it returns."""

    name: str
    parameters: str
    body: str
    result: str = "void"

    def __call__(self, *arguments: Expr | int) -> Expr:
        """The call as an expression."""
        given = [tirx.IntImm("int32", each) if isinstance(each, int) else each for each in arguments]
        return cuda_func_call(self.name, *given, source_code=self.source, return_type=self.result)

    @property
    def source(self) -> str:
        """The function's CUDA C."""
        kind = {"void": "void", "float32": "float", "int32": "int", "uint32": "unsigned"}[self.result]
        return f"\n__forceinline__ __device__ {kind} {self.name}({self.parameters}) {{\n  {self.body}\n}}\n"


_SHARED = "(unsigned)__cvta_generic_to_shared(shared)"


def _copy(size: int) -> Instruction:
    # .cg leaves the first cache out, which only whole 16 bytes can.
    cache = "cg" if size == 16 else "ca"
    return Instruction(
        f"rtcc_cp_async_{size}",
        "void* shared, const void* global, int bytes",
        f'asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;"'
        f' :: "r"({_SHARED}), "l"(global), "r"(bytes) : "memory");',
    )


COPIES = {size: _copy(size) for size in (4, 8, 16)}
"""By size: copy so many bytes from global to shared memory; `bytes` of them are read, the rest are zeros."""

COMMIT = Instruction("rtcc_cp_async_commit", "", 'asm volatile("cp.async.commit_group;" ::: "memory");')
"""The copies since the last one become a group."""


def wait(groups: int) -> Instruction:
    """Wait until at most so many groups of this thread's copies are still on their way."""
    body = f'asm volatile("cp.async.wait_group {groups};" ::: "memory");'
    return Instruction(f"rtcc_cp_async_wait_{groups}", "", body)


MOST_GROUPS = 7
"""Groups that `wait` may leave."""


def _ldmatrix(transposed: bool) -> Instruction:
    suffix, modifier = ("_trans", ".trans") if transposed else ("", "")
    return Instruction(
        f"rtcc_ldmatrix{suffix}",
        "unsigned* fragment, const void* shared",
        f'asm volatile("ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 {{%0, %1, %2, %3}}, [%4];"'
        ' : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])'
        f' : "r"({_SHARED}) : "memory");',
    )


LDMATRIX, LDMATRIX_TRANSPOSED = _ldmatrix(False), _ldmatrix(True)
"""Four 8x8 matrices of 16 bits; lanes 8i to 8i + 7 have the addresses of matrix i's rows of 16 bytes."""


def _mma(name: str, shape: str, types: str, total: str) -> Instruction:
    constraint = "f" if total == "float" else "r"
    sums = ", ".join(f'"+{constraint}"(sums[{n}])' for n in range(4))
    left = ", ".join(f'"r"(left[{n}])' for n in range(4))
    right = ", ".join(f'"r"(right[{n}])' for n in range(2))
    return Instruction(
        f"rtcc_mma_{name}",
        f"{total}* sums, const unsigned* left, const unsigned* right",
        f'asm volatile("mma.sync.aligned.{shape}.row.col.{types} {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, '
        f'{{%8, %9}}, {{%0, %1, %2, %3}};" : {sums} : {left}, {right});',
    )


MMA = {
    "float16": _mma("f16", "m16n8k16", "f32.f16.f16.f32", "float"),
    "bfloat16": _mma("bf16", "m16n8k16", "f32.bf16.bf16.f32", "float"),
    "tf32": _mma("tf32", "m16n8k8", "f32.tf32.tf32.f32", "float"),
    "int8": _mma("s8", "m16n8k32", "s32.s8.s8.s32", "int"),
    "uint8": _mma("u8s8", "m16n8k32", "s32.u8.s8.s32", "int"),
}
"""sums[16x8] += left[16xk] · right[kx8], by the element of the left matrix; uint8: times int8."""

def _pack(kind: str) -> Instruction:
    return Instruction(
        f"rtcc_pack_{kind}",
        "float lower, float upper",
        "unsigned pair;"
        f' asm("cvt.rn.{kind}x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower)); return pair;',
        "uint32",
    )


PACK = {"float16": _pack("f16"), "bfloat16": _pack("bf16")}
"""Two floats, each rounded to so many bits, as one register of a fragment."""

SHUFFLE_XOR = Instruction(
    "rtcc_shuffle_xor",
    "float value, int lanes",
    "return __shfl_xor_sync(0xffffffffu, value, lanes);",
    "float32",
)
"""The value of the lane whose number differs in the bits of `lanes`; all lanes of the warp take part."""

ALL: dict[str, Instruction] = {
    each.name: each
    for each in (
        *COPIES.values(), COMMIT, *map(wait, range(MOST_GROUPS + 1)), LDMATRIX, LDMATRIX_TRANSPOSED,
        *MMA.values(), *PACK.values(), SHUFFLE_XOR,
    )
}  # fmt: skip
"""All of them by name."""


def barrier() -> Expr:
    """All threads of the block wait for each other; what they wrote to shared memory is seen by all."""
    return tirx.call_intrin("void", "tirx.tvm_storage_sync", tvm.ir.StringImm("shared"))
