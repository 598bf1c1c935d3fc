"""Real networks, compiled, give what ONNX Runtime and the float64 reference give.

The tolerances and their reasons stand in benchmarks/accuracy.py: at most four times as far from the exact
answer as ONNX Runtime is, or 2e-5 of the largest magnitude. Besides, no output may be further than `APART`
of the largest magnitude from ONNX Runtime's, unless that is itself far from the exact one (PP-OCR's detector
is nearly 0 everywhere on noise, and ONNX Runtime then 0.6 % off).

A sample runs always, the rest with `-m slow`.
"""

from typing import Any

import pytest

from benchmarks.accuracy import measure
from benchmarks.models.real import REAL, SMALL
from rtcc.compiler import Options, start
from rtcc.errors import RtccError

APART = 1e-4
SAMPLE = (
    "lenet-demo",
    "small-resnet18",
    "narrow-resnet18",
    "small-mobilenetv2",
    "small-minilm",
    "light-squeezenet",
    "ppocr-cls",
)
CHECKED = ("lenet-demo", "small-resnet18", "small-minilm", "magika", "ppocr-cls", "resnet18")


def marked(names: Any, *, quick: tuple[str, ...]) -> list[Any]:
    """The names as parameters of a test; those not in `quick` are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(REAL, quick=SAMPLE))
def test_network_is_right(name: str) -> None:
    found = measure(REAL[name])
    assert found.is_right, found
    assert found.from_onnxruntime <= max(APART, 2 * found.onnxruntime_from_exact), found


@pytest.mark.parametrize("cpu", ["znver5", "x86-64-v3"])
def test_the_quick_networks_have_the_kernels_of_large_ones(cpu: str) -> None:
    """Small sizes could leave an algorithm out, and then no quick test of a whole network would run it."""
    found: dict[str, set[str]] = {}
    for name in SAMPLE:
        compilation = start(REAL[name].module(), Options(target=f"x86:{cpu}"))
        compilation.lower()
        kernels = compilation.module.kernels.values()
        found[name] = {op.name for kernel in kernels for op in kernel.walk()}
        found[name] |= {str(kernel.attributes.get("algorithm")) for kernel in kernels}
    assert "nn.token_attention" in found["small-minilm"]
    assert "nn.softmax" not in found["small-minilm"]
    assert {"direct", "direct_plain"} <= found["small-resnet18"]
    assert "depthwise" in found["small-mobilenetv2"]
    assert {"generic", "matmul", "winograd2", "winograd3", "winograd4"} <= set().union(*found.values())


@pytest.mark.parametrize("name", marked(CHECKED, quick=("lenet-demo",)))
def test_every_pass_and_every_kernel_keeps_the_arithmetic(name: str) -> None:
    compilation = start(REAL[name].module(), Options(verify_each=True, verify_kernels=True))
    compilation.lower()
    compilation.generate("model")


def test_a_network_of_open_sizes_is_refused() -> None:
    """No sizes for a symbolic input: refused by name, with the option that helps."""
    compilation = start(SMALL["ppocr-cls"].build(), Options())
    with pytest.raises(RtccError) as raised:
        compilation.lower()
    assert raised.value.code == "unbound-dimension"
    assert "--dim x_0=1" in (raised.value.hint or "")
