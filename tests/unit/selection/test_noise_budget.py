"""Which layers take more exact algorithms where rounding noise would exceed the budget."""

from __future__ import annotations

import numpy as np

from rtcc.ir import DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.ops import activation, nn
from rtcc.ir.ops.fused import Fused
from rtcc.passes.select_conv import SelectConv
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.selection.decision import Decision, Offer
from rtcc.selection.noise import noise_of_results
from rtcc.selection.noise_budget import (
    NEED_NOT_BE_NEARER,
    Layer,
    deviation,
    largest_errors,
)
from rtcc.target import Candidate, Cost

FAST, MIDDLING, EXACT = 4e-5, 2e-5, 5e-6
DEPTH = 12


def network(depth: int = DEPTH, channels: int = 16) -> Module:
    """Convolutions whose filters sum to 0, with a Relu before each but the first: noise grows."""
    module, random = Module(target="x86:znver5"), np.random.default_rng(0)
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, channels, 48, 48)))]))
    data: Value = graph.parameters[0]
    for number in range(depth):
        if number:
            data = graph.append(activation.Relu(data)).result
        weight = random.standard_normal((channels, channels, 3, 3))
        weight -= weight.mean((1, 2, 3), keepdims=True)
        weight *= np.sqrt(2 / weight[0].size)
        constant = module.add_constant(f"w{number}", weight.astype(np.float32))
        data = graph.append(nn.Conv(data, constant, pads=(1, 1, 1, 1))).result
    graph.return_(data)
    return module


def offers(seconds: tuple[float, float, float]) -> tuple[Offer, ...]:
    """A fast one, a middling one, an exact one."""
    errors = (FAST, MIDDLING, EXACT)
    return tuple(
        Offer(Candidate(f"a{number}", Cost(each), error))
        for number, (each, error) in enumerate(zip(seconds, errors, strict=True))
    )


def layers(module: Module, seconds: tuple[float, float, float] = (1.0, 1.2, 2.0)) -> list[Layer]:
    """The convolutions, each of which takes its fast offer."""
    each = offers(seconds)
    return [Layer(op, each, each[0]) for op in module.main.ops if isinstance(op, nn.Conv)]


def left(module: Module, found: list[Layer], limits: dict[Op, float]) -> float:
    """The noise at the result where each layer takes the fastest offer that its limit allows."""
    noise = noise_of_results(module.main, [layer.op for layer in found])
    taken = [
        next(o for o in layer.offers if o.candidate.error <= limits.get(layer.op, 1.0)) for layer in found
    ]
    return deviation(noise, taken)


def test_a_graph_within_its_budget_is_left_alone() -> None:
    module = network()
    found = layers(module)
    assert largest_errors(module.main, found, left(module, found, {}) * 1.01) == {}
    assert largest_errors(module.main, found, left(module, found, {}) * 0.9)


def test_the_budget_is_kept_and_the_first_layers_pay() -> None:
    module = network()
    found = layers(module)
    budget = left(module, found, {}) / 2
    limits = largest_errors(module.main, found, budget)
    assert 0.8 * budget < left(module, found, limits) <= budget
    spent = [limits.get(layer.op, FAST) for layer in found]
    assert spent == sorted(spent)
    assert spent[0] < FAST
    assert spent[-1] == FAST


def test_it_need_not_be_much_nearer_than_the_most_exact_algorithms() -> None:
    module = network()
    found = layers(module)
    least = left(module, found, {layer.op: EXACT for layer in found})
    limits = largest_errors(module.main, found, 1e-12)
    assert least < left(module, found, limits) <= NEED_NOT_BE_NEARER * least


def test_layers_that_gain_no_exactness_for_their_time_are_spared() -> None:
    """One layer's exact algorithm takes a thousand times as long."""
    module = network()
    found = layers(module)
    dear = offers((1.0, 1000.0, 2000.0))
    found[1] = Layer(found[1].op, dear, dear[0])
    limits = largest_errors(module.main, found, left(module, found, {}) * 0.7)
    assert found[1].op not in limits
    assert found[0].op in limits
    assert found[2].op in limits


def test_a_layer_with_one_offer_keeps_it() -> None:
    module = network()
    found = [Layer(layer.op, layer.offers[:1], layer.taken) for layer in layers(module)]
    assert largest_errors(module.main, found, 1e-12) == {}


def algorithms(depth: int, **options: float) -> list[str]:
    module = network(depth)
    run_pipeline(module, [*parse_pipeline("fuse"), SelectConv(**options)])  # pyright: ignore[reportArgumentType]
    return [op.algorithm for op in module.main.ops if isinstance(op, Fused)]


def test_a_deep_network_that_magnifies_noise_begins_with_exact_layers() -> None:
    assert set(algorithms(DEPTH, max_noise=0.0)) == {"winograd4"}
    assert algorithms(DEPTH) == algorithms(DEPTH, max_noise=0.0)
    found = algorithms(40)
    assert "winograd4" not in found[:4]
    assert set(found[-8:]) == {"winograd4"}


def test_the_reason_is_told() -> None:
    module = network(40)
    report = run_pipeline(module, [*parse_pipeline("fuse"), SelectConv()], RunOptions(explain=True))
    first = next(each for each in report.decisions if isinstance(each, Decision))
    (reason,) = {offer.obstacle for offer in first.offers if offer.candidate.algorithm == "winograd4"}
    assert "noise grows behind this layer" in reason


def test_what_is_asked_for_is_done() -> None:
    module = network(40)
    run_pipeline(module, [*parse_pipeline("fuse"), SelectConv(conv="winograd4")])
    assert {op.algorithm for op in module.main.ops if isinstance(op, Fused)} == {"winograd4"}
