"""The loops of a function, from its jumps: basic blocks, what dominates what, natural loops.

Sources: A. Aho et al., Compilers, 2nd edition, 9.6; the iteration is that of K. Cooper, T. Harvey and
K. Kennedy, A Simple, Fast Dominance Algorithm, 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from rtcc.emulation.disassembly import Function, Instruction

Loop = tuple[Instruction, ...]
"""Instructions in the order in which they lie; what lies before the loop's first one is last."""


def innermost_loops(function: Function) -> tuple[Loop, ...]:
    """The natural loops of a function that have no other inside; jumps out of line are followed."""
    blocks = _blocks(function)
    after = _successors(blocks)
    before: dict[int, list[int]] = {start: [] for start in blocks}
    for start, followers in after.items():
        for each in followers:
            before[each].append(start)
    order = _reverse_postorder(next(iter(blocks)), after)
    above = _dominators(order, before)
    bodies: dict[int, set[int]] = {}
    for source in order:
        for header in after[source]:
            if _dominates(header, source, above):
                bodies.setdefault(header, {header}).update(_body(header, source, before, set(order)))
    inner = [
        (header, body) for header, body in bodies.items()
        if not any(other in body for other in bodies if other != header)
    ]  # fmt: skip
    return tuple(
        tuple(each for start in sorted(body, key=lambda at: (at < header, at)) for each in blocks[start])
        for header, body in sorted(inner)
    )


def _blocks(function: Function) -> dict[int, list[Instruction]]:
    """Straight pieces of code by the address of their first instruction."""
    rows = function.instructions
    targets = {each.target for each in rows if each.target is not None}
    begins = {rows[0].address, *targets}
    begins |= {b.address for a, b in pairwise(rows) if a.target is not None or a.ends_flow}
    blocks: dict[int, list[Instruction]] = {}
    current: list[Instruction] = []
    for each in rows:
        if each.address in begins:
            current = blocks.setdefault(each.address, [])
        current.append(each)
    return blocks


def _successors(blocks: Mapping[int, Sequence[Instruction]]) -> dict[int, list[int]]:
    """Where each block may go on, within the function."""
    after: dict[int, list[int]] = {start: [] for start in blocks}
    starts = list(blocks)
    for index, (start, rows) in enumerate(blocks.items()):
        last = rows[-1]
        if last.target is not None and last.target in blocks:
            after[start].append(last.target)
        if not last.ends_flow and index + 1 < len(starts):
            after[start].append(starts[index + 1])
    return after


def _reverse_postorder(entry: int, after: Mapping[int, Sequence[int]]) -> list[int]:
    """Blocks that can be reached, each before those that only it leads to."""
    order: list[int] = []
    seen, stack = {entry}, [(entry, iter(after[entry]))]
    while stack:
        start, rest = stack[-1]
        following = next((each for each in rest if each not in seen), None)
        if following is None:
            order.append(start)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(after[following])))
    return order[::-1]


def _dominators(order: Sequence[int], before: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """The nearest block that every way to a block passes; the entry's is itself."""
    place = {start: index for index, start in enumerate(order)}
    above = {order[0]: order[0]}
    changed = True
    while changed:
        changed = False
        for start in order[1:]:
            known = [each for each in before[start] if each in above]
            nearest = known[0]
            for each in known[1:]:
                while each != nearest:
                    if place[each] > place[nearest]:
                        each = above[each]
                    else:
                        nearest = above[nearest]
            changed |= above.get(start) != nearest
            above[start] = nearest
    return above


def _dominates(header: int, start: int, above: Mapping[int, int]) -> bool:
    while start != header and above[start] != start:
        start = above[start]
    return start == header


def _body(header: int, source: int, before: Mapping[int, Sequence[int]], reached: set[int]) -> set[int]:
    """Blocks that lead to a jump back without passing its target."""
    body, waiting = {header}, [source]
    while waiting:
        start = waiting.pop()
        if start not in body and start in reached:
            body.add(start)
            waiting.extend(before[start])
    return body
