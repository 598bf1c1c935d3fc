"""plan-memory: an order of launches and a place for every buffer.

The arena is static: each tensor gets an offset such that tensors alive at the same time do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.errors import RtccError
from rtcc.ir import Graph, Module, Op, Value
from rtcc.ir.ops.plan import Join, Launch, Place, PlanIf, PlanLoop, Space
from rtcc.pipeline.base import Pass, Size
from rtcc.pipeline.exactness import exact
from rtcc.planning.launches import Launches
from rtcc.planning.lives import Lives
from rtcc.planning.offsets import assign_offsets, peak
from rtcc.planning.sharing import Sharing, Spot
from rtcc.target import target_of


@dataclass(frozen=True)
class PlanMemory(Pass):
    """Turn calls into launches with places; refuse an arena larger than max_workspace or the target's room.

    max_workspace: in bytes, 0 for no limit of one's own.
    control.call → plan.launch, control.if → plan.if, control.loop → plan.loop; reshapes, contiguous slices
    and layouts that store alike → plan.view; a concatenation whose result holds each part in one piece →
    plan.join, its parts computed where it has them. @main gets `workspace` and `const`, the bytes of the two
    spaces, and `live_bytes`, the most that is alive at any one time: no arena could be smaller. Where the
    data decide an output's shape, `sizes` has the place of each symbol's value (i64) after a run.
    """

    exactness = exact
    requires = ("kernels",)
    produces = "plan"
    told = ("max_workspace",)

    max_workspace: Size = Size(0)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in module.graphs.values():
            launches = Launches(module, target, graph, self.name)
            changed |= len(graph) > 1
            launches.rewrite()
            sharing = Sharing(launches)
            sharing.decide()
            launches.divide()
            launches.drop_unused_kernels()
            lives = Lives(sharing)
            lives.walk(graph)
            lives.keep(launches.sizes.values())
            arena = assign_offsets(lives.all)
            needed = arena + (target.threads - 1) * lives.scratch_of_other_threads
            if 0 < self.max_workspace < needed:
                raise _too_large(lives, needed, self.max_workspace)
            if 0 < target.workspace_room < needed:
                raise _too_large(lives, needed, target.workspace_room, "ram-too-small")
            _write_places(graph, lives)
            live_bytes = peak(lives.all)[0]
            if launches.sizes:
                graph.attributes["sizes"] = {
                    name: str(_place_of(value, lives)) for name, value in launches.sizes.items()
                }
            graph.attributes |= {"workspace": arena, "const": launches.const_bytes, "live_bytes": live_bytes}
        return changed


def _write_places(graph: Graph, lives: Lives) -> None:
    """Record on every op where its results and its scratch lie."""
    for op in graph.walk():
        match op:
            case Launch():
                op.attributes["places"] = _places(op.results, lives)
                if op in lives.scratch:
                    op.attributes["scratch"] = str(Place(Space.WORKSPACE, lives.scratch[op].offset))
            case PlanIf() | PlanLoop():
                op.attributes["places"] = _places(op.results, lives)
            case Join():
                (op.attributes["place"],) = _places(op.results, lives)
            case _:
                pass


def _places(values: tuple[Value, ...], lives: Lives) -> tuple[str, ...]:
    return tuple(str(_place(lives.sharing.spots[value], lives)) for value in values)


def _place_of(value: Value, lives: Lives) -> Place:
    """Where a value lies, seen through views."""
    spot = lives.sharing.spot_of(value)
    assert spot is not None, f"{value!r} lies nowhere"
    return _place(spot, lives)


def _place(spot: Spot, lives: Lives) -> Place:
    if spot.storage.output is not None:
        return Place(Space.USER, spot.storage.output)
    return Place(Space.WORKSPACE, lives.buffers[spot.storage].offset + spot.offset)


def _too_large(lives: Lives, arena: int, limit: int, code: str = "workspace-too-large") -> RtccError:
    """The error for an arena over a limit, naming what is alive when most is."""
    most, position = peak(lives.all)
    found = [
        (buffer.bytes, _described(lives.makers[storage].producer, str(lives.makers[storage].type)))
        for storage, buffer in lives.buffers.items()
        if buffer.first <= position <= buffer.last
    ]
    found += [
        (buffer.bytes, _described(op, "scratch"))
        for op, buffer in lives.scratch.items()
        if buffer.first <= position <= buffer.last
    ]
    found.sort(key=lambda item: -item[0])
    listing = "".join(f"\n    {size:12,} bytes  {what}" for size, what in found[:8])
    return RtccError(
        code,
        f"the workspace needs {arena:,} bytes, allowed are {limit:,}; {most:,} are alive at once:{listing}",
        hint=f"use smaller inputs, or raise {'ram=' if code == 'ram-too-small' else '--max-workspace'}",
    )


def _described(op: Op | None, what: str) -> str:
    return what if op is None else f"{what} of {op.location or op.name}"
