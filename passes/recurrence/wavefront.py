"""Stacked recurrent layers in chunks of steps, so that a layer is some steps behind the one below it.

    below   1  2  3  4
    above      1  2  3  4

Each chunk is a scan of its own that goes on from the states of the one before. What stands in one column
needs nothing of each other, so that `plan-memory` puts it on threads side by side. All steps of a layer
otherwise wait for the last step of the one below, because their products with the input are one product:
here, a chunk's are. Rows of a product do not depend on each other, so the sums stay the same.
"""

from __future__ import annotations

from rtcc.ir import DType, Op, Value
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.recurrent import GRU, LSTM, RNN, Recurrent
from rtcc.ir.views import is_view
from rtcc.passes.legalization.recurrent import Layer, sizes_of
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite
from rtcc.target import Cost, Target, target_of

FEWEST_STEPS = 8
"""Of a chunk: with fewer rows the products with the input take longer than what is gained."""

MOST_CHUNKS = 16
"""Of a layer, so that code does not grow with the steps; the layers then wait a sixteenth of their time."""


@rewrite(RNN, GRU, LSTM)
def stack_to_chunks(op: Recurrent, rw: Rewriter) -> None:
    """lstm(lstm(x))  →  a scan for each chunk of steps of each layer, the layers in turns"""
    if not rw.module.target or not _can_be_cut(op) or _above(op) is not None:
        return
    layers = _stack_below(op)
    if len(layers) == 1 or any(_is_read_by(layer, op) for layer in layers[:-1]):
        return
    chunks = chunks_of_a_layer(layers, rw)
    if chunks == 1:
        return
    written = _write(layers, chunks, rw)
    for layer, results in zip(reversed(layers), reversed(written), strict=True):
        x = layer.x
        values = zip(layer.results, results, strict=False)  # a layer's last results may be left out
        rw.replace(layer, *(new if old.use_count else None for old, new in values))
        _erase_unread(x, rw)


RULES = (stack_to_chunks,)


# ---- what is a stack


def _can_be_cut(op: Recurrent) -> bool:
    """Whether a layer's steps can be chunks whose states go on as they are."""
    if not is_static(op) or op.layout or op.direction != "forward" or op.sequence_lens is not None:
        return False
    return op.x.type.dtype in (DType.F32, DType.F64) and sizes_of(op)[0] >= 2 * FEWEST_STEPS


def _above(op: Recurrent) -> Recurrent | None:
    """The layer that alone reads every state of this one, as they are, and can be cut like it."""
    every = op.results[0]
    while every.has_one_use:
        (user,) = every.users
        if isinstance(user, Recurrent):
            return user if _can_be_cut(user) and _below(user) is op else None
        if not is_view(user):
            return None
        every = user.results[0]
    return None


def _below(op: Recurrent) -> Recurrent | None:
    """The layer whose every state is this one's input, through nothing but reshapes that none else reads."""
    x = op.x
    while x.has_one_use and (source := _reshaped(x)) is not None:
        x = source
    layer = x.producer
    if not isinstance(layer, Recurrent) or x is not layer.results[0] or not x.has_one_use:
        return None
    length, batch, _ = sizes_of(op)
    is_alike = layer.graph is op.graph and sizes_of(layer)[:2] == (length, batch)
    return layer if is_alike and _can_be_cut(layer) else None


def _is_read_by(layer: Recurrent, top: Recurrent) -> bool:
    """Whether the last layer of a stack, or what stands before it, reads the last states of a lower one."""
    readers = {user for state in layer.results[1:] for user in state.users}
    op: Op = layer
    while op is not top:
        assert op.next is not None
        op = op.next
        if op in readers or any(each in readers for region in op.regions for each in region.walk()):
            return True
    return False


def _stack_below(op: Recurrent) -> list[Recurrent]:
    """The layers of a stack from the lowest to this one."""
    found = [op]
    while (below := _below(found[0])) is not None:
        found.insert(0, below)
    return found


# ---- whether it pays


def chunks_of_a_layer(layers: list[Recurrent], rw: Rewriter) -> int:
    """Into how many chunks steps are cut; 1 where one layer after the other, launches divided, is as fast.

    Of n chunks, L layers take n + L - 1 turns, each of which ends when the slowest of its scans does.
    """
    target = target_of(rw.module)
    if target.threads == 1:
        return 1
    length, batch, _ = sizes_of(layers[-1])
    costs = [cost_of_a_step(layer, batch, target, rw) for layer in layers]
    known = [cost for cost in costs if cost is not None]
    are_near = all(target.keeps_near(layer.r.type.storage_bytes) for layer in layers)
    if len(known) < len(layers) or (any(cost.alone is not None for cost in known) and not are_near):
        return 1  # threads that share a product have their parts of its weights near
    divided = length * sum(cost.total for cost in known)
    longest = length * max(cost.on_one_thread for cost in known) * max(1.0, len(layers) / target.threads)

    def in_turns(chunks: int) -> float:
        return (chunks + len(layers) - 1) * (longest / chunks + 2 * target.joining_seconds)

    chunks = min(range(2, min(MOST_CHUNKS, length // FEWEST_STEPS) + 1), key=in_turns)
    saved = divided - in_turns(chunks)
    return chunks if saved > 0 and target.repays_threads((), saved) else 1


def cost_of_a_step(layer: Recurrent, rows: int, target: Target, rw: Rewriter) -> Cost | None:
    """What the product of so many rows of the state takes in each step, where the target knows."""
    hidden = sizes_of(layer)[2]
    write, dtype = Writer(rw, "recurrent"), layer.x.type.dtype
    weights = write.filled(0, dtype, hidden, layer.gates * hidden)
    product = MatMul(write.filled(0, dtype, rows, hidden), weights)
    candidates = target.candidates(product, (1,), weights=weights.type.storage_bytes)
    costs = [each.cost for each in candidates if isinstance(each.cost, Cost)]
    return min(costs, key=lambda cost: cost.total, default=None)


# ---- writing it


def _write(stack: list[Recurrent], count: int, rw: Rewriter) -> list[list[Value]]:
    """The results of each layer of a stack, in so many chunks, one of every layer in turn."""
    layers = [Layer(op, rw, 0) for op in stack]
    lowest, write = layers[0], layers[0].write
    states = [layer.first_states() for layer in layers]
    chunks: list[list[Value]] = [[] for _ in layers]
    rows_of_all = lowest.rows(lowest.op.x)
    for chunk in range(count):
        start, end = (each * lowest.length // count * lowest.batch for each in (chunk, chunk + 1))
        rows = write.part(rows_of_all, 0, start, end)
        for index, layer in enumerate(layers):
            if index > 0:
                rows = layer.rows(chunks[index - 1][-1])
            every, states[index] = layer.scan(rows, states[index])
            write.place(every)
            chunks[index].append(every)
    results: list[list[Value]] = []
    for layer, parts, last in zip(layers, chunks, states, strict=True):
        every = write.reshape(write.concat(0, *parts), layer.length, 1, layer.batch, layer.hidden)
        results.append([every, *layer.as_results(last)])
        write.place(*results[-1])
    return results


def _reshaped(value: Value) -> Value | None:
    """What a value is a reshape of."""
    op = value.producer
    return op.operands[0] if op is not None and is_view(op) else None


def _erase_unread(value: Value, rw: Rewriter) -> None:
    """Take out the reshapes that made a value, where nothing reads it any more."""
    while not value.use_count and (source := _reshaped(value)) is not None:
        assert value.producer is not None
        rw.erase(value.producer)
        value = source
