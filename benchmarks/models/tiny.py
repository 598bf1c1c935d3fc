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


def bottlenecks(seed: int = 3) -> ModelProto:
    """Five inverted bottlenecks as in MobileNetV2, two of them residual, for pictures [1,3,32,32]."""
    g = GraphWriter("bottlenecks", seed)
    x = g.input("input", (1, 3, 32, 32))
    x = relu(g, batch_norm(g, conv(g, x, "stem", (3, 16), 3, stride=2, pad=1), "stem.bn", 16), "stem.relu")
    width = 16
    for index, (out, stride) in enumerate(((16, 1), (24, 2), (24, 1), (32, 2), (32, 1))):
        y, wide, name = x, 4 * width, f"b{index}"
        y = batch_norm(g, conv(g, y, f"{name}.expand", (width, wide), 1), f"{name}.bn1", wide)
        y, depthwise = relu(g, y, f"{name}.r1"), f"{name}.depthwise"
        y = conv(g, y, depthwise, (wide, wide), 3, stride=stride, pad=1, groups=wide)
        y = relu(g, batch_norm(g, y, f"{name}.bn2", wide), f"{name}.r2")
        y = batch_norm(g, conv(g, y, f"{name}.project", (wide, out), 1), f"{name}.bn3", out)
        x = g.node("Add", [x, y], f"/{name}.add/Add") if out == width and stride == 1 else y
        width = out
    return classifier_head(g, x, width, 10, "fc")


def residual_blocks(seed: int = 4) -> ModelProto:
    """Three residual blocks of two 3x3 convolutions of 16 channels, for pictures [1,3,32,32]."""
    g = GraphWriter("residual", seed)
    x = g.input("input", (1, 3, 32, 32))
    x = relu(g, batch_norm(g, conv(g, x, "stem", (3, 16), 3, pad=1), "stem.bn", 16), "stem.relu")
    for index in range(3):
        name = f"b{index}"
        y = batch_norm(g, conv(g, x, f"{name}.c1", (16, 16), 3, pad=1), f"{name}.bn1", 16)
        y = conv(g, relu(g, y, f"{name}.r1"), f"{name}.c2", (16, 16), 3, pad=1)
        y = batch_norm(g, y, f"{name}.bn2", 16)
        x = relu(g, g.node("Add", [x, y], f"/{name}.add/Add"), f"{name}.r2")
    return classifier_head(g, x, 16, 10, "fc")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(ds_cnn().SerializeToString())
