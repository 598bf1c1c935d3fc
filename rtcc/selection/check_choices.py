"""Algorithms, tiles and layouts that a lowered dump declares, held to what its target offers.

Passes write these down and code generation goes by them. A dump may have been edited: whatever its kernels
could not be generated for, or would compute wrongly, is refused here, before anything relies on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rtcc.errors import InvalidInput
from rtcc.ir import Graph, Layout, Module, Op, Value
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.plan import Launch
from rtcc.ir.regions import anchor_of, joined_pool
from rtcc.pipeline.base import Choice
from rtcc.pipeline.catalogue import find_pass
from rtcc.selection.declared_candidate import candidate_of, halo_of
from rtcc.selection.layout_rules import layouts_read, obstacle, packing
from rtcc.target import GENERIC, Candidate, Illegal, Target


def check_choices(module: Module, target: Target) -> None:
    """Raise InvalidInput unless every fused region and kernel declares what the target can generate.

    bad-algorithm: no such algorithm, or not legal for its op, or a pool behind it that its kernel does not
    take. bad-tile: not as many numbers as the algorithm
    takes, or numbers out of range. bad-layout: operands or result stored otherwise than the algorithm reads
    and writes them, or otherwise than with one axis in blocks where there is none. bad-scratch: a launch
    with another amount of scratch memory than its kernel takes.
    """
    made = _choices_made(module)
    for body, attributes, what in _bodies(module):
        anchor = anchor_of(body)
        is_open = Choice.ALGORITHMS not in made and "algorithm" not in attributes
        if anchor is not None:
            _check_pool(anchor, body, attributes, target, what)
        candidate = None if anchor is None or is_open else _declared(anchor, body, attributes, target, what)
        if candidate is not None:
            _check_tile(attributes.get("tile", ()), candidate, what)
        if Choice.LAYOUTS not in made:
            continue
        if candidate is None or candidate.algorithm == GENERIC:
            _check_forms([*body.parameters, *body.returned], what)
        else:
            assert anchor is not None
            _check_operands(anchor, body, candidate, target, what)
    _check_scratch(module, target)


def _choices_made(module: Module) -> set[Choice]:
    """What the passes that a module has been through have decided."""
    classes = (find_pass(text.partition("{")[0]) for text in module.after)
    return {each.chooses for each in classes if each is not None and each.chooses is not None}


def _check_scratch(module: Module, target: Target) -> None:
    """Every launch gives its kernel what scratch memory it takes, or none where it takes none."""
    needed = {name: target.scratch_bytes(kernel) for name, kernel in module.kernels.items()}
    for op in module.walk():
        if not isinstance(op, Launch):
            continue
        found, wanted = op.scratch_bytes, needed[op.kernel]
        if found < wanted or bool(op.scratch) != bool(wanted):
            message = f"a launch of kernel @{op.kernel} has {found} bytes of scratch, it takes {wanted}"
            raise _bad("scratch", message)


def _bodies(module: Module) -> Iterator[tuple[Graph, Mapping[str, Any], str]]:
    """Each region and kernel with the attributes that hold its choices, and what to call it."""
    for op in module.walk():
        if isinstance(op, Fused):
            yield op.body, op.attributes, f"the region of {op.location or op.result!r}"
    for name, kernel in module.kernels.items():
        yield kernel, kernel.attributes, f"kernel @{name}"


def _declared(
    anchor: Op, body: Graph, attributes: Mapping[str, Any], target: Target, what: str
) -> Candidate | None:
    """The target's candidate of the declared algorithm; None where none is declared, or there is one way."""
    found = candidate_of(anchor, body, attributes.get("algorithm") or GENERIC, target)
    if isinstance(found, Illegal):
        raise _bad("algorithm", f"{what}: {found.reason}")
    return found


def _check_pool(anchor: Op, body: Graph, attributes: Mapping[str, Any], target: Target, what: str) -> None:
    """A pool stands behind an anchor only where the anchor's kernel pools."""
    pool, algorithm = joined_pool(body), attributes.get("algorithm") or GENERIC
    if pool is not None and not target.joins_pool(anchor, algorithm, pool):
        raise _bad("algorithm", f"{what}: {algorithm!r} computes {anchor.name} without {pool.name} behind it")


def _check_tile(tile: Any, candidate: Candidate, what: str) -> None:
    """As many integers as the target's own tile has, none below 1 but where that has a 0."""
    usual = candidate.tile
    numbers: list[Any] = [*tile] if type(tile) in (tuple, list) else [tile]
    if len(numbers) != len(usual) or not all(type(number) is int for number in numbers):
        example = f"like {list(usual)}" if usual else "which is none"
        message = f"{what}: {candidate.algorithm!r} takes a tile of {len(usual)} integers, {example}"
        raise _bad("tile", f"{message}; found {tile!r}")
    for number, found in zip(usual, numbers, strict=True):
        if found < min(1, number):
            raise _bad("tile", f"{what}: the tile {numbers} has {found}, expected {min(1, number)} or more")


def _check_operands(anchor: Op, body: Graph, candidate: Candidate, target: Target, what: str) -> None:
    """Operands and result are stored as the candidate says, what else the region reads as goes with them."""
    result = body.returned[0]
    _check_layout(result, candidate.result_layout, what)
    if reason := obstacle(body, anchor, candidate):
        raise _bad("layout", f"{what}: {candidate.algorithm!r} cannot be used: {reason}")
    own: dict[Value, int] = {}
    for slot, value in enumerate(anchor.operands):
        if value is None or slot not in candidate.operand_layouts:
            continue
        own[value] = slot
        _check_layout(value, candidate.operand_layouts[slot], what, is_tiled=slot == 1)
    if any(candidate.border) and not _covers(halo_of(anchor.operands[0]), candidate.border):
        found, wanted = list(halo_of(anchor.operands[0])), list(candidate.border)
        message = f"{what}: {candidate.algorithm!r} reads a border of {wanted} around its first operand"
        raise _bad("layout", f"{message}, the halo is {found}")
    for index, value in enumerate(body.parameters):
        if value not in own:
            _check_other(index, body, candidate, target, what)


def _check_other(index: int, body: Graph, candidate: Candidate, target: Target, what: str) -> None:
    """What a region reads beside its anchor's own operands is stored as `layouts_read` allows."""
    value, result = body.parameters[index], body.returned[0].type
    _check_forms([value], what)
    if value.type.rank == result.rank:
        fits = (value.type.layout is not None) in layouts_read(body, index, candidate, target)
        fits = fits and _block(value) in (1, _block(body.returned[0]))
    else:
        fits = value.type.layout == packing(body, index, candidate)
    if not fits:
        raise _bad("layout", f"{what}: {value!r} is not stored as goes with a result that is {result}")


def _check_layout(value: Value, wanted: Layout | None, what: str, *, is_tiled: bool = False) -> None:
    """is_tiled: the block of the first stored axis depends on the tile, which code generation compares."""
    found = value.type.layout
    if found is None or wanted is None:
        right = found is wanted
    else:
        blocks = [_form(each, 1 if is_tiled else 0) for each in (found, wanted)]
        right = blocks[0] == blocks[1]
    if not right:
        raise _bad("layout", f"{what}: {value!r} is stored otherwise than its algorithm reads or writes it, "
                             f"as {wanted or 'plain'}")  # fmt: skip


def _form(layout: Layout, free: int) -> tuple[object, ...]:
    """What must agree: the orders, and the blocks of all but the first `free` stored axes."""
    return tuple(axis for axis, _ in layout.outer), layout.inner, layout.outer[free:]


def _check_forms(values: Sequence[Value], what: str) -> None:
    """Plain, or one axis in blocks and nothing moved: what every general kernel walks."""
    for value in values:
        layout = value.type.layout
        if layout is None:
            continue
        split = [axis for axis, block in enumerate(layout.blocks) if block > 1]
        usual = [Layout.blocked(layout.rank, layout.blocks[axis], axis, layout.halo) for axis in split]
        if layout not in usual:
            raise _bad("layout", f"{what}: {value!r} is stored in a form that nothing there reads or writes")


def _block(value: Value) -> int:
    return max(value.type.layout.blocks) if value.type.layout else 1


def _covers(halo: tuple[int, ...], border: tuple[int, ...]) -> bool:
    return len(halo) == len(border) and all(has >= needs for has, needs in zip(halo, border, strict=True))


def _bad(what: str, message: str) -> InvalidInput:
    hint = (
        "a dump's algorithm, tile and layouts belong together: change them by select-conv and select-layout"
    )
    return InvalidInput(f"bad-{what}", message, hint=hint)
