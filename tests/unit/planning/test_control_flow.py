"""Control flow compiled to plan.if and plan.loop: artefact, interpreted plan and ONNX Runtime agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from benchmarks.models.reference import onnxruntime_outputs
from rtcc.artifact import Artifact
from rtcc.compiler import Options, start, write
from rtcc.errors import Unsupported
from rtcc.interpreter import interpret
from rtcc.ir import Module

Feeds = dict[str, NDArray[Any]]
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

CASES: dict[str, tuple[str, list[Feeds]]] = {
    "if": (
        """main (bool c, float[2,3] x) => (float[2,3] y, float[2,3] z) {
             y0, z = If (c) <then_branch = a () => (float[2,3] p, float[2,3] q) { p = Exp(x)  q = Add(p, x) },
                             else_branch = b () => (float[2,3] r, float[2,3] s) { s = Neg(x)  r = Mul(s, s) }>
             y = Add(y0, x)
           }""",
        [{"c": np.array(True), "x": X}, {"c": np.array(False), "x": X}],
    ),
    "if-returns-outer-values": (
        """main (bool c, float[2,3] x) => (float[2,3] y, float[2,3] z) {
             t = Exp(x)
             y, z = If (c) <then_branch = a () => (float[2,3] p, float[2,3] q)
                                { p = Identity(t)  q = Identity(t) },
                            else_branch = b () => (float[2,3] r, float[2,3] s)
                                { r = Identity(x)  s = Relu(x) }>
           }""",
        [{"c": np.array(True), "x": X}, {"c": np.array(False), "x": X}],
    ),
    "nested-if": (
        """main (bool c, bool d, float[2,3] x) => (float[2,3] y) {
             t = Exp(x)
             u = If (c) <then_branch = a () => (float[2,3] p) {
                            p = If (d) <then_branch = e () => (float[2,3] g) { g = Add(t, x) },
                                        else_branch = f () => (float[2,3] h) { k = Sin(t)  h = Mul(k, t) }> },
                         else_branch = b () => (float[2,3] r) { r = Neg(x) }>
             y = Mul(u, t)
           }""",
        [{"c": np.array(c), "d": np.array(d), "x": X} for c in (True, False) for d in (True, False)],
    ),
    "loop": (
        """main (float[2,3] x) => (float[2,3] y) <int64 n = {5}> {
             y = Loop (n, , x) <body = b (int64 i, bool c, float[2,3] s) => (bool k, float[2,3] t)
                 { k = Identity(c)  f = Cast<to = 1>(i)  u = Add(s, f)  t = Tanh(u) }>
           }""",
        [{"x": X}],
    ),
    "loop-with-condition": (
        """main (float[2,3] x) => (float[2,3] y) <int64 n = {50}, bool yes = {1}, float limit = {40.0}> {
             y = Loop (n, yes, x) <body = b (int64 i, bool c, float[2,3] s) => (bool k, float[2,3] t)
                 { t = Add(s, s)  m = ReduceMax<keepdims = 0>(t)  k = Less(m, limit) }>
           }""",
        [{"x": X}, {"x": -X}],
    ),
    "loop-not-entered": (
        """main (bool go, float[2,3] x) => (float[2,3] y) <int64 n = {4}> {
             y = Loop (n, go, x) <body = b (int64 i, bool c, float[2,3] s) => (bool k, float[2,3] t)
                 { k = Identity(c)  t = Add(s, x) }>
           }""",
        [{"go": np.array(True), "x": X}, {"go": np.array(False), "x": X}],
    ),
    "loop-swaps": (
        """main (float[2,3] x) => (float[2,3] y, float[2,3] z, float[2,3] w) <int64 n = {5}> {
             a = Exp(x)
             e = Neg(x)
             y, z, w = Loop (n, , x, a, e)
                 <body = b (int64 i, bool c, float[2,3] p, float[2,3] q, float[2,3] r)
                      => (bool k, float[2,3] u, float[2,3] v, float[2,3] s)
                 { k = Identity(c)  u = Identity(q)  v = Identity(r)  s = Identity(p) }>
           }""",
        [{"x": X}],
    ),
    "fibonacci": (
        """main (float[2,3] x) => (float[2,3] y, float[2,3] z) <int64 n = {7}> {
             y, z = Loop (n, , x, x) <body = b (int64 i, bool c, float[2,3] p, float[2,3] q)
                 => (bool k, float[2,3] u, float[2,3] v) { k = Identity(c)  u = Identity(q)  v = Add(p, q) }>
           }""",
        [{"x": X}],
    ),
    "stacked-results": (
        """main (float[2,3] x) => (float[2,3] y, float[4,2,3] z) <int64 n = {4}> {
             y, z = Loop (n, , x) <body = b (int64 i, bool c, float[2,3] s)
                 => (bool k, float[2,3] t, float[2,3] u) { k = Identity(c)  t = Sin(s)  u = Add(s, x) }>
           }""",
        [{"x": X}],
    ),
    "loop-in-loop": (
        """main (float[2,3] x) => (float[2,3] y, float[3,2,3] z) <int64 n = {3}, int64 m = {2}> {
             t = Exp(x)
             y, z = Loop (n, , x) <body = b (int64 i, bool c, float[2,3] s)
                 => (bool k, float[2,3] u, float[2,3] w) {
                 k = Identity(c)
                 u = Loop (m, , s) <body = d (int64 j, bool e, float[2,3] p) => (bool f, float[2,3] q)
                     { f = Identity(e)  g = Add(p, t)  q = Tanh(g) }>
                 w = Mul(u, s) }>
           }""",
        [{"x": X}],
    ),
    "if-in-loop": (
        """main (float[2,3] x) => (float[2,3] y) <int64 n = {4}, int64 two = {2}, int64 zero = {0}> {
             y = Loop (n, , x) <body = b (int64 i, bool c, float[2,3] s) => (bool k, float[2,3] u) {
                 k = Identity(c)
                 r = Mod(i, two)
                 even = Equal(r, zero)
                 u = If (even) <then_branch = e () => (float[2,3] g) { g = Add(s, x) },
                                else_branch = f () => (float[2,3] h) { h = Mul(s, x) }> }>
           }""",
        [{"x": X}],
    ),
    "scan": (
        """main (float[3] h, float[4,3] x) => (float[3] y, float[4,3] z) {
             y, z = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] t, float[3] u)
                 { a = Add(s, e)  t = Tanh(a)  u = Mul(t, e) }> (h, x)
           }""",
        [{"h": X[0], "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}],
    ),
    "scan-backward-along-other-axes": (
        """main (float[3] h, float[3,4] x, float[4,3] v) => (float[3] y, float[3,4] z, float[4,3] w) {
             y, z, w = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
                             scan_output_axes = [1, 0], scan_output_directions = [0, 1],
                 body = b (float[3] s, float[3] e, float[3] g) => (float[3] t, float[3] u, float[3] o)
                 { a = Add(s, e)  t = Mul(a, g)  u = Identity(t)  o = Sub(e, g) }> (h, x, v)
           }""",
        [
            {
                "h": X[0],
                "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
                "v": np.linspace(0, 2, 12, dtype=np.float32).reshape(4, 3),
            }
        ],
    ),
}  # fmt: skip


def lowered(text: str, level: str = "-O2") -> Any:
    model = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    compilation = start(model.SerializeToString(), Options(target="x86", pipeline=level, verify_each=True))
    compilation.lower()
    return model, compilation


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("name", CASES)
def test_plan_and_artifact_agree_with_onnxruntime(name: str, level: str, tmp_path: Any) -> None:
    text, rounds = CASES[name]
    model, compilation = lowered(text, level)
    artifact = Artifact(write(compilation, tmp_path / "m.so"))
    for feeds in rounds:
        expected = onnxruntime_outputs(model, feeds)
        planned = interpret(compilation.module, feeds)
        found = artifact.run(feeds)
        for output, array in expected.items():
            np.testing.assert_allclose(planned[output], array, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found[output], array, rtol=1e-5, atol=1e-6)


def ops(module: Module) -> list[str]:
    return [op.name for op in module.main.walk()]


def test_control_flow_becomes_plan_operators() -> None:
    _, compilation = lowered(CASES["if-in-loop"][0])
    assert {"plan.loop", "plan.if"} <= set(ops(compilation.module))


def test_stacks_are_written_in_place() -> None:
    """The carried stack and the result of each scatter have one place: no round copies it."""
    _, compilation = lowered(CASES["stacked-results"][0])
    module = compilation.module
    (loop,) = (op for op in module.main.ops if op.name == "plan.loop")
    scatters = [
        op
        for op in loop.regions[0].ops
        if op.name == "plan.launch"
        and next(module.kernels[op.attributes["kernel"]].ops).name == "tensor.tensor_scatter"
    ]
    assert [op.attributes["places"][0] for op in scatters] == [loop.attributes["places"][1]]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            """main (int64 n, float[3] x) => (float[3] y) {
                 y = Loop (n, , x) <body = b (int64 i, bool c, float[3] s) => (bool k, float[3] t)
                     { k = Identity(c)  t = Add(s, s) }> }""",
            "unbounded-loop",
        ),
        (
            """main (float[3] x) => (float[3] y) <bool yes = {1}, float limit = {40.0}> {
                 y = Loop ( , yes, x) <body = b (int64 i, bool c, float[3] s) => (bool k, float[3] t)
                     { t = Add(s, s)  m = ReduceMax<keepdims = 0>(t)  k = Less(m, limit) }> }""",
            "unbounded-loop",
        ),
        (
            """main (float[3] x) => (float[N,3] y) <bool yes = {1}, float limit = {40.0}> {
                 z, y = Loop ( , yes, x) <body = b (int64 i, bool c, float[3] s)
                     => (bool k, float[3] t, float[3] u)
                     { t = Add(s, s)  m = ReduceMax<keepdims = 0>(t)  k = Less(m, limit)  u = Exp(s) }> }""",
            "unbounded-loop",
        ),
    ],
)  # fmt: skip
def test_refusals_are_typed(text: str, code: str) -> None:
    with pytest.raises(Unsupported) as caught:
        lowered(text)
    assert caught.value.code == code
