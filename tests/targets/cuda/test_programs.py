# pyright: basic
"""C programs that run a model over the stand-in driver, under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rtcc.emission.toolchain import find_toolchain
from rtcc.system.machine import Machine
from tests.targets.cuda.hosted import Hosted, driver_in, hosted

TAKEN = """graph @main(%x: f32[6,4], %i: i64[5]) {
  %y = tensor.gather(%x, %i) {axis = 0} : f32[5,4]
  %z = math.exp(%y) : f32[5,4]
  return(%z)
}"""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    return hosted(TAKEN, tmp_path_factory.mktemp("taken"))


PROGRAM = r"""
#include "model.h"
#include "model.h" /* once is enough */
#include <stdio.h>
#include <string.h>

long fake_count(const char *what);
int fake_use_kernels(const char *path);
void fake_fail(const char *name, int result, int countdown);

static _Alignas(64) unsigned char first[MODEL_WORKSPACE_BYTES(1)], second[MODEL_WORKSPACE_BYTES(1)];

int main(int count, char **arguments)
{
    float x[6][4], z[5][4];
    int64_t i[5] = {0, 5, -1, 3, 2};
    const void *inputs[] = {x, i};
    void *outputs[] = {z};
    if (count != 2 || fake_use_kernels(arguments[1]) != 0)
        return 1;
    for (int n = 0; n < 24; n++)
        x[n / 4][n % 4] = 0;
    fake_fail("cuGraphInstantiateWithFlags", 999, 1);
    if (model_init(first, sizeof first, 1) != RTCC_DEVICE_FAILED || model_driver_result() != 999)
        return 2;
    fake_fail("", 0, 0);
    if (model_init(first, sizeof first, 1) != 0 || model_init(second, sizeof second, 1) != 0)
        return 3;
    if (model_init(first, sizeof first, 1) != RTCC_ALREADY_INITIALISED)
        return 4;
    if (model_run(first, inputs, outputs) != 0 || model_run(second, inputs, outputs) != 0 || z[4][3] != 1)
        return 5;
    i[2] = 6;
    if (model_run(first, inputs, outputs) != RTCC_INDEX_OUT_OF_RANGE)
        return 6;
    if (model_run_async(first, inputs, outputs, NULL) != RTCC_NOT_DEVICE_MEMORY)
        return 7;
    model_finish(first, 0);
    if (model_run(first, inputs, outputs) != RTCC_NOT_INITIALISED)
        return 8;
    if (model_run(second, inputs, outputs) != RTCC_INDEX_OUT_OF_RANGE)
        return 9;
    model_finish(second, 1);
    printf("%ld %ld %ld\n", fake_count("used"), fake_count("modules"), fake_count("retained"));
    return 0;
}
"""


def built(program: str, found: Hosted, folder: Path, *flags: str) -> Path:
    """A program of the model and the stand-in driver, all of them built with some flags."""
    driver = driver_in(folder / "driver", *flags)
    source = found.source
    (folder / "model.c").write_text(source.code)
    (folder / "model.h").write_text(source.header)
    (folder / "main.c").write_text(program)
    for name, contents in source.objects.items():
        (folder / name).write_bytes(contents)
    toolchain = find_toolchain(Machine.host())
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-g", *flags]
    libraries = [str(driver), f"-Wl,-rpath,{driver.parent}", "-ldl", "-lm", "-pthread"]
    files = ["main.c", "model.c", *source.objects, *libraries, "-o", "program"]
    toolchain.run([*toolchain.compile, *strict, *files], folder)
    return folder / "program"


def printed_by(program: Path, found: Hosted) -> str:
    done = subprocess.run([program, str(found.kernels)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.parametrize(
    "flags", [("-DOLD_DRIVER",), ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")]
)
def test_a_c_program(flags: tuple[str, ...], taken: Hosted, tmp_path: Path) -> None:
    """With sanitizers, leaks of the host's memory are found as well. CUDA 11 has no cuCtxGetId."""
    assert printed_by(built(PROGRAM, taken, tmp_path, *flags), taken) == "0 0 0\n"
    toolchain = find_toolchain(Machine.host())
    toolchain.run([*toolchain.compile, "-x", "c++", "-Wall", "-Werror", "-fsyntax-only", "model.h"], tmp_path)


THREADS = r"""
#include "model.h"
#include <pthread.h>
#include <stdio.h>

long fake_count(const char *what);
int fake_use_kernels(const char *path);

static _Alignas(64) unsigned char workspaces[4][MODEL_WORKSPACE_BYTES(1)];

static void *serve(void *workspace)
{
    float x[6][4] = {{0}}, z[5][4] = {{0}};
    int64_t i[5] = {0, 5, -1, 3, 2};
    const void *inputs[] = {x, i};
    void *outputs[] = {z};
    for (int n = 0; n < 5; n++) {
        if (model_init(workspace, sizeof workspaces[0], 1) != 0 ||
            model_run(workspace, inputs, outputs) != 0 || z[4][3] != 1 || model_driver_result() != 0)
            return workspace;
        model_finish(workspace, n % 2);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t threads[4];
    int failed = count != 2 || fake_use_kernels(arguments[1]) != 0;
    for (int n = 0; n < 4; n++)
        pthread_create(&threads[n], NULL, serve, workspaces[n]);
    for (int n = 0; n < 4; n++) {
        void *result;
        pthread_join(threads[n], &result);
        failed |= result != NULL;
    }
    printf("%d %ld %ld\n", failed, fake_count("modules"), fake_count("retained"));
    return 0;
}
"""


def test_threads_share_nothing_unordered(taken: Hosted, tmp_path: Path) -> None:
    """ThreadSanitizer sees no race where threads begin, run and finish workspaces of their own."""
    flags = ("-fsanitize=thread", "-fno-sanitize-recover=all")
    assert printed_by(built(THREADS, taken, tmp_path, *flags), taken) == "0 0 0\n"
