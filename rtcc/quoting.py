"""Names and strings as the text IR writes them: bare identifiers, else quoted with JSON's escapes."""

from __future__ import annotations

import json
import re

BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
"""Names that need no quotes; everything else is written `"…"`."""


def quote(text: str) -> str:
    """A JSON string; printable characters stay as they are, so that names remain readable."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else json.dumps(c)[1:-1] for c in text) + '"'


def unquote(text: str) -> str:
    """The string that `quote` wrote; ValueError for a bad escape."""
    return text[1:-1] if "\\" not in text else str(json.loads(text))


def name_text(name: str) -> str:
    """A name, quoted only where it is no bare identifier."""
    return name if BARE_NAME.fullmatch(name) else quote(name)
