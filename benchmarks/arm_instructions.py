"""Instructions that a run executes on an emulated Cortex-A76: rtcc's artefact beside other runtimes' wheels.

    python benchmarks/arm_instructions.py --json instructions.json

Both sides run under QEMU in user mode with `-cpu cortex-a76`, one thread, the same input; counted is what
one run adds to a process that has run once already. Peers are the AArch64 wheels of ONNX Runtime and ncnn,
run by an AArch64 Python (`arm_root.py` fetches all). Counts are no times: they say nothing of caches, and
little of cores that finish several instructions a cycle. Ends with 1 where a run takes more than one of the
float32 peers does.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import arm_root
from benchmarks.models.named import find_model
from rtcc.compiler import Options, build
from rtcc.emulation import Emulated
from rtcc.emulation.counting import count_program
from rtcc.peers import convert_for_ncnn

MODELS = ("mobilenetv2", "resnet18")
FLOAT32 = ("onnxruntime", "ncnn")
RUNTIMES = (*FLOAT32, "ncnn-half")
CPU = "cortex-a76"
TOLERANCE = 1e-4
"""Of the largest result, between float32 runtimes."""

PEER = Path(__file__).parent / "emulated_peer.py"


def ours(model: Path, data: NDArray[Any], folder: Path) -> tuple[int, NDArray[Any]]:
    """Instructions of one run of the artefact, and its result."""
    artifact = Emulated(build(model, folder, Options(target=f"arm:{CPU}")), CPU)
    feeds = {artifact.inputs[0].name: data}
    (output,) = artifact.run(feeds).values()
    return artifact.count(feeds).instructions, output.ravel()


def theirs(runtime: str, folder: Path, root: Path) -> tuple[int, NDArray[Any]]:
    """Instructions that one more run of a runtime takes, and its result.

    A first process, which is not counted, leaves the runtime's Python modules compiled for the others.
    """
    emulator, environment = arm_root.emulator(root), arm_root.environment(root)
    words = [str(arm_root.python(root)), str(PEER.absolute()), runtime, str(folder)]
    subprocess.run([*emulator.command(CPU), *words, "0"], env=environment, check=True)
    once, twice = (count_program(emulator, CPU, [*words, runs], environment) for runs in "12")
    return twice - once, np.load(folder / "output.npy")


def measured(name: str, runtimes: tuple[str, ...], root: Path) -> dict[str, Any]:
    """A row of the report: instructions by runtime, and how far float32 results are apart."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, feeds = find_model(name, folder)
        ((input_name, data),) = feeds.items()
        model = folder / "model.onnx"
        if path != model:
            shutil.copy(path, model)
        convert_for_ncnn(path, {input_name: data.shape}, folder)
        np.save(folder / "input.npy", data)
        count, result = ours(model, data, folder)
        row: dict[str, Any] = {"model": name, "rtcc": count}
        for runtime in runtimes:
            row[runtime], other = theirs(runtime, folder, root)
            apart = float(np.abs(other - result).max() / np.abs(result).max())
            assert runtime not in FLOAT32 or apart < TOLERANCE, f"{runtime} computes something else: {apart}"
            row[f"{runtime} differs by"] = apart
        return row


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--against", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--root", type=Path, default=Path("build/arm-root"), help="the AArch64 Python")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    arm_root.prepare(asked.root)
    rows = [measured(name, tuple(asked.against), asked.root) for name in asked.models]
    Console(width=110).print(report_table(rows, asked.against))
    if asked.json:
        wheels = sorted(wheel.stem for wheel in (asked.root / "downloaded").glob("*.whl"))
        report = {"cpu": CPU, "wheels": wheels, "rtcc": version("rtcc"), "rows": rows}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["rtcc"] > row[each] for row in rows for each in asked.against if each in FLOAT32))


def report_table(rows: Sequence[Mapping[str, Any]], runtimes: Sequence[str]) -> Table:
    """What a person reads."""
    table = Table("model", "runtime", "instructions", "rtcc / it", "results differ by")
    for row in rows:
        table.add_row(row["model"], "rtcc", f"{row['rtcc']:,}", "", "")
        for runtime in runtimes:
            ratio, apart = row["rtcc"] / row[runtime], row[f"{runtime} differs by"]
            table.add_row("", runtime, f"{row[runtime]:,}", f"{ratio:.2f}", f"{apart:.1e}")
    return table


if __name__ == "__main__":
    sys.exit(main())
