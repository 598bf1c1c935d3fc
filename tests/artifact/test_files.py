"""Artefact files: linking, determinism, external weights, and files that are something else."""

from __future__ import annotations

import errno
import gc
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rtcc.artifact import Artifact, library, load
from rtcc.artifact.elf import Elf
from rtcc.artifact.library import check_file
from rtcc.emission.emit_c import emit_c
from rtcc.emission.header import identifier
from rtcc.emission.link import write_artifact
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.emission.weights import SECTION_NAME
from rtcc.errors import ArtifactError, CodegenError, InvalidInput, RtccError, ToolMissing, Unsupported
from rtcc.system.machine import Machine
from rtcc.target import beside, by_content
from tests.artifact.plans import CASES, COUNT, SIZE, object_of, source_of

ZEROS = {"x": np.zeros(COUNT, np.float32)}


def error_of(path: Path) -> RtccError:
    with pytest.raises(RtccError) as raised:
        load(path)
    return raised.value


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.mkdir()
        for suffix in (".so", ".a"):
            write_artifact(source_of("branch"), path / f"model{suffix}")
    for name in ("model.so", "model.a", "model.h"):
        first, second = (path / name for path in paths)
        assert first.read_bytes() == second.read_bytes(), name
    text = (paths[0] / "model.so").read_bytes()
    assert str(tmp_path).encode() not in text
    assert b"/tmp" not in text


def test_emission_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    text = "from tests.artifact.plans import source_of; import hashlib; s = source_of('loop');"
    text += "print(hashlib.sha256((s.code + s.header).encode()).hexdigest())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", text], env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"}, text=True,
            cwd=Path(__file__).parents[2], capture_output=True, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_a_shared_object_offers_its_functions_and_needs_only_libc(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed", name="lenet-5"), tmp_path / "lenet-5.so")
    functions = {f"lenet_5_{f}" for f in ("init", "run", "output_shape", "finish", "info", "error")}
    assert set(Elf(path.read_bytes(), "x").exported) == functions | {"rtcc_artifact_v1"}
    dynamic = subprocess.run(["readelf", "-dlW", path], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert set(needed) <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    assert "BIND_NOW" in dynamic
    assert "GNU_RELRO" in dynamic
    stack = next(line for line in dynamic.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def weights_in(path: Path) -> list[bytes]:
    """The bytes of read-only segments of a library that are those of a section of weights."""
    read = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    (row,) = (line.split("PROGBITS")[1].split() for line in read.splitlines() if SECTION_NAME in line)
    listed = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    loads = [line.split() for line in listed.splitlines() if line.split()[:1] == ["LOAD"]]
    data = path.read_bytes()
    return [
        data[int(offset, 16) : int(offset, 16) + int(size, 16)]
        for _, offset, address, _, size, in_memory, flags, *_ in loads
        if (int(address, 16), flags, in_memory) == (int(row[0], 16), "R", size)
    ]


def test_embedded_weights_are_a_segment_that_survives_strip(tmp_path: Path) -> None:
    source = source_of("mixed")
    path = write_artifact(source, tmp_path / "model.so")
    assert weights_in(path) == [bytes(source.weights)]
    assert path.read_bytes().count(bytes(source.weights)) == 1
    subprocess.run(["strip", path], check=True)
    assert weights_in(path) == [bytes(source.weights)]


def test_a_static_library_has_its_weights_once(tmp_path: Path) -> None:
    source = source_of("mixed")
    path = write_artifact(source, tmp_path / "model.a")
    assert path.read_bytes().count(bytes(source.weights)) == 1


def test_weights_are_no_bytes_that_compiler_or_linker_read(tmp_path: Path) -> None:
    """They are written once, into the file that is moved into place."""
    source = source_of("mixed")
    size, seen = len(source.weights), list[int]()

    class Watching(Toolchain):
        def run(self, command: Sequence[str], folder: Path) -> None:
            super().run(command, folder)
            seen.append(sum(bytes(source.weights) in each.read_bytes() for each in folder.iterdir()))

    found = find_toolchain(source.machine)
    write_artifact(source, tmp_path / "model.so", Watching(found.compile, found.archive, found.static))
    assert size > 1000
    assert seen == [0, 0]


def test_a_linker_that_leaves_no_room_for_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtcc.emission.link.weights_address", lambda objects: 4096)  # pyright: ignore
    with pytest.raises(ArtifactError, match="where weights are expected from 0x1000 on") as raised:
        write_artifact(source_of("mixed"), tmp_path / "model.so")
    assert raised.value.code == "link-failed"
    assert not list(tmp_path.iterdir())


def test_kernel_names_stay_visible_to_profilers(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    assert any(symbol.name.startswith("reverse_") for symbol in Elf(path.read_bytes(), "x").symbols)


def test_kernels_and_weights_of_a_static_library_are_hidden(tmp_path: Path) -> None:
    """Linked into a program's own shared library, they are not among what that offers."""
    path = write_artifact(source_of("mixed"), tmp_path / "model.a")
    listed = subprocess.run(["readelf", "-sW", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    defined = {row[7]: row[5] for row in rows if len(row) == 8 and row[4] == "GLOBAL" and row[6] != "UND"}
    offered = {name for name, visibility in defined.items() if visibility == "DEFAULT"}
    assert offered == {f"model_{f}" for f in ("init", "run", "output_shape", "finish", "info", "error")}
    hidden = {name.rpartition("_")[0] for name, visibility in defined.items() if visibility == "HIDDEN"}
    assert {"reverse", "twice", "rtcc_weights"} <= hidden


def test_save_copies_the_artefact_and_its_header(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed", weights_name=beside), tmp_path / "model.so")
    other = tmp_path / "deeper"
    other.mkdir()
    with load(path) as artifact:
        artifact.save(other / "copy.so")
        artifact.save(path)
        expected = artifact.run(ZEROS)["y"]
        with pytest.raises(InvalidInput, match=r"\.so"):
            artifact.save(other / "copy.dll")
        with pytest.raises(InvalidInput, match="does not exist"):
            artifact.save(tmp_path / "missing" / "copy.so")
        path.unlink()
        with pytest.raises(ArtifactError, match="not there any more"):
            artifact.save(other / "late.so")
    with load(other / "copy.so") as artifact:
        np.testing.assert_array_equal(artifact.run(ZEROS)["y"], expected)
    assert sorted(p.name for p in other.iterdir()) == ["copy.h", "copy.so", "model.weights"]


def test_artefacts_of_one_name_keep_their_own_weights(tmp_path: Path) -> None:
    """Compiled from bytes, both are called "model": they can be saved into one folder all the same."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, case in zip(folders, ("mixed", "scratch"), strict=True):
        folder.mkdir()
        source = source_of(case, weights_name=by_content)
        with load(write_artifact(source, folder / "model.so")) as artifact:
            artifact.save(tmp_path / f"{case}.so")
    for case in ("mixed", "scratch"):
        inputs = CASES[case].inputs(0)
        with load(tmp_path / f"{case}.so") as artifact:
            np.testing.assert_array_equal(artifact.run(inputs)["y"], CASES[case].expected(inputs)["y"])


def test_saving_over_another_artefact_s_weights_is_refused(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    old = write_artifact(source_of("mixed", name="net", weights_name=beside), tmp_path / "old" / "net.so")
    with load(old) as artifact:
        (tmp_path / "new" / "net.weights").write_bytes(b"of another artefact")
        with pytest.raises(InvalidInput, match="which an artefact may need") as raised:
            artifact.save(tmp_path / "new" / "other.so")
        assert raised.value.code == "weights-taken"
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.weights"]
        with load(artifact.save(tmp_path / "new" / "net.so")) as saved:  # its own: both are replaced
            saved.run(ZEROS)


@pytest.mark.parametrize("stem", ["a-b", "a_b", 'q"\\uo', "é ☃??", "%s\n", "\udcff"])
def test_weights_are_named_as_the_file(tmp_path: Path, stem: str) -> None:
    path = write_artifact(source_of("mixed", name=stem, weights_name=beside), tmp_path / f"{stem}.so")
    assert (tmp_path / f"{stem}.weights").exists()
    with load(path) as artifact:
        assert artifact.info.weights_file == f"{stem}.weights"
        artifact.run(ZEROS)


def test_what_is_known_of_opened_files_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    held: list[Artifact] = []
    for number in range(12):
        write_artifact(source_of(("mixed", "scratch")[number % 2]), path)
        held = [*held[-2:], load(path)]
        assert (held[-1].run(ZEROS)["y"] == number % 2).all()
    del held
    gc.collect()
    write_artifact(source_of("mixed"), tmp_path / "other.so")
    with load(tmp_path / "other.so"):
        mine = {name: files for name, files in library.loaded_files.items() if name.startswith(str(tmp_path))}
        assert list(mine) == [str(tmp_path / "other.so")]


def test_a_table_that_is_too_small_is_refused(tmp_path: Path) -> None:
    """docs/stability.md: the table starts with its size, and a loader reads no further."""
    (tmp_path / "small.c").write_text("#include <stddef.h>\nsize_t rtcc_artifact_v1[1] = {sizeof(size_t)};")
    subprocess.run(["gcc", "-shared", "-fPIC", "small.c", "-o", "small.so"], cwd=tmp_path, check=True)
    with pytest.raises(ArtifactError, match="its table has 8 bytes"):
        library.open_table(tmp_path / "small.so")


def test_a_replaced_file_is_loaded_anew(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    with load(path) as first:
        write_artifact(source_of("scratch"), path)
        with load(path) as second:
            assert (second.run(ZEROS)["y"] == 1).all()
            assert (first.run(ZEROS)["y"] == 0).all()


def _gone(data: bytes) -> bytes | None:
    return None


def _shorter(data: bytes) -> bytes | None:
    return data[:-64]


def _one_bit_off(data: bytes) -> bytes | None:
    return bytes([data[0] ^ 1]) + data[1:]


def _words_swapped(data: bytes) -> bytes | None:
    return data[8:16] + data[:8] + data[16:]


def _no_tool(name: str) -> None:
    """Stands for a look-up that finds nothing."""


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_gone, "weights-missing"),
        (_shorter, "weights-wrong-size"),
        (_one_bit_off, "weights-wrong-content"),
        (_words_swapped, "weights-wrong-content"),
    ],
)
def test_external_weights_are_checked(
    tmp_path: Path, damage: Callable[[bytes], bytes | None], code: str
) -> None:
    path = write_artifact(source_of("mixed", weights_name=beside), tmp_path / "model.so")
    weights = tmp_path / "model.weights"
    with load(path) as artifact:
        inputs = CASES["mixed"].inputs(0)
        np.testing.assert_array_equal(artifact.run(inputs)["y"], CASES["mixed"].expected(inputs)["y"])
    data = damage(weights.read_bytes())
    weights.unlink()
    if data is not None:
        weights.write_bytes(data)
    assert error_of(path).code == code


def test_a_changed_byte_is_found_before_any_code_runs(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    data = path.read_bytes()
    changed = tmp_path / "changed.so"
    for at in [*range(0, len(data), 97), *range(len(data) - 48, len(data))]:
        changed.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ArtifactError) as raised:
            check_file(changed)
        assert raised.value.code in ("damaged", "truncated", "not-elf", "wrong-machine"), at
    for lost in (1, 8, 40):
        changed.write_bytes(data[:-lost])
        assert error_of(changed).code == "damaged"


def test_what_strip_makes_of_it_is_refused(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    subprocess.run(["strip", path], check=True)
    error = error_of(path)
    assert error.code == "damaged"
    assert "such as strip" in error.message


def test_weights_of_another_compilation_are_refused(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed", weights_name=beside), tmp_path / "model.so")
    weights = tmp_path / "model.weights"
    words = np.frombuffer(weights.read_bytes(), np.float32)
    weights.write_bytes((words * 2).tobytes())
    assert error_of(path).code == "weights-wrong-content"


def test_sets_of_files_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two compilations to one path: header and library are of the same one, however the writes fall."""
    put, order = os.replace, list[str]()

    def slow(source: Path, destination: Path) -> None:
        order.append(threading.current_thread().name)
        time.sleep(0.05)
        put(source, destination)

    monkeypatch.setattr(os, "replace", slow)
    sources = [source_of(case, weights_name=beside) for case in ("mixed", "branch")]
    writers = [
        threading.Thread(target=write_artifact, args=(source, tmp_path / "model.so")) for source in sources
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(order) >= 4  # two headers, two libraries
    assert order == sorted(order) or order == sorted(order, reverse=True)
    with load(tmp_path / "model.so") as artifact:
        artifact.run(artifact.random_inputs())


def test_a_full_disk_keeps_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    open_file = os.open

    def full(name: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if ".model.so." in str(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_file(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("rtcc.system.files.os.open", full)
    with pytest.raises(OSError, match="No space") as raised:
        write_artifact(source_of("branch"), path)
    assert raised.value.filename == str(path)
    monkeypatch.undo()
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "model.so").symlink_to(tmp_path / "real" / "v2.so")
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    assert path.is_symlink()
    assert (tmp_path / "real" / "v2.so").is_file()
    with load(path) as artifact:
        assert artifact.info.name == "model"
    (tmp_path / "dangling.so").symlink_to(tmp_path / "nowhere" / "v2.so")
    with pytest.raises(InvalidInput, match="nowhere"):
        write_artifact(source_of("mixed"), tmp_path / "dangling.so")


def test_files_respect_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    finally:
        os.umask(before)
    modes = [each.stat().st_mode & 0o777 for each in (path, path.with_suffix(".h"))]
    assert modes == [0o700, 0o600]


def test_files_that_are_no_artefact(tmp_path: Path) -> None:
    path = write_artifact(source_of("mixed"), tmp_path / "model.so")
    data = path.read_bytes()
    contents = {
        "truncated": data[: len(data) // 2],
        "wrong-machine": data[:18] + struct.pack("<H", 183) + data[20:],
        "not-elf": b"#!/bin/sh\n" * 20,
    }
    for code, bad in contents.items():
        (tmp_path / f"{code}.so").write_bytes(bad)
        error = error_of(tmp_path / f"{code}.so")
        assert error.code == code
        assert f"{code}.so" in str(error)
    (tmp_path / "empty.so").write_bytes(b"")
    assert error_of(tmp_path / "empty.so").code == "not-elf"
    (tmp_path / "short.so").write_bytes(data[:40])
    assert error_of(tmp_path / "short.so").code == "truncated"
    assert error_of(tmp_path / "absent.so").code == "cannot-open"
    (tmp_path / "other.c").write_text("int f(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "other.c", "-o", "other.so"], cwd=tmp_path, check=True)
    assert error_of(tmp_path / "other.so").code == "not-an-artefact"


def test_an_artefact_refuses_a_cpu_without_its_features(tmp_path: Path) -> None:
    module = CASES["mixed"].module()
    objects = {name: object_of(name) for name in ("twice", "reverse", "sum", "add", "scale")}
    source = emit_c(module, "model", Machine("x86_64", ("fma4", "avx")), objects)
    error = error_of(write_artifact(source, tmp_path / "model.so"))
    assert error.code == "cpu-unsupported"
    with pytest.raises(CodegenError, match="warp-drive"):
        emit_c(module, "model", Machine("x86_64", ("warp-drive",)), objects)


def test_an_object_without_its_kernel_is_refused() -> None:
    objects = {name: object_of("twice") for name in ("twice", "reverse", "sum", "scale")}
    objects["add"] = object_of("no_such_kernel")
    with pytest.raises(ArtifactError, match="of @add, found none"):
        emit_c(CASES["mixed"].module(), "model", Machine.host(), objects)


def test_linking_says_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("mixed")
    toolchain = Toolchain(("gcc", "--no-such-option"), ("ar",), ("gcc", "-static"))
    with pytest.raises(ArtifactError, match=r"unrecognized|unknown") as raised:
        write_artifact(source, tmp_path / "model.so", toolchain)
    assert raised.value.code == "link-failed"
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=r"\.so or \.a"):
        write_artifact(source, tmp_path / "model.dll")
    with pytest.raises(InvalidInput, match="does not exist"):
        write_artifact(source, tmp_path / "missing" / "model.so")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ToolMissing, match="no-such-compiler"):
        find_toolchain(Machine.host())


def test_a_missing_compiler_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("rtcc.emission.toolchain.find_spec", _no_tool)
    with pytest.raises(ToolMissing) as raised:
        find_toolchain(Machine("aarch64"))
    assert raised.value.code == "compiler-missing"
    assert "gcc-aarch64-linux-gnu" in str(raised.value)
    assert "pip install ziglang" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("is_external", [False, True])
def test_ziglang_links_where_no_compiler_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_external: bool
) -> None:
    if find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    source = source_of("mixed", weights_name=beside if is_external else None)
    monkeypatch.setattr("rtcc.emission.toolchain.shutil.which", _no_tool)
    monkeypatch.delenv("CC", raising=False)
    path = write_artifact(source, tmp_path / "model.so")
    write_artifact(source, tmp_path / "model.a")
    with load(path) as artifact:
        inputs = CASES["mixed"].inputs(0)
        np.testing.assert_array_equal(artifact.run(inputs)["y"], CASES["mixed"].expected(inputs)["y"])


def test_names_become_identifiers() -> None:
    assert identifier("lenet-5.v2") == "lenet_5_v2"
    assert identifier("3dnet") == "model_3dnet"
    assert identifier("é__x") == "x"
    assert identifier("---") == "model"


def test_unsupported_memory_is_refused() -> None:
    module = CASES["scratch"].module()
    launch = next(module.main.ops)
    launch.attributes["places"] = ("accelerator+0",)
    with pytest.raises(Unsupported, match="accelerator"):
        emit_c(module, "model", Machine.host(), {})


def test_sizes_are_what_the_header_says() -> None:
    assert f"#define MODEL_INPUT_X_BYTES {SIZE}u" in source_of("mixed").header


def test_from_another_file_system_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be moved in place, with the permissions that it would have had."""
    moved = write_artifact(source_of("branch"), tmp_path / "moved.so")
    move = os.replace

    def refusing(source: str | Path, target: str | Path) -> None:
        if Path(source).name == "model.so":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        move(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    copied = write_artifact(source_of("branch"), tmp_path / "copied.so")
    assert copied.stat().st_mode == moved.stat().st_mode
    assert load(copied).run(ZEROS).keys() == load(moved).run(ZEROS).keys()
