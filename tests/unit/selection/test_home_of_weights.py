"""Where a layer's weights come from depends on how many the whole model has."""

import numpy as np
import pytest

from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.nn import Conv
from rtcc.passes.select_conv import SelectConv
from rtcc.pipeline.run import run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.targets.cpu.cost import Home, cost_of, home_of_weights
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.x86.cpus import CPUS

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(("others", "algorithm"), [(0, "winograd4"), (64, "winograd3")])
def test_a_large_models_small_layer_takes_the_fewer_transformed_weights(others: int, algorithm: str) -> None:
    """24 to 64 channels on 14x14: four outputs take the fewest operations, and 36 weights for 25 of three."""
    module = Module(target="x86:znver5")
    module.add_constant("others", np.zeros((), np.float32), TensorType(DType.F32, (others, MEBIBYTE // 4)))
    weight = module.add_constant("w", np.ones((64, 24, 3, 3), np.float32))
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 24, 14, 14)))]))
    graph.return_(graph.append(Conv(graph.parameters[0], weight, pads=(1, 1, 1, 1))).result)
    run_pipeline(module, [*parse_pipeline("fuse"), SelectConv()])
    (region,) = (op for op in module.main.ops if isinstance(op, Fused))
    assert region.algorithm == algorithm


def test_weights_of_a_small_model_stay_in_the_second_cache() -> None:
    """Half of a cache is left to what else passes by; not knowing how many there are means the last one."""
    cpu = CPUS["znver5"]
    assert home_of_weights(cpu.l2 // 2, cpu) is Home.SECOND_CACHE
    assert home_of_weights(cpu.l2 // 2 + 1, cpu) is Home.LAST_CACHE
    assert home_of_weights(cpu.reach.l3 // 2 + 1, cpu) is Home.MEMORY
    assert home_of_weights(0, cpu) is Home.LAST_CACHE
    demand = Demand(0, (Stream(64 << 10, is_constant=True),))
    near, last, far = (cost_of(demand, cpu, 1, home).total for home in Home)
    assert near < last < far
