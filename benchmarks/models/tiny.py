"""Networks for microcontrollers, with seeded random weights as those of `networks`.

    python -m benchmarks.models.tiny ds_cnn.onnx
"""

import sys
from pathlib import Path

from onnx import ModelProto

from benchmarks.models.networks import GraphWriter, batch_norm, classifier_head, conv, relu


def ds_cnn(width: int = 64, blocks: int = 4, classes: int = 12, seed: int = 11) -> ModelProto:
    """The DS-CNN of "Hello Edge: Keyword Spotting on Microcontrollers" (Zhang et al., 2017; its small one).

    Input [1,1,49,10]: 49 frames of 10 coefficients; output [1,classes]. 22,604 weights as it is by default.
    """
    g = GraphWriter("ds_cnn", seed)
    x = g.input("input", (1, 1, 49, 10))
    weight = g.centred("conv.weight", (width, 1, 10, 4), 3.0)
    x = g.node("Conv", [x, weight], "/conv/Conv", kernel_shape=[10, 4], pads=[4, 1, 5, 1], strides=[2, 2])
    x = relu(g, batch_norm(g, x, "bn", width), "relu")
    for index in range(1, blocks + 1):
        for part, kernel, groups in (("depthwise", 3, width), ("pointwise", 1, 1)):
            name = f"block{index}.{part}"
            x = conv(g, x, name, (width, width), kernel, pad=kernel // 2, groups=groups)
            x = relu(g, batch_norm(g, x, f"{name}.bn", width), f"{name}.relu")
    return classifier_head(g, x, width, classes, "fc")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(ds_cnn().SerializeToString())
