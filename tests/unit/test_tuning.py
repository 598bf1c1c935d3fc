"""rtcc.tune: everything is measured once, stopping loses one kernel, and compile goes by what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import CodegenError, InvalidInput
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops import nn
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.integer import ConvSum, Requantize
from rtcc.ir.ops.math import Add
from rtcc.selection.explanation import decisions_json, decisions_text
from rtcc.system.machine import Machine
from rtcc.target import parse_target
from rtcc.targets.x86 import X86
from rtcc.text import parse_module, write_module
from rtcc.tuning import store
from rtcc.tuning.kernel_times import kernel_times
from rtcc.tuning.store import Tuning, read_tuning
from rtcc.tuning.timing import NEAR_BYTES, Stopwatch, Timed, aligned, least_seconds
from rtcc.tuning.tuner import Gain, Progress, Watch, tune
from rtcc.tuning.watch import ChildWatch, Failure

TARGET = "x86:znver5"
CHANNELS, FILTERS, SIDE = 16, 40, 12

Seconds = Callable[[str, tuple[int, ...]], float]


def network() -> Module:
    """relu(conv3x3(x)), and a matrix product of what it gives."""
    random = np.random.default_rng(3)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, CHANNELS, SIDE, SIDE)))]))
    shape = (FILTERS, CHANNELS, 3, 3)
    weight = module.add_constant("w", random.standard_normal(shape).astype(np.float32) / 12)
    matrix = module.add_constant("m", random.standard_normal((SIDE, 24)).astype(np.float32))
    conv = graph.append(nn.Conv(graph.parameters[0], weight, None, pads=(1, 1, 1, 1)))
    product = graph.append(nn.MatMul(graph.append(Relu(conv.result)).result, matrix))
    graph.return_(product.result)
    return module


class FakeWatch:
    """Says how long kernels take by their algorithm and tile; notes what it was asked."""

    def __init__(self, seconds: Seconds, stop_at: int = -1) -> None:
        self.seconds, self.stop_at = seconds, stop_at
        self.asked: list[list[tuple[str, tuple[int, ...]]]] = []

    def __call__(self, kernels: Mapping[str, Timed]) -> Mapping[str, float | Failure]:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        found = {name: timed.kernel.attributes for name, timed in kernels.items()}
        ways = {name: (str(each["algorithm"]), each.get("tile", ())) for name, each in found.items()}
        assert all(timed.activations[0] == 0 for timed in kernels.values())
        self.asked.append(list(ways.values()))
        return {name: self.seconds(*way) for name, way in ways.items()}


def preferring(algorithm: str, tile: tuple[int, ...] | None = None) -> Seconds:
    """One algorithm, or one of its tiles, takes 1 µs, everything else 1 ms."""
    return lambda name, found: 1e-6 if name == algorithm and tile in (None, found) else 1e-3


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are not compiled: a fake watch does not run them."""

    def nothing(self: X86, module: Module) -> dict[str, bytes]:
        return dict.fromkeys(module.kernels, b"")

    monkeypatch.setattr(X86, "compile_kernels", nothing)


def tuned(path: Path, watch: Watch, **options: Any) -> Gain:
    return tune(network(), path, TARGET, watch=watch, **options)


def without_code(path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune for this machine, compiling nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(X86, "compile_kernels", lambda self, module: dict.fromkeys(module.kernels, b""))  # pyright: ignore
        tune(network(), path, "x86", watch=watch)


def lowered(path: Path | None, **options: Any) -> Module:
    compilation = start(network(), Options(target=TARGET, tuned=path, **options))
    compilation.lower()
    return compilation.module


def conv_choice(module: Module) -> tuple[str, tuple[int, ...]]:
    """The algorithm and tile of the kernel that has the convolution."""
    names = ("nn.conv", "nn.winograd_conv")
    (kernel,) = (kernel for kernel in module.kernels.values() if any(op.name in names for op in kernel.ops))
    return str(kernel.attributes.get("algorithm", "")), kernel.attributes.get("tile", ())


# ------------------------------------------------------------------------------------------------ measuring


@pytest.mark.usefixtures("no_code")
def test_algorithms_and_tiles_are_measured_kernel_by_kernel(tmp_path: Path) -> None:
    watch = FakeWatch(preferring("direct"))
    said: list[Progress] = []
    tuned(tmp_path / "t.json", watch, progress=said.append)
    conv, product = sorted(watch.asked, key=lambda ways: "matmul" in dict(ways))
    assert {"direct", "winograd2", "winograd4"} <= set(dict(conv))
    assert len({tile for name, tile in conv if name == "direct"}) > 2
    assert len({tile for name, tile in product if name == "matmul"}) > 2
    assert len(set(conv)) == len(conv)
    assert [(p.done, p.total) for p in said] == [(0, 2), (1, 2), (2, 2)]
    assert said[-1].ways == len(conv) + len(product)
    kernels = read_tuning(tmp_path / "t.json").kernels
    names = {key.split()[0] for key in kernels}
    assert names == {"nn.conv", "nn.winograd_conv", "nn.mat_mul"}


def three_layers() -> Module:
    """Convolutions of one shape: with a rectifier, with its own input added, with a rectifier again."""
    random = np.random.default_rng(3)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, CHANNELS, SIDE, SIDE)))]))
    value = graph.parameters[0]
    for number, epilogue in enumerate(("relu", "add", "relu")):
        shape = (CHANNELS, CHANNELS, 3, 3)
        weight = module.add_constant(f"w{number}", random.standard_normal(shape).astype(np.float32) / 12)
        conv = graph.append(nn.Conv(value, weight, None, pads=(1, 1, 1, 1))).result
        value = graph.append(Add(conv, value) if epilogue == "add" else Relu(conv)).result
    graph.return_(value)
    return module


def network_of_bytes(channels: int = CHANNELS) -> Module:
    """A convolution of bytes, and one with a filter per channel."""
    random = np.random.default_rng(3)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.U8, (1, channels, SIDE, SIDE)))]))
    value, factor = graph.parameters[0], module.add_constant("f", np.array(1e-3, np.float32))
    zero = module.add_constant("z", np.array(0, np.uint8))
    for number, shape in enumerate([(FILTERS, channels, 3, 3), (FILTERS, 1, 3, 3)]):
        weight = module.add_constant(f"w{number}", random.integers(-128, 128, shape, np.int8))
        offset = module.add_constant(f"o{number}", random.integers(-99, 99, FILTERS, np.int32))
        group = FILTERS if shape[1] == 1 else 1
        total = graph.append(ConvSum(value, weight, offset, pads=(1, 1, 1, 1), group=group))
        value = graph.append(Requantize(total.result, factor, zero)).result
    graph.return_(value)
    return module


@pytest.mark.usefixtures("no_code")
def test_tiles_of_kernels_of_bytes_are_measured_and_taken(tmp_path: Path) -> None:
    file, watch = tmp_path / "t.json", FakeWatch(lambda name, tile: 1e-6 * sum(tile) if tile else 1.0)
    tune(network_of_bytes(), file, TARGET, watch=watch)
    convolution, depthwise = sorted(watch.asked, key=lambda ways: "depthwise" in dict(ways))
    assert len({tile for name, tile in convolution if name == "direct"}) > 2
    assert len({tile for name, tile in depthwise if name == "depthwise"}) > 1
    compilation = start(network_of_bytes(), Options(target=TARGET, tuned=file))
    compilation.lower()
    chosen = [
        kernel.attributes["tile"]
        for kernel in compilation.module.kernels.values()
        if kernel.attributes.get("tile")
    ]
    least = [min((tile for _, tile in ways if tile), key=sum) for ways in (convolution, depthwise)]
    assert chosen == least


BYTES = """// rtir 1  level=graph
const #s : f32[] = 0.02
const #w : i8[16,3,3,3] = splat(1)
graph @main(%x: u8[1,3,20,20]) {
  %d = quant.dequantize_linear(%x, #s) : f32[1,3,20,20]
  %f = quant.dequantize_linear(#w, #s) : f32[16,3,3,3]
  %y = nn.conv(%d, %f) {pads = [1,1,1,1]} : f32[1,16,20,20] loc("layer")
  return(%y)
}
"""


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize(
    ("fastest", "operator"), [("winograd4", "nn.winograd_conv"), ("direct_plain", "quant.conv_sum")]
)
def test_a_layer_is_measured_in_integers_and_in_floats(fastest: str, operator: str, tmp_path: Path) -> None:
    """Where neither is predicted to be far off; the one that was quicker is compiled."""
    watch, path = FakeWatch(preferring(fastest)), tmp_path / "t.json"
    gain = tune(parse_module(BYTES), path, TARGET, watch=watch)
    names = {key.split()[0] for key in read_tuning(path).kernels}
    assert {"nn.conv", "quant.conv_sum"} <= names
    assert gain.measured == min(gain.measured, gain.predicted)
    compilation = start(parse_module(BYTES), Options(target=TARGET, tuned=path))
    compilation.lower()
    ops = {op.name for kernel in compilation.module.kernels.values() for op in kernel.ops}
    assert operator in ops


@pytest.mark.parametrize(
    ("algorithm", "channels"), [("direct", CHANNELS), ("direct_plain", 3), ("depthwise", 3)]
)
def test_every_tile_of_bytes_computes_the_same(
    algorithm: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch(preferring(algorithm))
    with monkeypatch.context() as patch:
        patch.setattr(X86, "compile_kernels", lambda self, module: dict.fromkeys(module.kernels, b""))  # pyright: ignore
        tune(network_of_bytes(channels), tmp_path / "all.json", "x86", watch=watch)
    tiles = [tile for ways in watch.asked for name, tile in ways if name == algorithm]
    if not tiles:
        pytest.skip(f"{algorithm} is predicted to be far off here")
    tuning, one = read_tuning(tmp_path / "all.json"), tmp_path / "one.json"
    last = Tuning(tuning.target)
    for key, measured in tuning.kernels.items():
        last.add(key, [each for each in measured if (each.algorithm, each.tile) == (algorithm, tiles[-1])])
    last.write(one)
    with rtcc.compile(network_of_bytes(channels), "x86", tuned=one, verify_kernels=True) as artifact:
        x = np.random.default_rng(0).integers(0, 256, (1, channels, SIDE, SIDE), np.uint8)
        (found,) = artifact.run({"x": x}).values()
        (expected,) = rtcc.interpret(network_of_bytes(channels), {"x": x}).values()
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("no_code")
def test_layers_are_measured_once_for_each_epilogue(tmp_path: Path) -> None:
    """The first kernel asked for, of two layers, is fastest as direct; the other as winograd2."""
    file = tmp_path / "t.json"
    watch = FakeWatch(lambda name, tile: 1.0 if (name == "direct") == (len(watch.asked) == 1) else 2.0)
    said: list[Progress] = []
    tune(three_layers(), file, TARGET, progress=said.append, watch=watch)
    assert said[-1].total == 2
    compilation = start(three_layers(), Options(target=TARGET, tuned=file))
    compilation.lower()
    kernels = compilation.module.kernels.values()
    named = [kernel.attributes["algorithm"] for kernel in kernels if "algorithm" in kernel.attributes]
    assert [name == "direct" for name in named] == [True, False, True]


@pytest.mark.usefixtures("no_code")
def test_what_takes_longest_is_measured_first(tmp_path: Path) -> None:
    """The convolution has twice as many multiplications as the product."""
    watch = FakeWatch(preferring("direct"))
    tuned(tmp_path / "t.json", watch)
    assert ["direct" in dict(ways) for ways in watch.asked] == [True, False]


@pytest.mark.usefixtures("no_code")
def test_ways_that_were_not_measured_do_not_look_fast_on_a_slow_machine(tmp_path: Path) -> None:
    """Every way that was measured took a second; the others were predicted to take microseconds."""
    watch = FakeWatch(lambda name, tile: 1.0)
    tuned(tmp_path / "t.json", watch)
    measured = {name for name, _ in watch.asked[0]}
    assert "generic" not in measured
    assert conv_choice(lowered(tmp_path / "t.json"))[0] in measured


@pytest.mark.usefixtures("no_code")
def test_the_gain_is_of_the_fastest_over_the_predicted(tmp_path: Path) -> None:
    predicted = conv_choice(lowered(None))
    gain = tuned(
        tmp_path / "t.json", FakeWatch(lambda name, tile: 2e-6 if (name, tile) == predicted else 1e-6)
    )
    assert (gain.predicted, gain.measured) == pytest.approx((3e-6, 2e-6))  # the product was predicted right


@pytest.mark.usefixtures("no_code")
def test_stopping_keeps_what_was_measured_and_the_rest_follows(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    tuned(whole, FakeWatch(preferring("winograd2")))
    first, second, third = (FakeWatch(preferring("winograd2"), stop) for stop in (1, -1, -1))
    with pytest.raises(KeyboardInterrupt):
        tuned(parts, first)
    assert 0 < len(read_tuning(parts).kernels) < len(read_tuning(whole).kernels)
    tuned(parts, second)
    assert len(first.asked) == len(second.asked) == 1
    assert parts.read_bytes() == whole.read_bytes()
    tuned(parts, third)
    assert third.asked == []


def test_the_clock_times_every_way(tmp_path: Path) -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (8, 16)))]))
    matrix = module.add_constant("m", np.ones((16, 24), np.float32))
    graph.return_(graph.append(nn.MatMul(graph.parameters[0], matrix)).result)
    tune(module, tmp_path / "t.json", "x86")
    for measured in read_tuning(tmp_path / "t.json").kernels.values():
        assert all(0 < each.seconds < 1 for each in measured)
        assert list(measured) == sorted(measured, key=lambda each: each.seconds)


def test_a_kernel_in_parts_takes_what_its_longest_does(monkeypatch: pytest.MonkeyPatch) -> None:
    module = lowered(None)
    target = start(network(), Options(target=TARGET, threads=2)).target
    seconds = {0: 1.0, 1: 3.0}
    monkeypatch.setattr(
        "rtcc.tuning.timing.least_seconds",
        lambda runners, rounds, between=None: {key: seconds[key[1]] for key in runners},  # pyright: ignore
    )
    monkeypatch.setattr(X86, "tasks", lambda self, kernel: 2)  # pyright: ignore
    name, kernel = next(iter(module.kernels.items()))
    watch = Stopwatch(target, 0)
    watch.prepare({name: Timed(kernel, target.compile_kernels(module)[name], (0,))})
    assert watch.seconds([name]) == {name: 3.0}


class Counted:
    """Stands for the weights of the rest of a model; notes that they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def sum(self) -> None:
        self.reads += 1


@pytest.mark.parametrize(("other_bytes", "reads"), [(NEAR_BYTES, None), (NEAR_BYTES + 8, 2)])
def test_weights_of_the_rest_are_read_before_each_call(
    other_bytes: int, reads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all weights fit into near caches nothing is read in between."""
    others = Counted()

    def called_twice(runners: Any, rounds: int, between: Any = None) -> Any:
        for part in (*runners, *runners) if between else ():
            between(part)
        return dict.fromkeys(runners, 0.0 if between is None else 1.0)

    monkeypatch.setattr("rtcc.tuning.timing.least_seconds", called_twice)
    watch = Stopwatch(parse_target("x86"), other_bytes)
    if watch._others is not None:  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(watch, "_others", others)
    watch.prepare({"k": Timed(copying_kernel(), compiled_c("", tmp_path), (0,))})
    assert watch.seconds(["k"]) == {"k": 0.0 if reads is None else 1.0}
    assert others.reads == (reads or 0)


def test_what_runs_in_between_is_not_counted() -> None:
    order: list[str] = []
    found = least_seconds({"a": lambda: order.append("a")}, 1, 1e-9, lambda name: order.append("-"))
    assert order == ["-", "a"] * (len(order) // 2)
    assert found["a"] < 0.01
    assert aligned(np.ones(3, np.float32)).ctypes.data % 64 == 0


# ----------------------------------------------------------------------------------- kernels that are wrong

FAILING = {
    "crash": "*(volatile int *)0 = 1;",
    "leave": "_Exit(3);",
    "loop": "for (;;) y[0] += 1;",
    "crash again": "static int runs; if (runs++ > 2) *(volatile int *)0 = 1;",
}
"""What kernels do in place of their work; the last one fails only after a few runs."""


def compiled_c(body: str, folder: Path) -> bytes:
    """The object of a kernel (x, y) of 8 floats."""
    parameters = "int task, int tasks, const float *x, float *y, int *code"
    code = f"#include <stdlib.h>\nint k({parameters}) {{ y[0] = x[0]; {body} return 0; }}\n"
    (folder / "k.c").write_text(code)
    toolchain = find_toolchain(Machine.host())
    toolchain.run([*toolchain.compile, "-O1", "-w", "-fPIC", "-c", "k.c", "-o", "k.o"], folder)
    return (folder / "k.o").read_bytes()


def copying_kernel() -> Graph:
    type = TensorType(DType.F32, (8,))
    kernel = Graph("k", [("x", type)])
    kernel.return_(kernel.append(Relu(kernel.parameters[0])).result)
    return kernel


def test_kernels_that_fail_cost_only_themselves(tmp_path: Path) -> None:
    codes = {name: compiled_c(body, tmp_path) for name, body in (*FAILING.items(), ("right", ""))}
    kernels = {name: Timed(copying_kernel(), code, (0,)) for name, code in codes.items()}
    with ChildWatch(parse_target("x86"), 0, most_seconds=0.5) as watch:
        found = watch(kernels)
        again = watch({"right": kernels["right"]})
    assert found["crash"] == found["crash again"] == Failure("its process ended with signal SIGSEGV")
    assert found["leave"] == Failure("its process ended with exit code 3")
    assert found["loop"] == Failure("it did not end: it was stopped after 0.5 s")
    for seconds in (found["right"], again["right"]):
        assert isinstance(seconds, float)
        assert 0 < seconds < 0.1


def test_a_crash_while_times_are_taken_is_an_error_that_names_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = compiled_c(FAILING["crash"], tmp_path)
    told: list[tuple[int, int]] = []

    def all_crashing(self: X86, module: Module) -> dict[str, bytes]:
        return dict.fromkeys(module.kernels, crashing)

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    monkeypatch.setattr(X86, "compile_kernels", all_crashing)
    with pytest.raises(CodegenError, match=r"kernel @.* could not be timed: .* SIGSEGV") as caught:
        kernel_times(network(), progress=tell)
    assert caught.value.code == "kernel-wrong"
    assert told == []


class Failing(FakeWatch):
    """All kernels of one algorithm fail, or all there are."""

    def __init__(self, algorithm: str = "") -> None:
        super().__init__(preferring(algorithm))
        self.algorithm = algorithm

    def __call__(self, kernels: Mapping[str, Timed]) -> dict[str, float | Failure]:
        names = {name: str(timed.kernel.attributes["algorithm"]) for name, timed in kernels.items()}
        failed = Failure("its process ended with signal SIGSEGV")
        return {name: failed if each.startswith(self.algorithm) else 1e-3 for name, each in names.items()}


@pytest.mark.usefixtures("no_code")
def test_what_failed_is_noted_and_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    predicted, _ = conv_choice(lowered(None))
    gain = tuned(path, Failing(predicted))
    assert {(each.algorithm, each.reason) for each in gain.failed} == {
        (predicted, "its process ended with signal SIGSEGV")
    }
    assert 0 < gain.measured < 1
    assert tuned(path, FakeWatch(preferring(predicted))).failed == gain.failed  # noted: nothing is left to do
    assert conv_choice(lowered(path))[0] not in ("", predicted)
    with pytest.raises(InvalidInput, match=f"{predicted} cannot be used: .* its kernel failed: .*SIGSEGV"):
        lowered(path, conv=predicted)


@pytest.mark.usefixtures("no_code")
def test_where_all_that_was_measured_failed_something_else_is_taken(tmp_path: Path) -> None:
    gain = tuned(tmp_path / "t.json", Failing())
    assert gain.measured == 0
    algorithm, _ = conv_choice(lowered(tmp_path / "t.json"))
    assert algorithm
    assert algorithm not in {each.algorithm for each in gain.failed}


# ---------------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.usefixtures("no_code")
def test_the_fastest_algorithm_is_taken(algorithm: str, tmp_path: Path) -> None:
    tuned(tmp_path / "t.json", FakeWatch(preferring(algorithm)))
    assert conv_choice(lowered(tmp_path / "t.json"))[0] == algorithm


@pytest.mark.usefixtures("no_code")
def test_an_error_limit_forbids_what_is_fastest(tmp_path: Path) -> None:
    tuned(tmp_path / "t.json", FakeWatch(preferring("winograd4")))
    bound = 5e-6
    assert conv_choice(lowered(tmp_path / "t.json"))[0] == "winograd4"
    assert not conv_choice(lowered(tmp_path / "t.json", max_error=bound))[0].startswith("winograd")


@pytest.mark.parametrize("algorithm", ["direct", "direct_plain", "winograd2", "winograd4", "matmul"])
def test_every_tile_computes_the_same(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch(preferring(algorithm))
    without_code(tmp_path / "all.json", watch, monkeypatch)
    tiles = [tile for ways in watch.asked for name, tile in ways if name == algorithm]
    if not tiles:
        pytest.skip(f"{algorithm} is predicted to be far off here")
    tuning = read_tuning(tmp_path / "all.json")
    path = tmp_path / "one.json"
    one = Tuning(tuning.target)
    for key, measured in tuning.kernels.items():
        one.add(key, [each for each in measured if each.tile == tiles[-1] and each.algorithm == algorithm])
    one.write(path)
    with rtcc.compile(network(), "x86", tuned=path, verify_kernels=True) as artifact:
        x = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
        (found,) = artifact.run({"x": x}).values()
        (expected,) = rtcc.interpret(network(), {"x": x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_artefacts_say_what_they_were_tuned_by_and_are_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_code(tmp_path / "t.json", FakeWatch(preferring("winograd2")), monkeypatch)
    name = read_tuning(tmp_path / "t.json").hash
    contents: list[bytes] = []
    for _ in range(2):
        with rtcc.compile(network(), "x86", tuned=tmp_path / "t.json") as artifact:
            assert artifact.info.target.endswith(f",tuned={name}")
            contents.append(artifact.path.read_bytes())
    assert contents[0] == contents[1]


def test_dumps_say_what_was_measured_and_are_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_code(tmp_path / "t.json", FakeWatch(preferring("winograd2")), monkeypatch)
    monkeypatch.setenv("RTCC_CACHE", str(tmp_path / "cache"))
    with rtcc.compile(network(), "x86", tuned=tmp_path / "t.json", dump_ir=tmp_path / "ir") as artifact:
        whole = artifact.path.read_bytes()
    (dump,) = (tmp_path / "ir").glob("*-select-conv.rtir")
    assert "measured = 1e-06" in dump.read_text()
    assert f"tuned={read_tuning(tmp_path / 't.json').hash}" in dump.read_text().splitlines()[0]
    named = dump.rename(tmp_path / "ir" / "model.rtir")
    monkeypatch.setattr(store, "_KEPT", {})
    with rtcc.compile(named) as artifact:
        assert artifact.path.read_bytes() == whole
    monkeypatch.setattr(store, "_KEPT", {})
    monkeypatch.setenv("RTCC_CACHE", str(tmp_path / "another"))
    parse_target.cache_clear()
    with pytest.raises(InvalidInput, match="are not known on this machine"):
        rtcc.compile(named)
    with rtcc.compile(named, tuned=tmp_path / "t.json") as artifact:
        assert artifact.path.read_bytes() == whole


@pytest.mark.usefixtures("no_code")
def test_measured_stands_beside_predicted(tmp_path: Path) -> None:
    tuned(tmp_path / "t.json", FakeWatch(preferring("winograd2")))
    compilation = start(network(), Options(target=TARGET, tuned=tmp_path / "t.json", explain=True))
    compilation.lower()
    assert compilation.report is not None
    text = decisions_text(compilation.report.decisions)
    (taken,) = (line for line in text.splitlines() if "→ winograd2" in line)
    assert "measured 1.00" in taken
    rows = json.loads(decisions_json(compilation.report.decisions))["layers"][0]["candidates"]
    assert {row["algorithm"]: row.get("measured") for row in rows}["direct"] == 1e-3


# ---------------------------------------------------------------------------------------------- wrong files


def damaged(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("{", "", "tuning-damaged"),
        ("0.001", "0.002", "tuning-damaged"),
        ("0.001", '"fast"', "tuning-damaged"),
        ("direct 1", "direct x", "tuning-damaged"),
        ('"kernels"', '"colonels"', "tuning-damaged"),
        (f'"rtcc": "{rtcc.__version__}"', '"rtcc": "0.0.9"', "tuning-version"),
        ('"rtcc tuning": 2', '"rtcc tuning": 3', "tuning-version"),
    ],
)
@pytest.mark.usefixtures("no_code")
def test_a_wrong_file_is_refused(old: str, new: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tuned(path, FakeWatch(preferring("winograd2")))
    damaged(path, old, new)
    for act in (lambda: lowered(path), lambda: tuned(path, FakeWatch(preferring("direct")))):
        with pytest.raises(InvalidInput) as error:
            act()
        assert error.value.code == code


@pytest.mark.usefixtures("no_code")
def test_another_target_s_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tuned(path, FakeWatch(preferring("direct")))
    with pytest.raises(InvalidInput, match=r"measured for x86:znver5, .* compiled for x86:znver5,threads=2"):
        lowered(path, threads=2)
    with pytest.raises(InvalidInput, match="holds measurements for x86:znver5"):
        tune(network(), path, "x86:znver4", watch=FakeWatch(preferring("direct")))


def test_a_module_past_the_choice_cannot_be_tuned(tmp_path: Path) -> None:
    write_module(lowered(None), tmp_path / "plan.rtir")
    with pytest.raises(InvalidInput, match="are chosen already, the module is at level plan") as caught:
        tune(tmp_path / "plan.rtir", tmp_path / "t.json")
    assert caught.value.code == "wrong-level"


def test_a_folder_that_is_not_there_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        tune(network(), tmp_path / "nowhere" / "t.json", TARGET)
