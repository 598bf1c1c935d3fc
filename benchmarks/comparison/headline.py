"""The networks that rtcc is held to, and how much faster than the best other runtime it is to be."""

from collections.abc import Sequence

from benchmarks.models.quantized import INT8

HEADLINE = "headline"
"""What stands for the eleven networks where names of models are given."""

QUANTIZED = "int8"
"""What stands for those that are held to a bar as int8 models."""

RECURRENT = "recurrent"
"""What stands for the recurrent networks that are held to a bar."""

LENET = "lenet"

BARS = {
    "resnet18": 1.3,
    "vgg16": 1.35,
    "resnet50": 1.1,
    "mobilenetv2": 1.1,
    "nudenet": 1.2,
    "ppocr-det": 1.1,
    "ppocr-rec": 1.1,
    "minilm6": 1.1,
    "vit-s-focus": 1.1,
    "magika": 1.1,
}
"""Latency of the best other runtime over rtcc's, one thread, at least."""

INT8_BARS = {f"{name}{INT8}": 1.1 for name in ("resnet50", "resnet18", "mobilenetv2", "nudenet", "minilm6")}
"""As `BARS`, of models that `rtcc quantize` made; the other runtimes compute the same files in integers."""

RECURRENT_BARS = {"lstm": 1.2, "lstm-bidirectional": 1.2, "gru": 1.2, "silero-vad": 2.0}
"""As `BARS`, of recurrent networks and one step of a streaming one, against ONNX Runtime."""

MEAN_BAR = {1: 1.2, 2: 1.15}
"""The geometric mean over `BARS`' networks, by threads."""

LENET_BAR = {"rtcc": 4.0, "rtcc run": 2.5}
"""LeNet's, one thread: through `bind` (where the others are bound, too), and through `run`."""

LEAST_BAR = 1.0
"""Every network's with more than one thread."""

KNOWN_AS = {"nudenet": "YOLOv8n", "vit-s-focus": "ViT-S", "minilm6": "MiniLM"}
"""What a model's file is not named after."""


def expanded(names: Sequence[str]) -> list[str]:
    """The names with those of groups replaced by their networks, each once."""
    groups = {HEADLINE: [LENET, *BARS], QUANTIZED: list(INT8_BARS), RECURRENT: list(RECURRENT_BARS)}
    return list(dict.fromkeys(each for name in names for each in groups.get(name, [name])))


def bar(model: str, through: str, threads: int) -> float | None:
    """The least ratio that a model is to reach; None where none is asked for.

    through: the name of our runner, "rtcc" or "rtcc run".
    """
    if threads > 1:
        return LEAST_BAR if through == "rtcc" and model in (LENET, *BARS) else None
    if model == LENET:
        return LENET_BAR[through]
    return (BARS | INT8_BARS | RECURRENT_BARS).get(model) if through == "rtcc" else None
