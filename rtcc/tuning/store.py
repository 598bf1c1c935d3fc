"""What was measured, in a file: by kernel, for one target; checked when read, known by its hash when used.

A compilation that uses measurements has `tuned=HASH` in its target's text, so in the header of every dump
and in the artefact's info. Equal model, options and measurements give equal artefacts; nothing is looked up
that the user did not name.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path
from typing import Any

import rtcc
from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import Op
from rtcc.ir.regions import company_of, is_in_region
from rtcc.system.files import cache_folder, replace_file
from rtcc.target import Target

FORMAT = 2
"""The version of the file's form."""

OPTION = "tuned"
"""The target's option that names measurements."""

HASH_DIGITS = 16

WITH = " with "
"""Between an anchor and what its kernel computes besides."""


def require_choice(target: Target) -> None:
    """Refuse a target that goes by no measurements. Unsupported `not-tunable`."""
    if OPTION not in target.options:
        message = f"{target.name} goes by no measurements: its kernels are chosen by what is predicted alone"
        hint = "tune for x86 or arm, on the machine itself; `rtcc run --emulate` counts instructions"
        raise Unsupported("not-tunable", message, hint=hint)


@dataclass(frozen=True)
class Measurement:
    """Seconds of one run of a kernel as it is computed by an algorithm with a tile.

    failure: how it ended where it did not come back ("signal SIGSEGV"); its seconds are infinitely many then.
    """

    algorithm: str
    tile: tuple[int, ...]
    seconds: float
    failure: str = ""


@dataclass
class Tuning:
    """Measurements for one target (its text without `tuned`); kernels: by `kernel_key`, the fastest first."""

    target: str
    kernels: dict[str, tuple[Measurement, ...]] = field(default_factory=dict[str, "tuple[Measurement, ...]"])

    @property
    def hash(self) -> str:
        """Of everything in it, in hexadecimal digits."""
        return sha256(json.dumps(self._content()).encode()).hexdigest()[:HASH_DIGITS]

    def add(self, key: str, measured: list[Measurement]) -> None:
        """Note what was measured for a kernel."""
        order = sorted(measured, key=lambda each: (each.seconds, each.algorithm, each.tile))
        self.kernels[key] = tuple(order)

    def _content(self) -> dict[str, Any]:
        rows = {
            key: {
                f"{each.algorithm} {'x'.join(map(str, each.tile))}": each.failure or each.seconds
                for each in measured
            }
            for key, measured in sorted(self.kernels.items())
        }
        return {"rtcc tuning": FORMAT, "rtcc": rtcc.__version__, "target": self.target, "kernels": rows}

    def write(self, path: Path) -> None:
        """Put it in place of what the path held."""
        lines = {**self._content(), "hash": self.hash}
        replace_file(path, (json.dumps(lines, indent=1) + "\n").encode())


def kernel_key(anchor: Op, constants: Container[int]) -> str:
    """What decides how fast an anchor's kernel is, as text: types have no layouts, constants a mark (!).

    What its region computes besides is part of the kernel, and of its time.
    """
    operands = " ".join(
        "_" if value is None else f"{value.type.with_layout(None)}{'!' if slot in constants else ''}"
        for slot, value in enumerate(anchor.operands)
    )
    results = " ".join(str(result.type.with_layout(None)) for result in anchor.results)
    attributes = ", ".join(f"{name}={value!r}" for name, value in sorted(anchor.attributes.items()))
    company = company_of(anchor)
    return f"{anchor.name} {operands} -> {results} {{{attributes}}}{WITH if company else ''}{company}"


def read_tuning(path: Path) -> Tuning:
    """The measurements in a file. InvalidInput: tuning-damaged, tuning-version."""
    try:
        return _parsed(json.loads(path.read_bytes()), str(path))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(str(path), f"{type(error).__name__} {error}") from error


def _parsed(row: Any, where: str) -> Tuning:
    if row["rtcc tuning"] != FORMAT or row["rtcc"] != rtcc.__version__:
        found = f"rtcc {row['rtcc']}, form {row['rtcc tuning']}"
        message = f"this was measured by {found}; this is rtcc {rtcc.__version__}, form {FORMAT}"
        raise InvalidInput("tuning-version", message, where=where, hint="measure again: rtcc tune MODEL")
    kernels = {
        str(key): tuple(_measurement(*each) for each in measured.items())
        for key, measured in row["kernels"].items()
    }
    tuning = Tuning(str(row["target"]), kernels)
    if row["hash"] != tuning.hash:
        raise _damaged(where, f"its contents have the hash {tuning.hash}, it says {row['hash']}")
    return tuning


def _measurement(way: str, found: Any) -> Measurement:
    """way: as in "direct 14x2x0x7x1", the algorithm and its tile, if any; found: seconds, or a failure."""
    algorithm, _, written = way.partition(" ")
    tile = tuple(map(int, written.split("x") if written else ()))
    if isinstance(found, str):
        return Measurement(algorithm, tile, inf, found)
    if not isfinite(found) or found < 0:
        raise ValueError(f"{found} seconds")
    return Measurement(algorithm, tile, float(found))


def _damaged(where: str, found: str) -> InvalidInput:
    message = f"this is no file of measurements, or a damaged one: {found}"
    return InvalidInput("tuning-damaged", message, where=where, hint="measure again: rtcc tune MODEL")


# ------------------------------------------------------------------------------------- measurements in use

_KEPT: dict[str, Tuning] = {}


def keep(tuning: Tuning) -> str:
    """Remember measurements by their hash, in the cache too, so that a dump can be gone on from; the hash."""
    name = tuning.hash
    _KEPT[name] = tuning
    with suppress(OSError):  # a cache that cannot be written costs only that
        path = _kept_path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            tuning.write(path)
    return name


def use(tuning: Tuning) -> str:
    """Remember measurements by their hash for this process alone; the hash."""
    _KEPT[tuning.hash] = tuning
    return tuning.hash


def kept(name: str) -> Tuning:
    """The measurements of that hash; InvalidInput `tuning-missing` where nobody named their file here."""
    if name not in _KEPT:
        path = _kept_path(name)
        found = read_tuning(path) if name.isalnum() and path.is_file() else None
        if found is None or found.hash != name:
            message = f"the measurements {name} are not known on this machine"
            raise InvalidInput("tuning-missing", message, hint="give their file: --tuned FILE")
        _KEPT[name] = found
    return _KEPT[name]


def _kept_path(name: str) -> Path:
    return cache_folder() / "tuning" / f"{name}.json"


def measurements_of(tuning: Tuning, anchor: Op, constants: Container[int]) -> Mapping[str, list[Measurement]]:
    """What was measured for an anchor, by algorithm, the fastest tile first.

    One that stands in no region yet: what came back, whatever the kernels compute besides.
    """
    key = kernel_key(anchor, constants)
    taken = list(tuning.kernels.get(key, ()))
    if not is_in_region(anchor):
        others = (rows for other, rows in tuning.kernels.items() if other.startswith(f"{key}{WITH}"))
        taken = [each for rows in (taken, *others) for each in rows if not each.failure]
        taken.sort(key=lambda each: each.seconds)
    found: dict[str, list[Measurement]] = {}
    for each in taken:
        found.setdefault(each.algorithm, []).append(each)
    return found
