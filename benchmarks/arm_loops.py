"""What llvm-mca says of the hot loops of networks compiled for a Cortex-A76: their share of its peak.

    python benchmarks/arm_loops.py --json loops.json

Loops are found in the artefact's machine code; how often each runs is counted under QEMU. llvm-mca takes
every operand to be in the first cache, so bytes of a round stand beside it, and what of them simulated caches
of the core's sizes would not have (least recently used goes first, nothing comes ahead). Ends with 1 where
loops with more than 5 % of a network's products are below 80 % of the peak, weighted by products.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.models.named import find_model
from rtcc.cli.estimating import figures, loops_table
from rtcc.compiler import Options, build
from rtcc.emulation import Emulated
from rtcc.emulation.estimates import HOT_SHARE, Estimates, estimate

MODELS = ("resnet18", "mobilenetv2")
BAR = 0.8


def estimated(name: str, cpu: str, share: float) -> Estimates:
    """The loops of a network that have at least so much of its products."""
    with tempfile.TemporaryDirectory() as temporary:
        path, feeds = find_model(name, Path(temporary))
        artifact = Emulated(build(path, Path(temporary), Options(target=f"arm:{cpu}")))
        return estimate(artifact, feeds, share)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--cpu", default="cortex-a76")
    parser.add_argument("--share", type=float, default=0.01, help="of all products, what a loop has at least")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    passes = True
    for name in asked.models:
        found = estimated(name, asked.cpu, asked.share)
        hot = [each for each in found.loops if each.share >= HOT_SHARE]
        weight = sum(each.share for each in hot)
        of_peak = sum(each.share * each.of_peak for each in hot) / weight if weight else 0.0
        passes &= of_peak >= BAR
        print(f"{name}: {found.products:,} multiply-adds, {found.instructions:,} instructions")
        print(f"  loops with more than {HOT_SHARE:.0%} of them: {of_peak:.1%} of peak, {weight:.1%} of them")
        print(f"  with more than {asked.share:.0%}: {found.of_peak:.1%} of peak, {found.covered:.1%} of them")
        Console(width=160).print(loops_table(found))
        rows.append({"network": name, "of_peak_above_5_percent": of_peak, **figures(found)})
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(not passes)


if __name__ == "__main__":
    sys.exit(main())
