"""What a search measured of models, kept in a file so that a stopped search goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtcc.errors import InvalidInput
from rtcc.system.files import replace_file

Kept = frozenset[str]
"""Layers that stay float, by what `keep_float` calls them."""


@dataclass(frozen=True)
class Quality:
    """How near a model is. sqnr: decibels of the worst output. metric: None where the data have none."""

    sqnr: float
    metric: float | None = None

    def __str__(self) -> str:
        metric = "" if self.metric is None else f", metric {self.metric:.4g}"
        return f"{self.sqnr:.1f} dB{metric}"


class Known:
    """What was measured, and the file that holds it until the search is done."""

    def __init__(self, path: Path | None, key: str) -> None:
        """path: the file, None for none. key: of what is measured; what a file holds of another is left."""
        self._path, self._key = path, key
        self.qualities: dict[Kept, Quality] = _read(path, key)
        self.resumed = len(self.qualities)

    def add(self, kept: Kept, found: Quality) -> None:
        """Remember one, in the file too."""
        self.qualities[kept] = found
        if self._path is None:
            return
        rows = [{"kept": sorted(each), **asdict(quality)} for each, quality in self.qualities.items()]
        replace_file(self._path, json.dumps({"key": self._key, "measured": rows}).encode())


def _read(path: Path | None, key: str) -> dict[Kept, Quality]:
    """What a file holds for this key, nothing where it is of another model or other data, or not there."""
    if path is None or not path.exists():
        return {}
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
        if found["key"] != key:
            return {}
        return {frozenset(row["kept"]): Quality(row["sqnr"], row["metric"]) for row in found["measured"]}
    except (ValueError, KeyError, TypeError) as error:
        message = f"this is no state of a search, or a damaged one: {error}"
        raise InvalidInput("search-damaged", message, where=str(path), hint="delete it") from error
