# pyright: basic
"""An ssh server on this machine that takes one key, and knows nothing of the machine's own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PasswordAuthentication no
UsePAM no
SetEnv TMPDIR={folder}/temporary
"""

CLIENT = """\
Host there
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking no
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Server:
    """A server that answers: the command that reaches it, as host `there`; its temporary files' folder."""

    command: str
    temporary: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() or shutil.which("ssh") is None:
        pytest.skip("openssh-server is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "temporary").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd.conf").write_text(CONFIGURATION.format(port=port, folder=folder))
    (folder / "ssh.conf").write_text(CLIENT.format(port=port, folder=folder, user=getpass.getuser()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it goes before a login
    command = [sshd, "-D", "-e", "-f", str(folder / "sshd.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            wait_for(port, process)
            yield Server(f"ssh -F {folder / 'ssh.conf'}", folder / "temporary")
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers."""
    for _ in range(100):
        assert process.poll() is None, process.stderr and process.stderr.read()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the ssh server does not answer")


@pytest.fixture
def there(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the machine over there, on which nothing is left in the end."""
    monkeypatch.setenv("RTCC_SSH", server.command)
    yield "there"
    assert list(server.temporary.iterdir()) == []
