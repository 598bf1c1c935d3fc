"""The C header of an artefact: plain C11, readable from C++."""

from __future__ import annotations

import re

from rtcc.artifact.codes import enum_text
from rtcc.artifact.info import ArtifactInfo, TensorInfo
from rtcc.emission.walk import comment_text

TABLE = """\
#ifndef RTCC_ARTIFACT_V1
#define RTCC_ARTIFACT_V1 1
/* What a program that opens artefacts at run time finds under the symbol rtcc_artifact_v1. */
struct rtcc_artifact {
    size_t size; /* of this table; a longer one has more entries at its end */
    int threads_max;
    size_t (*workspace_bytes)(int threads);
    int (*init)(void *workspace, size_t bytes, int threads);
    int (*run)(void *workspace, const void *const inputs[], void *const outputs[]);
    int (*output_shape)(const void *workspace, int output, int64_t shape[]);
    void (*finish)(void *workspace, int wipe);
    const char *(*info)(void);
    const char *(*error)(int code);
};
#endif
"""

SOURCE_ALIGNMENT, SOURCE_HEAD_BYTES = 8, 64
"""Of the workspace of a C file: C99 has no word to ask for more; and what it takes besides the arena."""

_FUNCTIONS = """\
/* Prepare a workspace for runs with `threads` threads (1 to @UPPER@_THREADS_MAX) and start them; once,
 * before the first run. `workspace` is memory of the caller's, aligned to @ALIGNMENT@ bytes, of at least
 * @UPPER@_WORKSPACE_BYTES(threads) `bytes`; it must not move while in use. State starts at zero. May make
 * system calls. Different workspaces are independent. */
int @NAME@_init(void *workspace, size_t bytes, int threads);

/* Run the model once: reads every input, writes every output. Each pointer needs the alignment of its
 * elements. Allocates nothing, takes no lock and, with one thread, makes no system call. One workspace
 * serves one caller at a time. @MODE@ Outputs overlap nothing@STATE@. */
int @NAME@_run(void *workspace, const void *const inputs[], void *const outputs[]);

/* The shape of an output, as many numbers as it has dimensions; of the last run, where it depends on the
 * data. */
int @NAME@_output_shape(const void *workspace, int output, int64_t shape[]);

/* Stop the workspace's threads; with `wipe`, overwrite it with zeros. Does nothing to memory that is no
 * live workspace. Not while a run is under way in it. */
void @NAME@_finish(void *workspace, int wipe);

/* The model's description as JSON: inputs, outputs, target, CPU features, versions, hashes. */
const char *@NAME@_info(void);

/* What a code means, in words. */
const char *@NAME@_error(int code);
"""


def identifier(text: str) -> str:
    """A C identifier made of a file's stem: letters and digits kept, a digit never first."""
    cleaned = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    if not cleaned:
        return "model"
    return f"model_{cleaned}" if cleaned[0].isdigit() else cleaned


_FLUSHED = """\
Denormal numbers count as zero; the caller's floating-point mode is back
 * when it returns."""
_AS_IT_IS = "Denormal numbers are what the machine takes them for."


def header_text(info: ArtifactInfo, *, is_source: bool = False, is_library: bool = True) -> str:
    """The whole header of one artefact. is_source: of portable C. is_library: that is compiled already; else
    it is compiled with the program."""
    upper = info.name.upper()
    aligned = "_Alignas(64) unsigned char"
    workspace = f"static {aligned} workspace[{upper}_WORKSPACE_BYTES(1)];"
    if is_source:
        workspace = f"static uint64_t workspace[{upper}_WORKSPACE_BYTES(1) / 8];"
    lines = [
        f"/* {info.name}: a neural network compiled by rtcc for {comment_text(info.target)}.",
        " *",
        f" *     {workspace}",
        f" *     {info.name}_init(workspace, sizeof workspace, 1);",
        f" *     {info.name}_run(workspace, inputs, outputs);",
        " *",
        " * Functions that return int return 0 or one of the negative codes below, and never abort. */",
        f"#ifndef RTCC_MODEL_{upper}_H",
        f"#define RTCC_MODEL_{upper}_H 1",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        enum_text(),
        *([TABLE] if is_library else []),
        f"#define {upper}_THREADS_MAX {info.threads}",
        f"#define {upper}_WORKSPACE_BYTES(threads) "
        f"((size_t){info.workspace_bytes}u + {info.thread_bytes}u * (size_t)((threads) - 1))",
        "",
        *_tensor_lines(upper, "INPUT", info.inputs),
        *_tensor_lines(upper, "OUTPUT", info.outputs),
        _FUNCTIONS.replace("@NAME@", info.name)
        .replace("@UPPER@", upper)
        .replace("@ALIGNMENT@", str(SOURCE_ALIGNMENT if is_source else 64))
        .replace("@MODE@", _AS_IT_IS if is_source else _FLUSHED)
        .replace("@STATE@", _state_text(info)),
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


_DEVICE = """\
#ifdef __cplusplus
extern "C" {
#endif
/* The model runs on an NVIDIA GPU: that of the CUDA context which is current when @NAME@_init is called, the
 * first one where none is. Each workspace takes @UPPER@_DEVICE_BYTES of its memory, and all of a process
 * together @UPPER@_DEVICE_WEIGHT_BYTES. `run` copies inputs there and outputs back. @NAME@_finish
 * with `wipe` overwrites what the workspace has there, too, but not the weights. */

/* As @NAME@_init with one thread, on the GPU of this number, which the driver counts from 0, in its primary
 * context. */
int @NAME@_init_on_device(void *workspace, size_t bytes, int device);

/* The number of the GPU that a workspace is on, or one of the codes. */
int @NAME@_device(const void *workspace);

/* Run once on tensors in the device's memory, in order with what else is in `stream` (a CUstream, NULL for
 * the default one), and return before that has ended. The next run of the workspace, of either kind and in
 * whatever stream, begins when it has ended, and @NAME@_finish waits for it. `stream` must not be captured.
 * What `run` checks of pointers is checked of these. */
int @NAME@_run_async(void *workspace, const void *const inputs[], void *const outputs[], void *stream);

/* Let the next run of the workspace, in whatever stream, begin when what is in `stream` now has ended. */
int @NAME@_run_after(void *workspace, void *stream);

/* Once the stream has ended what run_async put there: what `run` would have returned, for data that the model
 * cannot take. */
int @NAME@_async_result(const void *workspace);

/* Run once, as `run` does, then launch each kernel by itself, many times in a row: how long one launch takes,
 * in microseconds, @UPPER@_LAUNCHES numbers in the order of the JSON's device.order. Kernels that write over
 * what they read compute on their own results meanwhile, which takes the same time. */
int @NAME@_profile(void *workspace, const void *const inputs[], void *const outputs[], float microseconds[]);

/* The CUresult with which the driver last refused a call of this model's; 0 where it refused none. */
int @NAME@_driver_result(void);
#ifdef __cplusplus
}
#endif
"""


def device_text(info: ArtifactInfo) -> str:
    """What the header has besides, of a model whose kernels run on a GPU."""
    assert info.device is not None
    upper = info.name.upper()
    lines = [
        f"#ifndef RTCC_DEVICE_{upper}_H",
        f"#define RTCC_DEVICE_{upper}_H 1",
        f"#define {upper}_DEVICE_BYTES UINT64_C({info.device.workspace_bytes})",
        f"#define {upper}_DEVICE_WEIGHT_BYTES UINT64_C({info.weights_bytes})",
        f"#define {upper}_LAUNCHES {len(info.device.order)}",
        _DEVICE.replace("@NAME@", info.name).replace("@UPPER@", upper) + "#endif",
        "",
    ]
    return "\n".join(lines)


def _state_text(info: ArtifactInfo) -> str:
    """What an output may lie over, for the comment on run."""
    if not info.state:
        return ", else run returns RTCC_BUFFERS_OVERLAP"
    pairs = [
        f"\n *   {comment_text(f'output {result}: input {source}')}" for source, result in info.state.items()
    ]
    return "".join([", save that one buffer may hold the whole of both:", *pairs])


def _tensor_lines(upper: str, kind: str, tensors: tuple[TensorInfo, ...]) -> list[str]:
    lines = [f"#define {upper}_{kind}S {len(tensors)}"]
    taken: set[str] = set()
    for index, tensor in enumerate(tensors):
        macro = f"{upper}_{kind}_{identifier(tensor.name).upper()}"
        while macro in taken or f"{macro}_BYTES" in taken:
            macro += f"_{index}"
        taken |= {macro, f"{macro}_BYTES", f"{macro}_RANK"}
        shape = ",".join(tensor.symbolic or map(str, tensor.shape))
        lines.append(
            f"#define {macro} {index} /* {comment_text(f'{tensor.name}: {tensor.dtype}[{shape}]')} */"
        )
        lines.append(f"#define {macro}_BYTES {tensor.bytes}u")
        lines.append(f"#define {macro}_RANK {len(tensor.shape)}")
    return [*lines, ""]
