"""How long a program may take that runs a model elsewhere: under an emulator, on another machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rtcc.errors import ArtifactError, InvalidInput

VARIABLE = "RTCC_TIME_LIMIT"
"""Names another limit, in seconds."""

SECONDS = 1800
"""Far more than any run takes that ends: ResNet-50 counted under QEMU takes minutes."""


def time_limit() -> int:
    """Seconds that such a program may take. InvalidInput `time-limit` where the variable names none."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return SECONDS
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10**6):
        message = f"${VARIABLE} is {text!r}, expected whole seconds from 1 to 1000000"
        raise InvalidInput("time-limit", message, hint=f"unset it for {SECONDS}")
    return int(text)


def run_within(
    seconds: int,
    command: Sequence[str],
    code: str,
    where: str,
    *,
    given: bytes = b"",
    folder: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, and stop it after so many seconds: ArtifactError with that code.

    where: as the error has it. given: to its standard input. folder: that it runs in.
    """
    try:
        return subprocess.run(
            command, input=given, capture_output=True, cwd=folder, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise too_late(code, f"{Path(command[0]).name} did not end", seconds, where) from error


def too_late(code: str, what: str, seconds: int, where: str) -> ArtifactError:
    """The error for what did not end in time."""
    hint = f"give it longer by {VARIABLE}=SECONDS; what never ends is a fault in rtcc: please report it"
    return ArtifactError(code, f"{what} within {seconds:,} seconds, and was stopped", where=where, hint=hint)
