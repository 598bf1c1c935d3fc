"""How fast text is parsed: against bare lark, and how time grows with the number of ops.

    python benchmarks/parse.py [ops…]

Prints for each size: seconds for print, parse and bare lark (the same grammar, building nothing), the
ratio of the last two, and microseconds per op. The median of three runs each.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from rtcc.ir.verify import verify
from rtcc.text import parse_module, print_module
from rtcc.text.parser import bare_parser

HEAD = """// rtir 1  level=graph  target=x86:cascadelake
const #conv.weight : f32[16,16,3,3] = splat(0.5)
const #conv.bias : f32[16] = [0.5,-1.0,0.25,0.1,0.0,1.5,1e-05,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,1.0]
graph @main(%x0: f32[1,16,56,56]) {
"""
BLOCK = """  %c{i} = nn.conv(%x{i}, #conv.weight, #conv.bias) {{dilations = [1,1], kernel_shape = [3,3], \
pads = [1,1,1,1], strides = [1,1]}} : f32[1,16,56,56] loc("/features/conv_{i}/Conv" by "fold-batch-norm")
  %x{j} = math.relu(%c{i}) : f32[1,16,56,56] loc("/features/relu_{i}/Relu")
"""


def model(ops: int) -> str:
    """A text with that many ops: convolutions, each with a relu."""
    blocks = "".join(BLOCK.format(i=i, j=i + 1) for i in range(ops // 2))
    return f"{HEAD}{blocks}  return(%x{ops // 2})\n}}\n"


def seconds(run: Callable[[], object]) -> float:
    """The median time of three runs."""
    times: list[float] = []
    gc.disable()
    for _ in range(3):
        gc.collect()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    gc.enable()
    return statistics.median(times)


def main() -> None:
    """Measure each size given on the command line."""
    bare = cast("Callable[[str], Any]", bare_parser().parse)  # pyright: ignore[reportUnknownMemberType]
    print("    ops   print   parse    bare  verify  parse/bare  parse us/op")
    for ops in map(int, sys.argv[1:] or ("1000", "3000", "10000")):
        text = model(ops)
        module = parse_module(text)
        times = [
            seconds(run)
            for run in (
                lambda module=module: print_module(module),
                lambda text=text: parse_module(text),
                lambda text=text: bare(text),
                lambda module=module: verify(module),
            )
        ]
        ratio = times[1] / times[2]
        print(
            f"{ops:7d} "
            + " ".join(f"{t:7.3f}" for t in times)
            + f" {ratio:11.2f} {times[1] / ops * 1e6:12.1f}"
        )


if __name__ == "__main__":
    main()
