"""Lowered dumps with edited algorithms, tiles, layouts, halos: typed errors, no crashes or wrong answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rtcc.compiler import Options, start
from rtcc.errors import RtccError
from rtcc.ir import Constant, DType, Graph, Location, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.nn import Conv, MatMul
from rtcc.ir.ops.pooling import MaxPool
from rtcc.passes.select_conv import SelectConv
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.target import parse_target
from rtcc.targets.tvm.lower.compile import lower_kernel
from rtcc.text import parse_module, read_module

TARGET = "x86:skylake-avx512"


def network(taps: int = 3) -> Module:
    """A first layer, a padded convolution of so many taps and a depthwise one, a pool and a product."""
    random = np.random.default_rng(0)
    module = Module(target=TARGET)

    def constant(name: str, *shape: int) -> Constant:
        return module.add_constant(name, random.standard_normal(shape).astype(np.float32))

    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 3, 12, 12)))]))
    first = graph.append(
        Conv(graph.parameters[0], constant("w1", 20, 3, 3, 3), constant("b1", 20), pads=(1,) * 4)
    )
    relu = graph.append(Relu(first.result))
    weight, pads = constant("w2", 24, 20, taps, taps), (taps // 2,) * 4
    second = graph.append(Conv(relu.result, weight, pads=pads, location=Location(("second",))))
    third = graph.append(Conv(second.result, constant("w3", 24, 1, 3, 3), pads=(1,) * 4, group=24))
    pool = graph.append(MaxPool(third.result, kernel_shape=(2, 2), strides=(2, 2)))
    graph.return_(graph.append(MatMul(pool.result, constant("w4", 6, 35))).result)
    return module


def dumped(module: Module, folder: Path, *layers: str) -> Path:
    """The dump after outline-kernels; layers: `NODE=ALGORITHM`."""
    passes = parse_pipeline(parse_target(TARGET).pipeline("-O2"))
    chosen = [SelectConv(layers=layers) if isinstance(each, SelectConv) else each for each in passes]
    run_pipeline(module, chosen, RunOptions(dump_dir=folder))
    (path,) = folder.glob("*-outline-kernels.rtir")
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of a network without Winograd's algorithm."""
    return dumped(network(), tmp_path_factory.mktemp("dump"), "second=direct")


@pytest.fixture(scope="module")
def winograd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of the network with it."""
    return dumped(network(), tmp_path_factory.mktemp("winograd"), "second=winograd4")


@pytest.fixture(scope="module")
def fft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of a network of larger filters with Fourier transforms."""
    return dumped(network(7), tmp_path_factory.mktemp("fft"), "second=fft")


DIRECT, TILE = 'algorithm = "direct"', "tile = [12,2,0,12,1]"
ACTIVATION, HALO = "NC/16HWc16", "halo=[1,1,1,1]"
SECOND, FOURTH, PRODUCT = "{N/32C/16HWc16n32}", "{C/48Nc48}", "tile = [9,3,1,16]"

EDITS = {
    "an unknown algorithm": (DIRECT, 'algorithm = "quick"', "bad-algorithm"),
    "an algorithm of another kind": (DIRECT, "algorithm = 3", "bad-algorithm"),
    "a product's algorithm": (DIRECT, 'algorithm = "matmul"', "bad-algorithm"),
    "a convolution's algorithm": ('algorithm = "matmul"', DIRECT, "bad-algorithm"),
    "an algorithm that is not legal": ('algorithm = "depthwise"', DIRECT, "bad-algorithm"),
    "an algorithm over plain data": (DIRECT, 'algorithm = "direct_plain"', "bad-layout"),
    "no algorithm": (f"{DIRECT}, ", "", "bad-tile"),
    "no tile": (f", {TILE}", "", "bad-tile"),
    "a short tile": (TILE, "tile = [12,2]", "bad-tile"),
    "a long tile": (PRODUCT, "tile = [9,3,1,16,4]", "bad-tile"),
    "a tile of words": (TILE, 'tile = ["a"]', "bad-tile"),
    "a tile of nothing": (TILE, "tile = [0,2,0,12,1]", "bad-tile"),
    "a negative tile": (TILE, "tile = [12,2,-7,12,1]", "bad-tile"),
    "plain weights": (SECOND, "", "bad-algorithm"),
    "weights in other blocks": (SECOND, "{N/32C/8HWc8n32}", "bad-layout"),
    "lanes exchanged": (SECOND, "{N/32C/16HWn32c16}", "bad-layout"),
    "taps exchanged": (SECOND, "{N/32C/16WHc16n32}", "bad-layout"),
    "blocks exchanged": (FOURTH, "{NC/48c48}", "bad-layout"),
    "a bias in other blocks": ("{C/16c16}", "{C/8c8}", "bad-layout"),
    "activations in other blocks": (ACTIVATION, "NC/8HWc8", "bad-layout"),
    "activations in another order": (ACTIVATION, "NHWC/16c16", "bad-layout"),
    "rows and columns exchanged": (ACTIVATION, "NC/16WHc16", "bad-layout"),
    "no halo": (f" {HALO}", "", "bad-layout"),
    "a narrow halo": (HALO, "halo=[1,0,1,1]", "bad-layout"),
    "a halo of two numbers": (HALO, "halo=[1,1]", "bad-literal"),
    "a negative halo": (HALO, "halo=[-1,1,1,1]", "bad-literal"),
    "a blocked input": ("%x: f32[1,3,12,12]", "%x: f32[1,3,12,12]{NC/16HWc16}", "invalid-ir"),
}


def edited(dump: Path, old: str, new: str) -> Path:
    text = dump.read_text()
    assert old in text, f"the dump has no {old}:\n{text}"
    path = dump.with_name("edited.rtir")
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_dump_is_refused(dump: Path, name: str) -> None:
    old, new, code = EDITS[name]
    with pytest.raises(RtccError) as raised:
        start(edited(dump, old, new), Options())
    assert raised.value.code == code
    assert "kernel @" in raised.value.message or code in ("bad-literal", "invalid-ir")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('algorithm = "winograd4"', 'algorithm = "winograd2"', "bad-algorithm"),
        ('algorithm = "winograd4"', DIRECT, "bad-algorithm"),
        ("outputs = [4,4]", "outputs = [2,2]", "invalid-ir"),
        ("HWCn32}", "WHCn32}", "bad-layout"),
        (HALO, "halo=[1,1,1,0]", "bad-layout"),
    ],
)
def test_an_edited_dump_of_winograd_s_is_refused(winograd: Path, old: str, new: str, code: str) -> None:
    with pytest.raises(RtccError) as raised:
        start(edited(winograd, old, new), Options())
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('algorithm = "fft"', 'algorithm = "winograd4"', "bad-algorithm"),
        ('algorithm = "fft"', DIRECT, "bad-algorithm"),
        ("points = [20,12]", "points = [20,16]", "invalid-ir"),
        ("points = [20,12]", "points = [14,12]", "invalid-ir"),
        ("kernel_shape = [7,7]", "kernel_shape = [5,7]", "invalid-ir"),
        ("HCWn", "CHWn", "bad-layout"),
        (ACTIVATION, "NC/8HWc8", "bad-layout"),
    ],
)
def test_an_edited_dump_of_fourier_s_is_refused(fft: Path, old: str, new: str, code: str) -> None:
    with pytest.raises(RtccError) as raised:
        start(edited(fft, old, new), Options())
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TILE, "tile = [12,1,0,12,1]"),
        (TILE, "tile = [12,2,0,12,100]"),
        (TILE, "tile = [1000000,2,0,12,1]"),
        (PRODUCT, "tile = [9,2,1,16]"),
        (PRODUCT, "tile = [9,3,77,16]"),
        (PRODUCT, "tile = [100000,3,1,16]"),
        (FOURTH, "{C/16Nc16}"),
    ],
)
def test_a_tile_that_cannot_be_is_refused_by_code_generation(dump: Path, old: str, new: str) -> None:
    module = start(edited(dump, old, new), Options()).module
    refused = [kernel for kernel in module.kernels.values() if refusal(kernel)]
    assert [refusal(kernel) for kernel in refused] == ["bad-tile"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((1000, 1, 1, 1), "it keeps [0-9]+ vectors, expected at most 256"),
        ((1, 1, 10**6, 1), "there are [0-9]+"),
        ((1, 1, 1, 10**9), "have no 1000000000 parts"),
    ],
)
@pytest.mark.parametrize("algorithm", ["winograd4", "fft"])
def test_blocks_of_transformed_tiles_that_cannot_be(
    request: pytest.FixtureRequest, algorithm: str, change: tuple[int, ...], reason: str
) -> None:
    dump: Path = request.getfixturevalue(algorithm.rstrip("4"))
    found = re.search(rf'algorithm = "{algorithm}", tile = \[([0-9,]+)\]', dump.read_text())
    assert found is not None
    numbers = list(map(int, found[1].split(",")))
    new = [number * factor for number, factor in zip(numbers, change, strict=True)]
    old, text = found[0], found[0].replace(found[1], ",".join(map(str, new)))
    module = start(edited(dump, old, text), Options()).module
    (kernel,) = (each for each in module.kernels.values() if each.attributes.get("tile") == tuple(new))
    with pytest.raises(RtccError, match=reason) as raised:
        lower_kernel(kernel, parse_target(TARGET))
    assert (raised.value.code, raised.value.where) == ("bad-tile", "second")


@pytest.mark.parametrize("new", ["scratch_bytes = 64", "scratch_bytes = 0"])
def test_a_plan_with_too_little_scratch_is_refused(winograd: Path, new: str) -> None:
    """The kernel would write past it, over another tensor."""
    (plan,) = winograd.parent.glob("*-plan-memory.rtir")
    found = re.search(r"scratch_bytes = [0-9]+", plan.read_text())
    assert found is not None
    start(plan, Options())
    with pytest.raises(RtccError, match="bytes of scratch, it takes") as raised:
        start(edited(plan, found[0], new), Options())
    assert raised.value.code == "bad-scratch"


def refusal(kernel: Graph) -> str:
    """The code of the error that lowering a kernel meets, "" where it is lowered."""
    try:
        lower_kernel(kernel, parse_target(TARGET))
    except RtccError as error:
        return error.code
    return ""


def test_other_choices_that_fit_together_are_taken(dump: Path) -> None:
    assert start(dump, Options()).module.level == "kernels"
    for old, new in ((TILE, "tile = [5,2,1,3,1]"), (HALO, "halo=[3,2,1,4]")):
        start(edited(dump, old, new), Options())


RESIDUAL = """// rtir 1  level=graph  target=x86:skylake-avx512
const #w : f32[16,16,1,1] = splat(0.25)
graph @main(%x: f32[1,16,8,8], %r: f32[1,16,8,8]) {
  %a = nn.conv(%x, #w) : f32[1,16,8,8] loc("conv")
  %y = math.add(%a, %r) : f32[1,16,8,8] loc("residual")
  return(%y)
}
"""


def test_what_is_added_to_a_result_in_blocks_must_lie_in_blocks(tmp_path: Path) -> None:
    """A micro-kernel reads it by vectors of channels: plain rows would be taken for them."""
    module = parse_module(RESIDUAL)
    run_pipeline(module, "fuse,select-conv{conv=direct},select-layout", RunOptions(dump_dir=tmp_path))
    path = tmp_path / "03-select-layout.rtir"
    text = path.read_text()
    given, taken = "%r.blocked) {algorithm", "%r_1: f32[1,16,8,8]{NC/16HWc16})"
    assert given in text
    assert taken in text
    assert start(path, Options()).module.level == "fused"
    path.write_text(text.replace(given, "%r) {algorithm").replace(taken, "%r_1: f32[1,16,8,8])"))
    with pytest.raises(RtccError, match="goes with a result") as raised:
        start(path, Options())
    assert raised.value.code == "bad-layout"


def test_a_grouped_convolution_s_tile_must_divide_its_groups(tmp_path: Path) -> None:
    """Tiles across groups would add up the wrong channels."""
    random = np.random.default_rng(0)
    module = Module(target=TARGET)
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 64, 6, 6)))]))
    weight = module.add_constant("w", random.standard_normal((96, 32, 3, 3)).astype(np.float32))
    graph.return_(
        graph.append(Conv(graph.parameters[0], weight, group=2, location=Location(("grouped",)))).result
    )
    path = dumped(module, tmp_path, "grouped=direct")
    kernels = read_module(path).kernels
    (kernel,) = (each for each in kernels.values() if each.attributes.get("algorithm") == "direct")
    tile = kernel.attributes["tile"]
    assert 3 % tile[1] == 0
    text = path.read_text().replace(f"tile = [{tile[0]},{tile[1]},", f"tile = [{tile[0]},2,")
    path.write_text(text.replace(f"N/{16 * tile[1]}", "N/32").replace(f"n{16 * tile[1]}", "n32"))
    changed = start(path, Options()).module.kernels[kernel.name]
    with pytest.raises(RtccError, match="do not divide") as raised:
        lower_kernel(changed, parse_target(TARGET))
    assert raised.value.code == "bad-tile"
