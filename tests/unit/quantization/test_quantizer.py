"""Whole models: what is exported runs in ONNX Runtime, calibration goes on where it stopped, and errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rtcc
from rtcc.data import from_arrays, open_data
from rtcc.errors import InvalidInput, RtccError
from rtcc.ir import Module
from rtcc.passes.quantize import Quantize
from rtcc.pipeline.catalogue import NAMED_PIPELINES
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pipeline.text import parse_pipeline, print_pipeline
from rtcc.quantization import end_to_end, quantizer
from rtcc.quantization.calibration.collection import Collecting, collect
from rtcc.quantization.end_to_end import Quantized
from rtcc.quantization.placement import place
from rtcc.quantization.reporting.report import make_report
from rtcc.quantization.scheme import Scheme, Settings
from rtcc.quantization.weights import signal_to_noise
from rtcc.text import parse_module, read_module


def network(more: str = "", results: str = "%y") -> Module:
    """Convolution, residual block, pool, product: every kind of pair, with a channel of zeros and biases.

    more: operators after them.
    """
    module = parse_module(
        "// rtir 1  level=graph\n"
        "const #w1 : f32[8,3,3,3] = splat(0.0)\nconst #b1 : f32[8] = splat(0.0)\n"
        "const #w2 : f32[8,8,3,3] = splat(0.0)\nconst #w3 : f32[10,8] = splat(0.0)\n"
        "const #b3 : f32[10] = splat(0.0)\n"
        "graph @main(%x: f32[1,3,12,12]) {\n"
        '  %c1 = nn.conv(%x, #w1, #b1) {pads = [1,1,1,1]} : f32[1,8,12,12] loc("conv1")\n'
        "  %r1 = math.relu(%c1) : f32[1,8,12,12]\n"
        '  %c2 = nn.conv(%r1, #w2) {pads = [1,1,1,1]} : f32[1,8,12,12] loc("conv2")\n'
        "  %s = math.sigmoid(%r1) : f32[1,8,12,12]\n"
        "  %a = math.add(%c2, %s) : f32[1,8,12,12]\n"
        "  %r2 = math.relu(%a) : f32[1,8,12,12]\n"
        "  %p = nn.global_average_pool(%r2) : f32[1,8,1,1]\n"
        "  %f = tensor.flatten(%p) : f32[1,8]\n"
        '  %y = nn.gemm(%f, #w3, #b3) {transB = 1} : f32[1,10] loc("fc")\n'
        f"{more}  return({results})\n}}\n"
    )
    generator = np.random.default_rng(7)
    for name, constant in list(module.constants.items()):
        data = generator.standard_normal(constant.type.sizes).astype(np.float32) / 3
        if name == "w1":
            data[4] = 0
        constant.replace_uses(made := module.add_constant(f"{name}.filled", data))
        del module.constants[name]
        assert made.use_count
    return module


def pictures(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 12, 12)).astype(np.float32)}


def onnxruntime_answers(quantized: Quantized, folder: Path, feeds: dict[str, Any]) -> tuple[Any, list[str]]:
    """What ONNX Runtime computes for each sample, and its operators once it has fused them."""
    import onnx as plain_onnx
    import onnxruntime as plain_onnxruntime

    onnx: Any = plain_onnx
    onnxruntime: Any = plain_onnxruntime
    path, fused = folder / "model.onnx", folder / "fused.onnx"
    quantized.write(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(fused)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(path, options)
    answers = [session.run(None, {"x": each[None]})[0] for each in feeds["x"]]
    return np.concatenate(answers), [node.op_type for node in onnx.load(fused).graph.node]


def interpreted(module: Module, feeds: dict[str, Any]) -> Any:
    return np.concatenate([rtcc.interpret(module, {"x": each[None]})["y"] for each in feeds["x"]])


def decibels(exact: Any, found: Any) -> float:
    return signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum()))


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 30),
        ({"calibration": "min-max"}, 30),
        ({"calibration": "entropy"}, 20),
        ({"calibration": "percentile", "percentile": 99.9}, 20),
        ({"activations": "s8", "form": "symmetric"}, 27),
        ({"activations": "i16", "form": "symmetric"}, 35),
        ({"form": "linear"}, 30),
        ({"weights": "normalized", "activations": "i16"}, 40),
        ({"per_channel": False}, 27),
        ({"placement": "every"}, 28),
    ],
)
def test_exported_models_run_in_onnxruntime_as_they_do_here(
    options: dict[str, Any], least: float, tmp_path: Path
) -> None:
    feeds = pictures(8)
    quantized = rtcc.quantize(network(), feeds, **options)
    exact, found = interpreted(quantized.float_module, feeds), interpreted(quantized.module, feeds)
    assert decibels(exact, found) > least
    answers, _ = onnxruntime_answers(quantized, tmp_path, feeds)
    assert decibels(found, answers) > 38 or np.abs(found - answers).max() < 1e-3 * np.abs(found).max()
    again = interpreted(rtcc.read(tmp_path / "model.onnx"), feeds)
    assert np.array_equal(found, again)


def test_onnxruntime_finds_integer_operators_in_what_is_exported(tmp_path: Path) -> None:
    _, operators = onnxruntime_answers(rtcc.quantize(network(), pictures(4)), tmp_path, pictures(1))
    assert operators.count("QLinearConv") == 1
    quantized = rtcc.quantize(network(), pictures(4), placement="every")
    _, operators = onnxruntime_answers(quantized, tmp_path, pictures(1))
    found = Counter(operators)
    assert found["QLinearConv"] == 2
    assert found["QLinearAdd"] == found["QGemm"] == found["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu"} & found.keys()


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"scheme": "dynamic"}, 35),
        ({"scheme": "weights-int8", "block": 0}, 40),
        ({"scheme": "weights-int4", "block": 4}, 15),
        ({"scheme": "float16"}, 60),
        ({"scheme": "bfloat16"}, 40),
    ],
)
def test_schemes_without_data(options: dict[str, Any], least: float, tmp_path: Path) -> None:
    feeds = pictures(4)
    quantized = rtcc.quantize(network(), **options)
    exact, found = interpreted(quantized.float_module, feeds), interpreted(quantized.module, feeds)
    assert decibels(exact, found) > least
    answers, _ = onnxruntime_answers(quantized, tmp_path, feeds)
    assert decibels(found, answers) > 50
    assert make_report(quantized).bytes_after < make_report(quantized).bytes_before


def test_text_reads_back_as_it_was(tmp_path: Path) -> None:
    quantized = rtcc.quantize(network(), pictures(4))
    quantized.write(tmp_path / "model.rtir")
    again = read_module(tmp_path / "model.rtir")
    assert np.array_equal(interpreted(again, pictures(2)), interpreted(quantized.module, pictures(2)))
    with pytest.raises(InvalidInput, match="unknown-suffix"):
        quantized.write(tmp_path / "model.txt")


@pytest.mark.parametrize("scheme", Scheme)
def test_the_pass_is_held_to_what_it_declares(scheme: Scheme, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", allow_pickle=False, **pictures(4))
    each = Quantize(scheme=scheme, data=str(tmp_path / "data.npz"))
    run_pipeline(network(), [each], RunOptions(verify_each=True))


@pytest.mark.parametrize("factor", [1 / 64, 1 / 8, 1 / 2, 64, 256])
def test_a_wrong_scale_is_more_than_the_pass_declares(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", allow_pickle=False, **pictures(4))
    real = quantizer.parameters

    def wrong(*words: Any) -> Any:
        found = real(*words)
        return replace(found, scale=(found.scale * factor).astype(found.scale.dtype))

    monkeypatch.setattr(quantizer, "parameters", wrong)
    each = Quantize(data=str(tmp_path / "data.npz"), bias_correction=False)
    with pytest.raises(RtccError, match="pass-changed-result"):
        run_pipeline(network(), [each], RunOptions(verify_each=True))


@pytest.mark.parametrize("size", [0.01, 1.0, 255.0])
def test_the_pass_is_held_to_it_on_its_own_data_and_ranges(size: float, tmp_path: Path) -> None:
    feeds = {name: (array * size).astype(array.dtype) for name, array in pictures(4).items()}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **feeds)
    run_pipeline(network(), [Quantize(data=str(tmp_path / "data.npz"))], RunOptions(verify_each=True))
    noise = np.random.default_rng(0)
    normal: dict[str, NDArray[Any]] = {
        name: noise.standard_normal(array.shape) for name, array in feeds.items()
    }
    each = Quantize(ranges=tuple(f"{name}={-size}:{size}" for name in feeds))
    for array in each.inputs(network(), normal).values():
        assert -size <= array.min() < -0.9 * size
        assert 0.9 * size < array.max() <= size


def test_the_graph_is_prepared_as_for_compiling() -> None:
    default = [each.name for each in parse_pipeline(NAMED_PIPELINES["-O2"])]
    prepared = [each.name for each in end_to_end.preparation()]
    left_out = {"convert-signedness", "lower-quantization", "keep-narrow", "raise-patterns"}
    assert prepared == [name for name in default if name not in left_out]
    assert left_out < set(default)


def test_options_of_passes_that_prepare_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = "keep-narrow,fold-constants,quantize{scheme=weights-int8,block=16},raise-patterns"
    monkeypatch.setitem(NAMED_PIPELINES, "-O2", passes)
    assert print_pipeline(end_to_end.preparation()) == "fold-constants,quantize{scheme=weights-int8,block=16}"


# -------------------------------------------------------------------------------------------- interruptions


class Stopped(Exception):
    """What stops a calibration in these tests."""


def stop_at(number: int) -> Any:
    def told(seen: int) -> None:
        if seen == number:
            raise Stopped

    return told


def test_an_interrupted_calibration_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    module, feeds = network(), pictures(9)
    data, values = from_arrays(feeds, module.main), list(place(module.main, Settings()).values)
    whole = collect(module, values, data, Collecting())
    state = tmp_path / "state"
    with pytest.raises(Stopped):
        collect(module, values, data, Collecting(state=state, progress=stop_at(5)))
    seen: list[int] = []
    rest = collect(module, values, data, Collecting(state=state, progress=seen.append))
    assert (rest.resumed, seen) == (5, [6, 7, 8, 9])
    for one, other in zip(whole.histograms, rest.histograms, strict=True):
        assert np.array_equal(one.counts, other.counts)
        assert (one.low, one.high, one.zeros) == (other.low, other.high, other.zeros)


def test_what_was_gathered_from_other_data_is_not_used(tmp_path: Path) -> None:
    module = network()
    values = list(place(module.main, Settings()).values)
    state = tmp_path / "state"
    with pytest.raises(Stopped):
        collect(module, values, from_arrays(pictures(9), module.main),
                Collecting(state=state, progress=stop_at(5)))  # fmt: skip
    other = from_arrays({"x": pictures(9)["x"] * 2}, module.main)
    assert collect(module, values, other, Collecting(state=state)).resumed == 0


def test_what_was_gathered_from_more_samples_than_asked_for_is_not_used(tmp_path: Path) -> None:
    module, state = network(), tmp_path / "state"
    data, values = from_arrays(pictures(9), module.main), list(place(module.main, Settings()).values)
    with pytest.raises(Stopped):
        collect(module, values, data, Collecting(state=state, progress=stop_at(5)))
    found = collect(module, values, data, Collecting(most=3, state=state))
    assert (found.samples, found.resumed) == (3, 0)
    for one, other in zip(
        found.histograms, collect(module, values, data, Collecting(most=3)).histograms, strict=True
    ):
        assert np.array_equal(one.counts, other.counts)


def test_a_script_that_gives_other_samples_starts_anew(tmp_path: Path) -> None:
    module, state, script, arrays = network(), tmp_path / "state", tmp_path / "samples.py", tmp_path / "a.npy"
    script.write_text(
        f"import numpy as np\ndef samples():\n    for each in np.load({str(arrays)!r}):\n"
        "        yield {'x': each[None]}\n"
    )
    values = list(place(module.main, Settings()).values)
    np.save(arrays, pictures(9)["x"])
    with pytest.raises(Stopped):
        collect(module, values, open_data(script, module.main), Collecting(state=state, progress=stop_at(5)))
    goes_on = collect(module, values, open_data(script, module.main), Collecting(state=state))
    assert (goes_on.samples, goes_on.resumed) == (9, 5)
    np.save(arrays, pictures(9)["x"] * 2)
    anew = collect(module, values, open_data(script, module.main), Collecting(state=state))
    assert (anew.samples, anew.resumed) == (9, 0)
    assert anew.histograms[0].high > goes_on.histograms[0].high


def test_data_are_opened_once_and_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, log = tmp_path / "samples.py", tmp_path / "log"
    script.write_text(
        f"import numpy as np\nwith open({str(log)!r}, 'a') as log: log.write('imported')\n"
        "def samples():\n    yield {'x': np.ones((1, 3, 12, 12), np.float32)}\n"
    )
    rtcc.quantize(network(), script)
    assert log.read_text().count("imported") == 1
    monkeypatch.setattr(end_to_end, "quantize_module", stop_at(0))
    with pytest.raises(InvalidInput, match="data-missing"):
        rtcc.quantize(network(), tmp_path / "none.npz", scheme="weights-int8")


@pytest.mark.parametrize("damage", ["torn", "stream", "single"])
def test_damaged_states_are_refused(damage: str, tmp_path: Path) -> None:
    module, state = network(), tmp_path / "state"
    data, values = from_arrays(pictures(3), module.main), list(place(module.main, Settings()).values)
    with pytest.raises(Stopped):
        collect(module, values, data, Collecting(state=state, progress=stop_at(2)))
    whole = bytearray(state.read_bytes())
    begin = 30 + int.from_bytes(whole[26:28], "little") + int.from_bytes(whole[28:30], "little")
    whole[begin : begin + 20] = b"\xff" * 20
    state.write_bytes({"torn": b"PK\x03\x04", "stream": bytes(whole), "single": b""}[damage])
    if damage == "single":
        with state.open("wb") as stream:
            np.save(stream, np.zeros(3))
    with pytest.raises(InvalidInput, match="calibration-damaged"):
        collect(module, values, data, Collecting(state=state))


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("feeds", "options", "code"),
    [
        (None, {}, "no-data"),
        (pictures(0), {}, "no-data"),
        ({"x": pictures(2)["x"] * np.nan}, {}, "data-not-finite"),
        ({"x": pictures(2)["x"][:, :1]}, {}, "data-shape"),
        ({"x": pictures(2)["x"].clip(-1, 1) * np.float32(3e38)}, {}, "activation-not-finite"),
        (pictures(2), {"calibration": "magic"}, "quantize-option"),
        (pictures(2), {"colour": "red"}, "quantize-option"),
        (pictures(2), {"samples": -1}, "quantize-option"),
        (pictures(2), {"samples": "2"}, "quantize-option"),
        (pictures(2), {"min_sqnr": "30"}, "quantize-option"),
        (pictures(2), {"max_drop": [1]}, "quantize-option"),
        ([pictures(2)["x"]], {}, "data-form"),
        (pictures(2), {"keep_float": ("conv9",)}, "no-such-layer"),
        (pictures(2), {"keep_float": ("conv1", "conv2", "fc")}, "nothing-to-quantize"),
    ],
)
def test_errors(feeds: Any, options: dict[str, Any], code: str) -> None:
    with pytest.raises(RtccError) as raised:
        rtcc.quantize(network(), feeds, **options)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("options", "unread", "hint"),
    [
        (
            {"scheme": "weights-int8", "calibration": "entropy", "placement": "every", "products": True},
            "the scheme weights-int8 does not go by calibration, placement, products",
            "leave them out, or take the scheme int8",
        ),
        ({"calibration": "entropy", "percentile": 99.0}, "does not go by percentile", "--calibration perc"),
        ({"block": 64}, "the scheme int8 does not go by block", "weights-int8 or weights-int4"),
        ({"scheme": "float16", "weights": "affine"}, "the scheme float16 does not go by weights", "leave it"),
        ({"scheme": "dynamic", "rounding": "least-squares"}, "does not go by rounding", "scheme int8"),
        ({"scheme": "float16", "block": 64, "weights": "affine"}, "by weights, block", "weights-int4"),
        ({"scheme": "dynamic", "block": 64, "products": True}, "by block, products", "leave them out"),
    ],
)
def test_options_that_the_scheme_does_not_read_are_refused(
    options: dict[str, Any], unread: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        rtcc.quantize(network(), pictures(2), **options)
    assert raised.value.code == "quantize-option"
    assert unread in raised.value.message
    assert hint in str(raised.value.hint)


def test_the_pass_takes_no_negative_number_of_samples() -> None:
    with pytest.raises(InvalidInput, match="quantize-option"):
        parse_pipeline("quantize{samples=-3}")
    assert parse_pipeline("quantize{samples=0}")


def test_paths_to_write_to_are_words_too(tmp_path: Path) -> None:
    rtcc.quantize(network(), scheme="weights-int8").write(str(tmp_path / "a.rtir"))
    assert read_module(tmp_path / "a.rtir").main.ops


def test_constant_inputs_and_channels_are_kept(tmp_path: Path) -> None:
    feeds = {"x": np.zeros((3, 3, 12, 12), np.float32)}
    quantized = rtcc.quantize(network(), feeds)
    exact, found = interpreted(quantized.float_module, feeds), interpreted(quantized.module, feeds)
    assert decibels(exact, found) > 30
    answers, _ = onnxruntime_answers(quantized, tmp_path, feeds)
    assert decibels(found, answers) > 38


# --------------------------------------------------------------------------------------------------- report


def indexed(results: str = "%y, %k") -> Module:
    """The same network with each pixel's strongest channel, an integer, among its results."""
    return network("  %k = reduce.arg_max(%r2) {axis = 1} : i64[1,1,12,12]\n", results)


def test_only_floats_have_decibels() -> None:
    """How far one index is from another says nothing of how near the models are."""
    feeds = pictures(8)
    both = rtcc.quantize(indexed(), feeds, min_sqnr=20.0)
    assert both.found is not None
    held_out = {"x": feeds["x"][1::4]}
    reached = decibels(interpreted(both.float_module, held_out), interpreted(both.module, held_out))
    assert both.found.chosen.quality.sqnr == pytest.approx(reached, abs=0.5)
    first, second = make_report(both).outputs
    exact, found = (
        np.array([rtcc.interpret(module, {"x": each[None]})["k"] for each in feeds["x"]])
        for module in (both.float_module, both.module)
    )
    assert not (exact == found).all()
    assert first.sqnr is not None
    assert first.agreement is None
    assert (second.sqnr, second.top1) == (None, None)
    assert second.agreement == (exact == found).mean()
    assert str(second) == f"{second.agreement:.2%} of elements agree"


def test_a_floor_needs_a_result_with_decibels() -> None:
    for decibels, drop in ((20.0, None), (None, 0.01)):
        with pytest.raises(InvalidInput, match="no-float-output"):
            rtcc.quantize(indexed("%k"), pictures(4), min_sqnr=decibels, max_drop=drop)


def test_the_report_has_every_tensor_and_layer(tmp_path: Path) -> None:
    feeds = {**pictures(6), "labels": np.zeros(6, int)}
    quantized = rtcc.quantize(network(), feeds)
    report = make_report(quantized)
    assert [row.name for row in report.tensors] == ["x", "r1", "s", "r2", "p", "f"]
    assert [row.name for row in report.layers] == ["conv1", "conv2", "fc"]
    for row in report.tensors:
        assert row.own_sqnr is not None
        assert row.sqnr is not None
        assert row.own_sqnr > 25
        assert row.sqnr > 25
    (output,) = report.outputs
    exact, found = interpreted(quantized.float_module, feeds), interpreted(quantized.module, feeds)
    assert output.sqnr == pytest.approx(decibels(exact, found), abs=0.5)
    assert report.compared == 6
    assert report.metric_before == (exact.argmax(axis=1) == 0).mean()
    text = report.to_json()
    assert '"engine": "compiled"' in text
    assert "NaN" not in text
    assert "Infinity" not in text
