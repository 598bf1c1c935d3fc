"""Recurrent layers over a batch in parts, each of some rows of the batch on a thread of its own.

Rows of a batch need nothing of each other, step after step: where launches are divided instead, all threads
wait for each other at every step. A part's products take less than the whole's only where there are rows
enough; those of one or two rows take as long as their weights do.
"""

from __future__ import annotations

from itertools import pairwise

from rtcc.ir import Value
from rtcc.ir.ops.recurrent import GRU, LSTM, RNN, Recurrent
from rtcc.passes.legalization.recurrent import results_of, sizes_of
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.passes.recurrence.wavefront import cost_of_a_step
from rtcc.pipeline.rewriter import Rewriter, rewrite
from rtcc.target import target_of


@rewrite(RNN, GRU, LSTM)
def batch_to_parts(op: Recurrent, rw: Rewriter) -> None:
    """lstm(x)  →  concat(scan(rows of x), scan(other rows of x))"""
    if not rw.module.target or not is_static(op) or op.layout or op.direction == "bidirectional":
        return
    parts = parts_of_a_batch(op, rw)
    if parts == 1:
        return
    write = Writer(rw, "recurrent")
    _, batch, _ = sizes_of(op)
    bounds = [each * batch // parts for each in range(parts + 1)]
    cut = [results_of(_rows(op, write, *each), rw, is_scanned=True) for each in pairwise(bounds)]
    every, *states = zip(*cut, strict=True)
    results = [write.concat(2, *every), *(write.concat(1, *each) for each in states)]
    rw.replace(op, *results[: len(op.results)])


RULES = (batch_to_parts,)


def parts_of_a_batch(op: Recurrent, rw: Rewriter) -> int:
    """Into how many parts a batch is cut: one, or as many as there are threads."""
    target = target_of(rw.module)
    length, batch, _ = sizes_of(op)
    if not 1 < target.threads <= batch:
        return 1
    whole, part = (cost_of_a_step(op, rows, target, rw) for rows in (batch, -(-batch // target.threads)))
    if whole is None or part is None:
        return 1
    saved = length * (whole.total - part.on_one_thread) - 2 * target.joining_seconds
    return target.threads if saved > 0 and target.repays_threads((), saved) else 1


def _rows(op: Recurrent, write: Writer, start: int, end: int) -> Recurrent:
    """The layer for some rows of the batch, which stands nowhere."""

    def part(value: Value | None, axis: int) -> Value | None:
        return None if value is None else write.part(value, axis, start, end)

    operands = [part(op.x, 1), op.w, op.r, op.b, part(op.sequence_lens, 0), part(op.initial_h, 1)]
    if isinstance(op, LSTM):
        operands += [part(op.initial_c, 1), op.p]
    return type(op)(*operands, like=op)
