"""Train a small residual network and a depthwise one on MNIST digits and write both as ONNX.

Needs the `train` extra, as train_lenet5.py, with which it shares digits, training and the split: neither
network sees the 1,000 digits of `mnist_held_out.npz`. Some minutes on one core.

    python examples/train_small_networks.py --out tests/data/digits

Writes `residual.onnx` (3x3 convolutions, batch normalisation, two residual blocks) and `depthwise.onnx`
(depthwise and 1x1 convolutions, ReLU6, as MobileNet has them), both from `image` f32[1,1,28,28] with pixels
0…255 to `logits` f32[1,10], and `training_digits.npz` (`image` u8[200,1,28,28], `labels`): some of the digits
that they were trained on, to calibrate with. `--networks wide` trains a residual network of 32, 64 and 128
channels instead, large enough that pruning it pays.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from train_lenet5 import HELD_OUT, accuracy, load_digits, train

CALIBRATION = 200
PRODUCER = "rtcc examples/train_small_networks.py"


class Residual(nn.Module):
    """relu(x + body(x))."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its normalisation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def block(channels: int) -> Residual:
    """Two 3x3 convolutions beside which the input passes."""
    first, second = convolution(channels, channels, 3), convolution(channels, channels, 3)
    return Residual(nn.Sequential(*first, nn.ReLU(), *second))


def separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A depthwise 3x3 convolution and a 1x1 one."""
    depthwise = convolution(inputs, inputs, 3, stride, groups=inputs)
    return [*depthwise, nn.ReLU6(), *convolution(inputs, outputs, 1), nn.ReLU6()]


def head(channels: int) -> list[nn.Module]:
    """Mean over the plane, and a score for each digit."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def residual_network(first: int = 16, second: int = 32) -> nn.Sequential:
    """Images [n,1,28,28] in [0,1] → logits [n,10]; 29,000 parameters, or those of other channels."""
    down = [*convolution(first, second, 3, stride=2), nn.ReLU()]
    return nn.Sequential(
        *convolution(1, first, 3, stride=2), nn.ReLU(), block(first), *down, block(second), *head(second)
    )  # fmt: skip


def wide_network() -> nn.Sequential:
    """Images [n,1,28,28] in [0,1] → logits [n,10]; three residual blocks, 484,000 parameters."""
    stages: list[nn.Module] = [*convolution(1, 32, 3, stride=2), nn.ReLU(), block(32)]
    for channels in (64, 128):
        stages += [*convolution(channels // 2, channels, 3, stride=2), nn.ReLU(), block(channels)]
    return nn.Sequential(*stages, *head(128))


def depthwise_network() -> nn.Sequential:
    """Images [n,1,28,28] in [0,1] → logits [n,10]; 10,000 parameters."""
    layers = [*separable(16, 32, 1), *separable(32, 64, 2), *separable(64, 64, 1)]
    return nn.Sequential(*convolution(1, 16, 3, stride=2), nn.ReLU6(), *layers, *head(64))


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "residual": residual_network,
    "depthwise": depthwise_network,
    "wide": wide_network,
}


class Exporter:
    """Turns a trained network into ONNX nodes, one for each module, and their arrays into constants."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def export(self, model: nn.Sequential, name: str) -> onnx.ModelProto:
        """The whole model; the division of the pixels by 255 goes into the first weights."""
        first = next(model.children())
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight /= 255
        self.nodes[:] = self._nodes(model, "image", "layer", "logits")
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 28, 28])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
            self.constants,
        )
        opset = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name=PRODUCER)
        onnx.checker.check_model(made, full_check=True)
        return made

    def _nodes(self, body: nn.Sequential, source: str, stem: str, target: str) -> Iterator[NodeProto]:
        """Of modules one after the other, from the value `source` to the value `target`."""
        children = list(body.children())
        for number, module in enumerate(children):
            name = f"{stem}{number}"
            result = target if number == len(children) - 1 else f"{name}.y"
            if isinstance(module, Residual):
                yield from self._nodes(module.body, source, f"{name}.", f"{name}.body")
                yield helper.make_node("Add", [source, f"{name}.body"], [f"{name}.sum"], f"{name}.add")
                yield helper.make_node("Relu", [f"{name}.sum"], [result], f"{name}.relu")
            else:
                yield self._node(module, source, name, result)
            source = result

    def _node(self, module: nn.Module, source: str, name: str, result: str) -> NodeProto:
        def node(kind: str, *constants: str, **attributes: object) -> NodeProto:
            held = [self._constant(module, name, each) for each in constants]
            return helper.make_node(kind, [source, *held], [result], name, **attributes)

        match module:
            case nn.Conv2d():
                pads, group = [*module.padding, *module.padding], module.groups
                return node("Conv", "weight", pads=pads, strides=list(module.stride), group=group)
            case nn.BatchNorm2d():
                return node("BatchNormalization", "weight", "bias", "running_mean", "running_var")
            case nn.ReLU():
                return node("Relu")
            case nn.ReLU6():
                limits = {"min": 0.0, "max": 6.0}
                held = [self._add(f"{name}.{key}", np.float32(value)) for key, value in limits.items()]
                return helper.make_node("Clip", [source, *held], [result], name)
            case nn.AdaptiveAvgPool2d():
                return node("GlobalAveragePool")
            case nn.Flatten():
                return node("Flatten", axis=1)
            case nn.Linear():
                return node("Gemm", "weight", "bias", transB=1)
            case _:
                raise ValueError(f"no ONNX operator is written for {module}")

    def _constant(self, module: nn.Module, name: str, which: str) -> str:
        return self._add(f"{name}.{which}", module.state_dict()[which].numpy())

    def _add(self, name: str, array: np.ndarray | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description="Train small networks on MNIST digits.")
    parser.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=["residual", "depthwise"], metavar="NAME"
    )
    parser.add_argument("--out", type=Path, default=Path("build/digits"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = load_digits(options.seed)
    inputs, targets = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        torch.manual_seed(options.seed)
        model = NETWORKS[name]()
        train(model, inputs[HELD_OUT:], targets[HELD_OUT:], options.epochs)
        held_out = accuracy(model, inputs[:HELD_OUT], targets[:HELD_OUT])
        print(f"{name}: {held_out:.2%} right on {HELD_OUT} digits held out")
        made = Exporter().export(model, name)
        helper.set_model_props(made, {"held_out_accuracy": f"{held_out:.4f}"})
        (options.out / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    some = slice(HELD_OUT, HELD_OUT + CALIBRATION)
    np.savez_compressed(options.out / "training_digits.npz", image=images[some], labels=labels[some])


if __name__ == "__main__":
    main()
