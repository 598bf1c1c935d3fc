"""A model on the accelerator's host: library, image, driver, a simulated board, against the interpreter."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rtcc
from benchmarks.fpga import BARS, NETWORKS, measured
from rtcc.artifact.codes import BY_NAME
from rtcc.cli import main
from rtcc.compiler import Options, read_model, start, write
from rtcc.errors import ArtifactError, CodegenError, InvalidInput, Unsupported
from rtcc.interpreter import interpret
from rtcc.ir import Module
from rtcc.pipeline.text import parse_pipeline
from rtcc.target import parse_target
from rtcc.targets.fpga import simulated
from rtcc.targets.fpga.compiler.order_check import Finding
from rtcc.targets.fpga.compiler.region import Program
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.image import emission
from rtcc.targets.fpga.image.emission import SUFFIX
from rtcc.targets.fpga.isa.table import Register
from rtcc.targets.fpga.report import RTL, report_of
from rtcc.targets.fpga.simulated import Board

Array = NDArray[Any]

DEMO = Path(rtcc.__file__).parent / "demo"
TARGET = "fpga"
DIGITS = 30
DIGITS_FOLDER = Path(__file__).parents[2] / "data" / "digits"


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    held_out = np.load(DEMO / "mnist_held_out.npz")
    return held_out["image"].astype(np.float32), held_out["labels"]


def quantised(path: Path, source: Path, samples: dict[str, Array]) -> Path:
    """A model with 8-bit layers, as the accelerator wants it."""
    rtcc.quantize(source, samples, placement="every").write(path)
    return path


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Array, Array]) -> Path:
    """LeNet-5 with 8-bit layers."""
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    return quantised(path, DEMO / "lenet5_mnist.onnx", {"image": digits[0][200:264]})


@pytest.fixture(scope="module")
def library(lenet: Path) -> Path:
    """The host's library, with its image beside it."""
    return compiled(lenet)


def compiled(model: Path) -> Path:
    """The host's library of a model, with its image beside it."""
    return written(model, model.with_suffix(".so"))


def written(model: Path, path: Path) -> Path:
    """A model compiled to a path."""
    compilation = start(model, Options(target=TARGET))
    compilation.lower()
    return write(compilation, path)


def legalised(model: Path) -> Module:
    """The model with the operators of the accelerator, for the interpreter."""
    module = read_model(model)
    module.target = TARGET
    for each in parse_pipeline("convert-signedness{to=i8},accelerate,unfold-stride,lower-quantization"):
        each.run(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "residual", "depthwise"])
def test_two_hundred_digits(name: str, lenet: Path, tmp_path: Path, digits: tuple[Array, Array]) -> None:
    model = lenet if name == "lenet" else network(name, tmp_path)
    holds_digits(model, compiled(model), digits, "functional", 200)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name: str) -> None:
    row = measured(name, TARGET)
    assert row["of peak %"] >= BARS[name]
    assert abs(row["cycles"] / row["predicted"]["cycles"] - 1) <= 0.03


def network(name: str, folder: Path) -> Path:
    """A small network of digits with 8-bit layers."""
    samples = np.load(DIGITS_FOLDER / "training_digits.npz")["image"][:64].astype(np.float32)
    return quantised(folder / f"{name}.onnx", DIGITS_FOLDER / f"{name}.onnx", {"image": samples})


def holds_digits(model: Path, library: Path, digits: tuple[Array, Array], engine: str, count: int) -> None:
    """Results are the interpreter's to the bit, and as often right as before legalisation, within 0.2 %."""
    images, labels = digits
    module, before = legalised(model), read_model(model)
    with rtcc.load(library) as artifact:
        board = artifact.simulate(engine)
        right = was_right = 0
        for index in range(count):
            feeds = {"image": images[index : index + 1]}
            (found,), (wanted,) = artifact.run(feeds).values(), interpret(module, feeds).values()
            np.testing.assert_array_equal(found, wanted)
            right += int(found.argmax() == labels[index])
            (earlier,) = interpret(before, feeds).values()
            was_right += int(earlier.argmax() == labels[index])
    assert isinstance(board, Board)
    assert len(board.outcomes) == count
    assert abs(right - was_right) <= 0.002 * count
    assert right >= 0.9 * count


def test_digits_are_as_the_interpreter_has_them_to_the_bit(
    lenet: Path, library: Path, digits: tuple[Array, Array]
) -> None:
    holds_digits(lenet, library, digits, "functional", DIGITS)


@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_ten_digits_on_the_rtl(lenet: Path, library: Path, digits: tuple[Array, Array]) -> None:
    holds_digits(lenet, library, digits, "rtl", 10)


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_networks_of_digits(name: str, tmp_path: Path, digits: tuple[Array, Array]) -> None:
    model = network(name, tmp_path)
    library = compiled(model)
    holds_digits(model, library, digits, "functional", DIGITS)
    if shutil.which("verilator") is not None:
        holds_digits(model, library, digits, "rtl", 10)
        holds_cycles_of_layers(library)
    report = parse_target(TARGET).device_report(library)
    assert report is not None
    layers = sum(int(each["cycles"]) for each in report.layers)
    assert layers < int(report.total["cycles"]) <= layers + 32


def holds_cycles_of_layers(library: Path) -> None:
    """The RTL's cycles of each layer are the model's within 3 %, and a few at layers' ends."""
    with rtcc.load(library) as artifact:
        board = artifact.simulate("rtl")
        assert isinstance(board, Board)
        artifact.run(artifact.random_inputs(0))
        report = parse_target(TARGET).device_report(library, board)
    assert report is not None
    assert len(report.layers) > 3
    for each in report.layers:
        assert abs(int(each[RTL]) - int(each["cycles"])) <= 0.03 * int(each["cycles"]) + 16
    rest = int(report.total[RTL]) - sum(int(each[RTL]) for each in report.layers)
    assert 0 <= rest <= 32 * len(board.rtl_runs)


@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_bench_puts_the_cycles_of_the_rtl_beside_the_models(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(library), "--simulate", "rtl", "--json", str(figures)])
    assert not stopped.value.code
    printed = capsys.readouterr().out
    written = json.loads(figures.read_text())
    rows = [*written["layers"], written["total"]]
    assert len(rows) > 4
    for each in rows:
        assert list(each)[:4] == ["layer", "mode", "cycles", RTL]
        assert abs(each[RTL] - each["cycles"]) <= 0.03 * each["cycles"] + 16
        assert f"{each[RTL]:,}" in printed
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(library), "--simulate", "functional"])
    assert stopped.value.code == 1
    assert "bench-simulate" in capsys.readouterr().err


def test_a_region_that_did_not_run_has_no_cycles(library: Path) -> None:
    image = library.with_suffix(SUFFIX).read_bytes()
    assert {each[RTL] for each in report_of(image, Core(), {}).layers} == {"not run"}
    assert RTL not in report_of(image, Core()).total


BATCH = """// rtir 1  level=graph  target=fpga
const #s : f32[] = 0.02
const #z : i8[] = 5
const #r : f32[] = 0.05
const #n : i8[] = -7
const #v : f32[] = 0.01
const #f : i8[2,1,2,2] = [101,-63,44,17,-90,120,33,-77]
const #w : i8[8,2] = [1,-2,30,4,-50,6,7,80,-9,10,110,-12,13,14,-15,16]
const #m : i8[3,2] = [10,-20,30,40,-50,60]
const #b : f32[2] = [0.1,-0.3]
graph @main(%x: f32[3,1,3,3], %t: f32[2,4,3]) {
  %q = quant.quantize_linear(%x, #s, #z) : i8[3,1,3,3]
  %d = quant.dequantize_linear(%q, #s, #z) : f32[3,1,3,3]
  %k = quant.dequantize_linear(#f, #v) : f32[2,1,2,2]
  %c = nn.conv(%d, %k) {kernel_shape = [2,2]} : f32[3,2,2,2]
  %e = quant.quantize_linear(%c, #r, #n) : i8[3,2,2,2]
  %g = tensor.flatten(%e) : i8[3,8]
  %l = quant.dequantize_linear(%g, #r, #n) : f32[3,8]
  %h = quant.dequantize_linear(#w, #v) : f32[8,2]
  %y = nn.mat_mul(%l, %h) : f32[3,2]
  %a = quant.quantize_linear(%t, #s, #z) : i8[2,4,3]
  %i = quant.dequantize_linear(%a, #s, #z) : f32[2,4,3]
  %j = quant.dequantize_linear(#m, #v) : f32[3,2]
  %o = nn.mat_mul(%i, %j) : f32[2,4,2]
  %p = math.add(%o, #b) : f32[2,4,2]
  %u = quant.quantize_linear(%p, #r, #n) : i8[2,4,2]
  return(%y, %u)
}
"""


@pytest.mark.parametrize("engine", ["functional", "rtl"])
def test_batches_and_rows(engine: str, tmp_path: Path) -> None:
    """The driver packs images of a batch and rows of a matrix; all products are the accelerator's."""
    if engine == "rtl" and shutil.which("verilator") is None:
        pytest.skip("needs verilator")
    model = tmp_path / "batch.rtir"
    model.write_text(BATCH)
    library = compiled(model)
    with rtcc.load(library) as artifact:
        artifact.simulate(engine)
        feeds = artifact.random_inputs(3)
        found, wanted = artifact.run(feeds), interpret(legalised(model), feeds)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert len(np.unique(array)) > 4
    report = parse_target(TARGET).device_report(library)
    assert report is not None
    assert int(report.total["products"]) == 3 * 8 * 4 + 3 * 2 * 8 + 8 * 2 * 3


def test_without_a_device_a_run_says_so(library: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(library, tmp_path))
    with rtcc.load(copy) as artifact, pytest.raises(ArtifactError, match="no usable device"):
        artifact.run(artifact.random_inputs(0))


def test_a_damaged_image_is_refused(library: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(library, tmp_path))
    good = library.with_suffix(SUFFIX).read_bytes()
    image = copy.with_suffix(SUFFIX)
    with rtcc.load(copy) as artifact:
        with pytest.raises(ArtifactError, match="cannot read"):
            artifact.simulate("functional")
        for at in (3, 30, 100, len(good) - 1):
            image.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
            with pytest.raises(ArtifactError, match="checksum"):
                artifact.simulate("functional")
        image.write_bytes(good[:-1])
        with pytest.raises(ArtifactError, match="cut short"):
            artifact.simulate("functional")


def test_the_driver_refuses_what_is_not_for_it(library: Path, tmp_path: Path) -> None:
    """The same checks in C, which no Python stands before on a board."""
    copy = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    with rtcc.load(copy) as artifact:
        good = artifact.simulate("functional")
        assert isinstance(good, Board)
        driver = good.driver
        assert driver is not None
        codes = {
            name: simulated.place(driver, artifact.info.name, board, image)
            for name, board, image in (
                ("sound", good, good.image),
                ("short", good, good.image[:-16]),
                ("changed", good, np.where(np.arange(good.image.size) == 70, 1, good.image)),
            )
        }
        assert codes == {"sound": 0, "short": -51, "changed": -51}
        for other in (
            Core(n=8, dram_bits=64),
            replace(good.core, queue=8),
            replace(good.core, wgt_bytes=64 << 10),
        ):
            board = Board(other, good.engine, good.memory)
            assert simulated.place(driver, artifact.info.name, board, good.image) == BY_NAME["CORE_OTHER"]
        alike = Board(replace(good.core, dram_bits=32), good.engine, good.memory)
        assert simulated.place(driver, artifact.info.name, alike, good.image) == 0
        good.registers[0] = 0
        assert simulated.place(driver, artifact.info.name, good, good.image) == -48


def test_closing_takes_the_board_from_all_who_loaded_the_library(library: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    first, second = rtcc.load(copy), rtcc.load(copy)
    feeds = second.random_inputs(0)
    board = weakref.ref(first.simulate("functional"))
    gc.collect()
    assert board() is not None, "the driver still calls it"
    second.run(feeds)
    first.close()
    del first
    gc.collect()
    assert board() is None
    with pytest.raises(ArtifactError, match="no usable device") as found:
        second.run(feeds)
    assert "--simulate functional" in str(found.value.hint)
    old = second.simulate("functional")
    with rtcc.load(copy) as third:
        new = third.simulate("functional")
        old.detach()
        second.run(feeds)
        assert isinstance(new, Board)
        assert len(new.outcomes) == 1
    second.close()


def test_a_board_is_the_loaded_librarys_own_whatever_lies_at_its_path_now(
    library: Path, tmp_path: Path, digits: tuple[Array, Array]
) -> None:
    """Another model is compiled to the same path while the first one is loaded and has run."""
    path = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    feeds = {"image": digits[0][:1]}
    first = rtcc.load(path)
    first.simulate("functional")
    (wanted,) = first.run(feeds).values()
    other = written(network("depthwise", tmp_path), path)
    with rtcc.load(other) as second:
        second.simulate("functional")
        (found,) = second.run(feeds).values()
        assert not np.array_equal(found, wanted)
        with pytest.raises(ArtifactError, match="another compilation"):
            first.simulate("functional")
        (again,) = first.run(feeds).values()
        np.testing.assert_array_equal(again, wanted)
        (still,) = second.run(feeds).values()
        np.testing.assert_array_equal(still, found)
    first.close()


@pytest.mark.parametrize(
    ("status", "code"), [(1, "device-timeout"), (0xFFFFFFFF, "device-failed"), (0, "device-failed")]
)
def test_a_device_that_never_is_done(library: Path, tmp_path: Path, status: int, code: str) -> None:
    class Dead(Board):
        def write(self, _: int | None, offset: int, value: int) -> None:
            if offset == Register.CONTROL:
                self.registers[Register.STATUS] = status

    copy = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    with rtcc.load(copy) as artifact:
        good = artifact.simulate("functional")
        assert isinstance(good, Board)
        driver = good.driver
        assert driver is not None
        dead = Dead(good.core, good.engine, good.memory)
        assert simulated.place(driver, artifact.info.name, dead, good.image) == 0
        with pytest.raises(ArtifactError) as found:
            artifact.run(artifact.random_inputs(0))
        assert found.value.code == code
        if status == 1:
            dead.write(None, Register.CONTROL, 1)
            with pytest.raises(ArtifactError, match="still busy"):
                artifact.run(artifact.random_inputs(0))
        dead.detach()


def test_a_program_that_takes_too_long_is_stopped(library: Path, tmp_path: Path) -> None:
    """The run says so, and the next one is as if nothing had been."""

    class Slow(Board):
        stops = 0

        def write(self, _: int | None, offset: int, value: int) -> None:
            if offset == Register.CONTROL and value == 2:
                self.stops += 1
                self.registers[Register.STATUS] = 6
            elif offset == Register.CONTROL and not self.stops:
                self.registers[Register.STATUS] = 1
            else:
                super().write(_, offset, value)

    copy = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    with rtcc.load(copy) as artifact:
        good = artifact.simulate("functional")
        assert isinstance(good, Board)
        feeds = artifact.random_inputs(0)
        wanted = artifact.run(feeds)
        driver = good.driver
        assert driver is not None
        slow = Slow(good.core, good.engine, good.memory)
        assert simulated.place(driver, artifact.info.name, slow, good.image) == 0
        with pytest.raises(ArtifactError) as found:
            artifact.run(feeds)
        assert found.value.code == "device-timeout"
        assert slow.stops == 1
        for name, array in artifact.run(feeds).items():
            np.testing.assert_array_equal(array, wanted[name])
        assert slow.stops == 1
        slow.detach()


def test_another_run_meanwhile_is_told_that_the_device_is_busy(library: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(library, tmp_path))
    shutil.copy(library.with_suffix(SUFFIX), tmp_path)
    codes: list[str] = []
    with rtcc.load(copy) as artifact:
        board = artifact.simulate("functional")
        assert isinstance(board, Board)
        inner = board.engine

        def engine(*given: Any) -> Any:
            with pytest.raises(ArtifactError) as found:
                artifact.run(artifact.random_inputs(0))
            codes.append(found.value.code)
            board.detach()
            return inner(*given)

        board.engine = engine
        artifact.run(artifact.random_inputs(0))
        assert set(codes) == {"device-busy"}


def test_what_cannot_be_simulated(library: Path) -> None:
    with rtcc.load(library) as artifact, pytest.raises(InvalidInput, match="no simulator is called"):
        artifact.simulate("fast")
    with (
        rtcc.compile(DEMO / "lenet5_mnist.onnx") as artifact,
        pytest.raises(Unsupported, match="this machine"),
    ):
        artifact.simulate("functional")


def test_a_program_that_fails_its_check_is_not_written(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finds(program: Program) -> list[Finding]:
        return [Finding(len(program.layers), "it is wrong")]

    monkeypatch.setattr(emission, "check_program", finds)
    with pytest.raises(CodegenError, match=r"instruction \d+: it is wrong") as caught:
        rtcc.compile(lenet, TARGET)
    assert caught.value.code == "accelerator-program"
    assert "another core" in str(caught.value.hint)


def test_levels_within_a_pipeline_are_those_of_the_target(lenet: Path) -> None:
    """-O2 within a text of one's own computes on the accelerator too; without it that is said."""
    default = start(lenet, Options(target=TARGET))
    custom = start(lenet, Options(target=TARGET, pipeline="-O2,eliminate-dead"))
    for compilation in (default, custom):
        compilation.lower()
    assert list(custom.module.kernels) == list(default.module.kernels)
    with pytest.raises(InvalidInput, match="no layer of the model runs on the accelerator") as found:
        rtcc.compile(lenet, TARGET, pipeline="eliminate-dead")
    assert found.value.code == "nothing-accelerated"


def test_an_artefact_is_saved_with_its_image(lenet: Path, tmp_path: Path) -> None:
    with rtcc.compile(lenet, TARGET) as artifact:
        saved = artifact.save(tmp_path / "net.so")
    with rtcc.load(saved) as artifact:
        artifact.simulate("functional")
        assert artifact.run(artifact.random_inputs(0))


def test_models_in_floats_and_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="rtcc quantize") as found:
        rtcc.compile(DEMO / "lenet5_mnist.onnx", TARGET)
    assert found.value.code == "not-quantized"
    for text in (
        "fpga,n=12",
        "fpga,inp=3K",
        "fpga,out=many",
        "fpga,dram=256",
        "fpga,size=2",
        "fpga,n=8,n=16",
    ):
        with pytest.raises(InvalidInput):
            rtcc.compile(DEMO / "lenet5_mnist.onnx", text)
