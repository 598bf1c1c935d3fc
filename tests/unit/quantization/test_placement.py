"""Which values of a graph are quantised, and which of them share a scale."""

from __future__ import annotations

import numpy as np

import rtcc
from rtcc.ir import DType
from rtcc.ir.moving import moved_operands
from rtcc.passes.lower_quantization import LowerQuantization
from rtcc.quantization.placement import place
from rtcc.quantization.scheme import Placement, Settings
from rtcc.text import parse_module

HEAD = "// rtir 1  level=graph\nconst #w : f32[4,4,1,1] = splat(0.5)\nconst #b : f32[4] = splat(0.5)\n"
T = "f32[1,4,8,8]"


def groups(
    body: str, settings: Settings | None = None, parameters: str = f"%x: {T}"
) -> list[set[str | None]]:
    module = parse_module(f"{HEAD}graph @main({parameters}) {{\n{body}\n}}\n")
    placed = place(module.main, settings or Settings())
    return [{value.name for value in group} for group in placed.groups]


def conv(result: str, data: str) -> str:
    return f'%{result} = nn.conv(%{data}, #w, #b) : {T} loc("{result}")\n'


def test_nothing_between_a_layer_and_its_activation() -> None:
    body = conv("c", "x") + f"%r = math.relu(%c) : {T}\n" + conv("y", "r") + "return(%y)"
    assert groups(body) == [{"x"}, {"r"}]


def test_the_results_of_the_model_stay_float() -> None:
    body = conv("c", "x") + f"%r = math.relu(%c) : {T}\n" + "return(%r)"
    assert groups(body) == [{"x"}]


def residual(shortcut: str) -> str:
    return (
        conv("c", "x") + shortcut + f"%a = math.add(%c, %s) : {T}\n%r = math.relu(%a) : {T}\n"
        + conv("y", "r") + "return(%y)"
    )  # fmt: skip


def test_a_layer_adds_what_it_is_added_to() -> None:
    assert groups(residual(f"%s = math.sigmoid(%x) : {T}\n")) == [{"x"}, {"s"}, {"r"}]


def test_of_two_layers_that_are_added_the_later_one_adds() -> None:
    assert groups(residual(conv("s", "x"))) == [{"x"}, {"c"}, {"r"}]


def test_a_layer_that_others_read_too_is_quantised_before_an_addition() -> None:
    body = residual(f"%s = math.sigmoid(%x) : {T}\n").replace(
        "return(%y)", f"%z = math.add(%y, %c) : {T}\nreturn(%z)"
    )
    assert groups(body) == [{"x"}, {"c"}, {"s"}, {"r"}]


def test_every_operator_has_a_pair_where_a_runtime_wants_it() -> None:
    found = groups(residual(conv("s", "x")), Settings(placement=Placement.EVERY))
    assert found == [{"x"}, {"c"}, {"s"}, {"r"}]


def test_additions_that_lead_to_no_layer_stay_float() -> None:
    assert groups(conv("c", "x") + f"%y = math.add(%c, %x) : {T}\nreturn(%y)") == [{"x"}]


def test_what_moves_elements_has_one_scale_on_all_sides() -> None:
    body = (
        conv("c", "x")
        + "%p = nn.max_pool(%c) {kernel_shape = [1,1]} : f32[1,4,8,8]\n"
        + "%t = tensor.transpose(%p) {perm = [0,1,3,2]} : f32[1,4,8,8]\n"
        + conv("y", "t")
        + "return(%y)"
    )
    assert groups(body) == [{"x"}, {"c", "p", "t"}]


def test_joined_tensors_have_one_scale() -> None:
    body = (
        conv("c", "x")
        + "%j = tensor.concat(%c, %z) {axis = 0} : f32[2,4,8,8]\n"
        + "%y = nn.conv(%j, #w) : f32[2,4,8,8]\nreturn(%y)"
    )
    assert groups(body, parameters=f"%x: {T}, %z: {T}") == [{"x"}, {"z", "c", "j"}]


def test_an_average_has_a_scale_of_its_own() -> None:
    body = (
        conv("c", "x") + "%p = nn.global_average_pool(%c) : f32[1,4,1,1]\n"
        + "%y = nn.conv(%p, #w) : f32[1,4,1,1]\nreturn(%y)"
    )  # fmt: skip
    assert groups(body) == [{"x"}, {"c"}, {"p"}]


def test_padding_with_anything_but_zero_is_not_moved_through() -> None:
    pad = "%p = tensor.pad(%c, #pads, #with) : f32[1,4,10,10]\n"
    constants = "const #pads : i64[8] = [0,0,1,1,0,0,1,1]\nconst #with : f32[] = {}\n"
    body = conv("c", "x") + pad + "%y = nn.conv(%p, #w) : f32[1,4,10,10]\nreturn(%y)"
    for number, expected in (("0.0", [{"x"}, {"c", "p"}]), ("7.0", [{"x"}, {"p"}])):
        text = f"{HEAD}{constants.format(number)}graph @main(%x: {T}) {{\n{body}\n}}\n"
        placed = place(parse_module(text).main, Settings())
        assert [{value.name for value in group} for group in placed.groups] == expected


def test_products_of_two_activations_only_where_asked_for() -> None:
    body = "%y = nn.mat_mul(%a, %b) : f32[3,3]\nreturn(%y)"
    parameters = "%a: f32[3,4], %b: f32[4,3]"
    assert groups(body, parameters=parameters) == []
    assert groups(body, Settings(products=True), parameters) == [{"a"}, {"b"}]


def test_layers_kept_float_ask_for_nothing() -> None:
    body = conv("c", "x") + f"%r = math.relu(%c) : {T}\n" + conv("y", "r") + "return(%y)"
    assert groups(body, Settings(keep_float=("y",))) == [{"x"}]
    products = Settings(products=True, keep_float=("y",))
    body = "%y = nn.mat_mul(%a, %b) : f32[3,3]\nreturn(%y)"
    assert groups(body, products, "%a: f32[3,4], %b: f32[4,3]") == []


def test_the_quantiser_shares_scales_where_the_lowering_moves_integers() -> None:
    """One predicate tells both: what the quantiser puts between equal scales is computed on the integers."""
    movers = {
        '%m = tensor.pad(%r, #pads) {mode = "edge"} : f32[1,4,10,10]': "f32[1,4,10,10]",
        f"%m = tensor.gather(%r, #index) {{axis = 1}} : {T}": T,
        "%m = tensor.tile(%r, #twice) : f32[1,4,16,8]": "f32[1,4,16,8]",
        "%m = tensor.expand(%r, #shape) : f32[2,4,8,8]": "f32[2,4,8,8]",
        "%m = nn.global_max_pool(%r) : f32[1,4,1,1]": "f32[1,4,1,1]",
    }
    constants = (
        "const #pads : i64[8] = [0,0,1,1,0,0,1,1]\nconst #index : i64[4] = [3,1,0,2]\n"
        "const #twice : i64[4] = [1,1,2,1]\nconst #shape : i64[4] = [2,4,8,8]\n"
    )
    for line, shape in movers.items():
        last = f"%y = nn.conv(%m, #w) : {shape}\nreturn(%y)"
        body = conv("c", "x") + f"%r = math.relu(%c) : {T}\n{line}\n{last}"
        module = parse_module(f"{HEAD}{constants}graph @main(%x: {T}) {{\n{body}\n}}\n")
        groups = [{value.name for value in group} for group in place(module.main, Settings()).groups]
        assert groups == [{"x"}, {"r", "m"}]
        samples = {"x": np.random.default_rng(0).standard_normal((4, 4, 8, 8)).astype(np.float32)}
        quantized = rtcc.quantize(module, samples, bias_correction=False).module
        quantized.target = "x86:cascadelake"
        LowerQuantization(form="integers").run(quantized)
        moved = [op for op in quantized.walk() if moved_operands(op) and op.results[0].type.rank == 4]
        assert moved, line
        assert {op.results[0].type.dtype for op in moved} == {DType.U8}, line
