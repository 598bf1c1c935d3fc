"""A region's program as text: its layers with their tiles, where things lie, and every instruction."""

from __future__ import annotations

from rtcc.ir import Graph
from rtcc.targets.fpga.compiler.layers import Image
from rtcc.targets.fpga.compiler.region import Placed, compile_region
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import text


def listing_of(body: Graph, core: Core) -> str:
    """The listing of a region that is compiled for a core."""
    program = compile_region(body, core)
    lines = [
        f"core      {core.text()}",
        f"memory    {program.rows} rows of {core.row_bytes} bytes, "
        f"of them {len(program.constants) // core.row_bytes} of instructions and constants",
        *(f"input  {n}  {_place(each)}" for n, each in enumerate(program.inputs)),
        *(f"output {n}  {_place(each)}" for n, each in enumerate(program.outputs)),
    ]
    for placed in program.layers:
        lines += ["", *_head(placed)]
        lines += [f"{n:6}  {text(program.instructions[n])}" for n in range(placed.first, placed.end)]
    lines += ["", f"{len(program.instructions) - 1:6}  {text(program.instructions[-1])}", ""]
    return "\n".join(lines)


def _place(image: Image) -> str:
    sizes = f"{image.images},{image.channels},{image.height},{image.width}"
    return f"i{8 * image.bytes}[{sizes}] at row {image.row}"


def _head(placed: Placed) -> list[str]:
    layer, tiling = placed.layer, placed.chosen.tiling
    kernel = "x".join(map(str, layer.kernel))
    return [
        f"layer {layer.name}: {layer.mode.name} {kernel}, tiles of {tiling.height}x{tiling.width}, "
        f"about {placed.chosen.cycles} cycles, {layer.macs} products",
        *(f"    reads  {_place(each)}" for each in layer.inputs),
        f"    writes {_place(layer.output)}",
    ]
