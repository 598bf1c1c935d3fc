"""A folder on another machine, reached over ssh: what it takes there is a shell and tar."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from rtcc.errors import ArtifactError, InvalidInput, ToolMissing
from rtcc.system.time_limit import run_within, time_limit, too_late

COMMAND = "RTCC_SSH"
"""Names another command than ssh, with options, as $GIT_SSH_COMMAND does for git."""

OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
"""Nobody is asked for passwords; a machine that is gone is noticed within a minute."""

FAILED, LATE = "remote-failed", "remote-timeout"
"""Codes of the errors for a machine or program that does not do what it should, or not in time."""

SECONDS_OF_GRACE = 60
"""That a command may take longer than the program that it starts there, for copying and waiting."""

ALARM = str(128 + 14)
"""What a shell says of a program that SIGALRM ended."""

NO_CONNECTION = 255
"""ssh's own exit status where it could not connect, or lost the connection."""

OPENING = """\
folder=$(mktemp -d "${TMPDIR:-/tmp}/rtcc-XXXXXX") && chmod 700 "$folder" || exit 1
model=$(tr -d '\\000' 2>/dev/null < /proc/device-tree/model)
: "${model:=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)}"
governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)
printf '%s\\n' "$folder" "$(uname -m)" "$(uname -sr)" "$model" "$governor"
"""
"""Makes a folder there; prints it, the machine, the system, the board or CPU, and what sets frequencies."""


@dataclass(frozen=True)
class Description:
    """What a machine says of itself: architecture as `uname -m` has it; texts are empty where it does not."""

    architecture: str
    system: str
    model: str
    governor: str


class Host:
    """A machine that ssh reaches, and a folder of our own on it, which `close` removes."""

    def __init__(self, name: str) -> None:
        """Connect. name: as ssh takes it, user@host or an entry of its configuration.

        Raises InvalidInput `remote-host` for what is no name of a host, ToolMissing `ssh-missing`,
        ArtifactError `remote-failed` with ssh's words where it cannot be reached or used, `remote-timeout`
        where it does not answer in time.
        """
        if not name or name.startswith("-") or any(c.isspace() or not c.isprintable() for c in name):
            raise InvalidInput("remote-host", f"expected user@host, found {name!r}",
                               hint="or a Host of ssh's configuration")  # fmt: skip
        self.name = name
        self.seconds = time_limit()
        self._is_lost = False
        self._command = _ssh()
        lines = self._run(OPENING).decode(errors="replace").splitlines()
        if len(lines) != 5:
            message = f"{name} answered {lines!r}, expected a folder and what the machine is"
            raise ArtifactError(FAILED, message, hint="a login there should print nothing")
        self.folder = lines[0]
        self.description = Description(*lines[1:])

    def put(self, files: Mapping[str, bytes], mode: int = 0o700) -> None:
        """Write files into the folder."""
        self._run(f"cd {shlex.quote(self.folder)} && tar -xf -", _packed(files, mode))

    def run(self, words: list[str], files: Mapping[str, bytes], wanted: str) -> dict[str, bytes]:
        """Run a program of the folder, in it, on some files; what it printed and wrote, by name.

        wanted: a pattern of the shell for what it writes. Besides, `said` is what it printed, `complaints`
        what it printed to standard error and `status` the number that it ended with. Nothing stays there.
        ArtifactError `remote-timeout` for a program that its alarm ended.
        """
        inside = f"cd {shlex.quote(self.folder)} && rm -rf run && mkdir run && tar -xf - -C run"
        program = f"{shlex.join(words)} >run/said 2>run/complaints; echo $? >run/status"
        packing = f"cd run && tar -cf - said complaints status $(ls {wanted} 2>/dev/null); rm -rf ../run"
        answer = self._run(f"{inside} && {{ {program}; {packing}; }}", _packed(files))
        try:
            with tarfile.open(fileobj=io.BytesIO(answer)) as archive:
                members = [(each.name, archive.extractfile(each)) for each in archive if each.isfile()]
                found = {name: file.read() for name, file in members if file is not None}
            status = found["status"].decode(errors="replace").strip()
        except (tarfile.TarError, KeyError) as error:
            message = f"{self.name}: expected an archive of what was written there, found none: {error}"
            raise ArtifactError(FAILED, message, hint=self._by_hand("mktemp and tar work")) from error
        if status == ALARM:
            raise too_late(LATE, f"{words[0]} on {self.name} did not end", self.seconds, self.name)
        return found

    def close(self) -> None:
        """Remove the folder there, unless nobody answers any more."""
        if not self._is_lost:
            self._run(f"rm -rf {shlex.quote(self.folder)}")

    def _run(self, script: str, given: bytes = b"") -> bytes:
        """What a script of the shell prints there."""
        command = [*self._command, "--", self.name, f"exec sh -c {shlex.quote(script)}"]
        self._is_lost = True  # until it answers
        done = run_within(self.seconds + SECONDS_OF_GRACE, command, LATE, self.name, given=given)
        self._is_lost = done.returncode == NO_CONNECTION
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode(errors="replace").strip()
        wanted = "" if self._is_lost else "mktemp and tar work, and there is room for files"
        message = f"{self.name}: {said or f'the shell there ended with {done.returncode}'}"
        raise ArtifactError(FAILED, message, hint=self._by_hand(wanted))

    def _by_hand(self, wanted: str) -> str:
        """What to try; wanted: what to look for there."""
        command = shlex.join([*self._command, self.name])
        return f"try `{command}`" + (f", and see that {wanted}" if wanted else "")


def _ssh() -> list[str]:
    """The command that connects, with its options."""
    text = os.environ.get(COMMAND, "")
    try:
        command = shlex.split(text) or ["ssh"]
    except ValueError as error:
        message, hint = f"${COMMAND} is no command: {text!r} ({error})", "unset it, or correct it"
        raise ToolMissing("ssh-missing", message, hint=hint) from error
    if shutil.which(command[0]) is None:
        hint = f"apt-get install openssh-client (Debian, Ubuntu), or name one in ${COMMAND}"
        raise ToolMissing("ssh-missing", f"{command[0]!r} was not found", hint=hint)
    return [*command, *OPTIONS]


def _packed(files: Mapping[str, bytes], mode: int = 0o600) -> bytes:
    """Files as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(contents), mode
            archive.addfile(member, io.BytesIO(contents))
    return buffer.getvalue()
