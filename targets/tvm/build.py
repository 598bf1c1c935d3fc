# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""TIR function in, ELF object out.

`build_object` compiles one PrimFunc into an object file that holds one plain C function

    int32_t SYMBOL(int32_t task, int32_t tasks, const void *in0, …, void *out0, …[, void *scratch], int32_t
    *code)

whose parameters are the PrimFunc's own, in order: a buffer parameter becomes a pointer to its elements. The
kernel always returns 0 (TVM's LLVM back end knows no other); where it cannot go on it stores a negative code
in `*code`, which it leaves alone otherwise. It divides its outermost loop itself:
task t of n does iterations extent·t/n to extent·(t+1)/n. The object needs nothing from outside but libm.

What a generator must respect:
- Buffers are promised element alignment only: declare them with `data_alignment` (TVMScript: `align`) equal
  to the element's size.
- Buffers do not overlap, unless the function carries `"tirx.noalias": False`.
- An internal buffer of at most `STACK_BYTES` with "local" scope lives in registers or on the stack; anything
  larger is a parameter (scratch), planned into the workspace by the compiler.
- Denormals are flushed by the runtime around the run, not here.

The object is a function of the PrimFunc and the target alone: equal input gives equal bytes in every process.
The symbol is `KERNEL_SYMBOL`: kernels are cached by content, and emission gives each its node's name.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.target.codegen import llvm_lookup_intrinsic_id

from rtcc.artifact.elf import Elf
from rtcc.errors import CodegenError

_LIBM_NAMES = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor
    fma fmax fmin fmod hypot ldexp lgamma log log10 log1p log2 nearbyint nextafter pow remainder rint round
    sin sinh sqrt tan tanh tgamma trunc
"""

KERNEL_SYMBOL = "rtcc_kernel"
"""The function that every kernel's object defines."""

LIBM = frozenset(name + suffix for name in _LIBM_NAMES.split() for suffix in ("", "f"))
"""The functions of libm that an object may leave undefined."""

BLOCK_MOVES = frozenset({"memcpy", "memmove", "memset", "bcmp"})
"""What LLVM makes of copying and zeroing loops; every C library has them, a bare-metal one too."""

RUN_TIME = re.compile(r"__aeabi_\w+|__gnu_(h2f|f2h)_ieee")
"""Functions that every compiler for 32-bit ARM brings: arithmetic that the CPU has not (Run-time ABI for the
Arm Architecture). They take floats in integer registers even where there is a float unit."""

_HALF_CONVERSIONS = frozenset({"__truncsfhf2", "__extendhfsf2"})
# TVM defines both weakly in every object, in a section of their own that the linker drops where unused.

_PREFETCH = int(llvm_lookup_intrinsic_id("llvm.prefetch.p0"))

STACK_BYTES = 4096
"""The largest internal buffer. TVM's own limit is 1 KiB; 28 accumulators of 16 floats need 1,792 bytes."""


def target_of(
    mcpu: str, features: tuple[str, ...] = (), triple: str = "x86_64-linux-gnu"
) -> tvm.target.Target:
    """The LLVM target for a CPU by LLVM's name ("cascadelake"), plus attributes such as "+avx512vnni"."""
    config: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu}
    if "none-eabi" in triple:
        # In GNU's environment LLVM calls the ABI's functions, and knows that those take floats in integer
        # registers; where others take them it does not see from the triple.
        config["mtriple"] = triple.replace("none-eabi", "unknown-none-gnueabi")
        config["mfloat-abi"] = "hard" if triple.endswith("hf") else "soft"
    if features:
        config["mattr"] = list(features)
    return tvm.target.Target(config)


def tir_text(func: tirx.PrimFunc) -> str:
    """The function as TVM prints it, for dumps and for hashing."""
    return func.script(show_meta=False)


def build_object(
    func: tirx.PrimFunc, target: str | dict | tvm.target.Target, *, asks_ahead: bool = True
) -> bytes:
    """Compile one function to an ELF object whose only global symbol is `KERNEL_SYMBOL`.

    asks_ahead: whether prefetches stay; they also keep addresses in registers.
    Raises `CodegenError` where the object would need more than libm (typically an internal buffer above
    `STACK_BYTES`, a packed call or a runtime assertion), or where an array has 2^31 elements or more.
    """
    target = tvm.target.Target(target) if not isinstance(target, tvm.target.Target) else target
    target = target.with_host(target)
    _require_element_alignment(func)
    require_short_indices(func)
    named: Any = func.with_attr("global_symbol", KERNEL_SYMBOL)
    if "tirx.noalias" not in func.attrs:
        named = named.with_attr("tirx.noalias", True)
    with tvm.transform.PassContext(opt_level=3):
        module = tirx.transform.BindTarget(target)(tvm.IRModule({KERNEL_SYMBOL: named}))
        module = s_tir.pipeline.finalize_host_passes()(_kept_on_stack(asks_ahead)(_lower(module)))
        built = tvm.get_global_func("target.build." + target.kind.name)(module, target)
    return _checked(_object_bytes(built))


def _object_bytes(built: tvm.runtime.Module) -> bytes:
    handle, path = tempfile.mkstemp(suffix=".o")
    os.close(handle)
    try:
        built.write_to_file(path, "o")
        with open(path, "rb") as file:
            return file.read()
    finally:
        os.unlink(path)


def _checked(data: bytes) -> bytes:
    symbols = [symbol for symbol in Elf(data, "object of a kernel").symbols if symbol.name]
    needed = {s.name for s in symbols if not s.is_defined} - LIBM - BLOCK_MOVES
    foreign = sorted(name for name in needed if not RUN_TIME.fullmatch(name))
    foreign += [symbol.name for symbol in symbols if symbol.name.startswith("__TVM")]
    if foreign:
        raise CodegenError(
            "undefined-symbols",
            f"the kernel needs {', '.join(foreign)}, expected nothing but libm",
            hint=f"an internal buffer is local and within {STACK_BYTES} bytes; a larger one is scratch",
        )
    defined = {symbol.name for symbol in symbols if symbol.is_global and symbol.is_defined}
    assert defined - _HALF_CONVERSIONS == {KERNEL_SYMBOL}, f"unexpected global symbols {sorted(defined)}"
    return data


def _element_bytes(buffer: tirx.Buffer) -> int:
    element = tvm.DataType(str(buffer.ty.dtype))
    return max(1, element.lanes * element.bits // 8)


def require_short_indices(func: tirx.PrimFunc) -> None:
    """Indices are int32: an array of 2^31 elements or more cannot be reached whole."""
    for param in filter(tirx.is_buffer_var, func.params):
        elements = math.prod(int(extent) for extent in param.ty.shape if isinstance(extent, tirx.IntImm))
        if elements >= 1 << 31:
            raise CodegenError(
                "array-too-large",
                f"array {param.name} of a kernel has {elements} elements, expected fewer than 2^31",
                hint="make the tensor smaller: a smaller batch or input size",
            )


def _require_element_alignment(func: tirx.PrimFunc) -> None:
    """Callers promise no more than element alignment; TVM's default promise of 64 bytes would fault."""
    for param in filter(tirx.is_buffer_var, func.params):
        promised = param.ty.data_alignment
        assert promised <= _element_bytes(param), f"buffer {param.name} promises {promised}-byte alignment"


@tirx.transform.prim_func_pass(opt_level=0, name="rtcc.PlainCFunction")
def _plain_c_function(func: tirx.PrimFunc, module: tvm.IRModule, context: object) -> tirx.PrimFunc:
    """f(task, tasks, buffers…)  →  int32 f(task, tasks, pointers…) { …; return 0; }"""
    params, declarations = pointers_of(func.params)
    # Both attributes wrap the body only: around the return they would drop what follows it.
    body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_type", tirx.IntImm("int32", 1), func.body)
    body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_id", tirx.IntImm("int32", 0), body)
    body = tirx.SeqStmt([*declarations, body, tirx.Return(tirx.IntImm("int32", 0))])
    plain: Any = tirx.PrimFunc(params, body, PrimType("int32"), func.attrs, func.span)
    return plain.without_attr("tirx.is_entry_func")


def pointers_of(params: Iterable[Any]) -> tuple[list[Any], list[tirx.Stmt]]:
    """A function's parameters with pointers for buffers, and statements that declare the buffers there."""
    plain, declarations = [], []
    for param in params:
        if not tirx.is_buffer_var(param):
            plain.append(param)
            continue
        pointer = tirx.Var(param.name, PointerType(PrimType(str(param.ty.dtype)), param.ty.storage_scope))
        plain.append(pointer)
        declarations.append(tirx.DeclBuffer(param, data=pointer))
    return plain, declarations


def _kept_on_stack(asks_ahead: bool) -> Any:
    """Tells TVM to leave small local buffers to LLVM, which turns them into registers or stack slots.

    Without asking ahead prefetches go.
    """

    @tirx.transform.prim_func_pass(opt_level=0, name="rtcc.KeepOnStack")
    def keep_on_stack(func: tirx.PrimFunc, module: tvm.IRModule, context: object) -> tirx.PrimFunc:
        return func.with_body(_rewritten(func.body, asks_ahead))

    return keep_on_stack


def _rewritten(stmt: tirx.Stmt, asks_ahead: bool) -> tirx.Stmt:
    match stmt:
        case tirx.AllocBuffer() if (
            stmt.buffer.ty.storage_scope == "local" and bytes_of(stmt.buffer) <= STACK_BYTES
        ):
            return tirx.AllocBuffer(stmt.buffer, {"disable_lower_builtin": tirx.IntImm("bool", 1)})
        case tirx.SeqStmt():
            return tirx.SeqStmt([_rewritten(part, asks_ahead) for part in stmt.seq])
        case tirx.AttrStmt():
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, _rewritten(stmt.body, asks_ahead))
        case tirx.For():
            body = _rewritten(stmt.body, asks_ahead)
            if body.same_as(stmt.body):
                return stmt
            return tirx.For(
                stmt.loop_var,
                stmt.min,
                stmt.extent,
                stmt.kind,
                body,
                stmt.thread_binding,
                stmt.annotations,
                stmt.step,
            )
        case tirx.Evaluate() if not asks_ahead and _is_prefetch(stmt.value):
            return tirx.Evaluate(tirx.IntImm("int32", 0))
        case tirx.IfThenElse():
            otherwise = stmt.else_case and _rewritten(stmt.else_case, asks_ahead)
            return tirx.IfThenElse(stmt.condition, _rewritten(stmt.then_case, asks_ahead), otherwise)
    return stmt


def _is_prefetch(value: tvm.ir.Expr) -> bool:
    return (
        isinstance(value, tvm.ir.Call)
        and str(value.op.name) == "tirx.call_llvm_intrin"
        and int(value.args[0]) == _PREFETCH
    )


def bytes_of(buffer: tirx.Buffer) -> int:
    """What a buffer of known extents holds."""
    return math.prod(int(extent) for extent in buffer.ty.shape) * _element_bytes(buffer)


def _lower(module: tvm.IRModule) -> tvm.IRModule:
    """TVM's default CPU pipeline with a plain C entry in place of its packed one.

    Without its passes for blocks, which no kernel has: they would look for the ranges of every local buffer.
    """
    tir, structured = tirx.transform, s_tir.transform
    passes = [
        structured.CanonicalizeLoop(),
        structured.StmtSimplify(),
        structured.AnnotateIrregularLoop(),
        structured.LowerOpaqueBlock(),
        tir.FlattenBuffer(),
        tir.BF16ComputeLegalize(),
        tir.NarrowDataType(32),
        structured.LoopPartition(),
        tir.VectorizeLoop(True),
        tir.StorageRewrite(),
        structured.HoistIfThenElse(),
        tir.UnrollLoop(),
        structured.RenormalizeSplitPattern(),
        tir.StmtSimplify(),
        tir.RemoveNoOp(),
        structured.RewriteUnsafeSelect(),
        tir.CommonSubexprElim(),
        tir.FP8ComputeLegalize(),
        tir.VerifyMemory(),
        tir.AnnotateEntryFunc(),
        tir.SplitHostDevice(),
        _plain_c_function,
        tir.FP8StorageLegalize(),
        tir.BF16StorageLegalize(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)
