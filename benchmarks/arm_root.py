"""A folder with an AArch64 Python and other runtimes' AArch64 wheels, to be run under QEMU.

    python -m benchmarks.arm_root build/arm-root

Takes Debian's packages of Python 3.11 for arm64, by an apt of its own whose lists lie in the folder, and
PyPI's wheels; the system's packages are left alone. The runtimes look at /proc/cpuinfo and /sys for the core
that they run on; QEMU opens files of the folder in place of the machine's where it has them.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from rtcc.emulation.emulator import Emulator, find_emulator

PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgomp1")
WHEELS = ("onnxruntime", "ncnn", "numpy")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""One Cortex-A76, as Linux tells it on a Raspberry Pi 5."""


def prepare(root: Path) -> None:
    """Fill the folder, unless that was done before."""
    done = root / "done"
    if done.exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    _unpack_packages(root)
    _unpack_wheels(root)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(CPUINFO)
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text("0\n")
    _start_once(root)
    done.touch()


def environment(root: Path) -> dict[str, str]:
    """What the AArch64 Python needs to find its modules and the wheels."""
    home = str((root / "usr").absolute())
    return {"PYTHONHOME": home, "PYTHONPATH": str((root / "wheels").absolute()), "PYTHONHASHSEED": "0"}


def python(root: Path) -> Path:
    return (root / "usr/bin/python3.11").absolute()


def emulator(root: Path) -> Emulator:
    """QEMU with the folder's libraries in place of the cross compiler's."""
    return Emulator("aarch64", find_emulator("aarch64").program, root.absolute())


def _start_once(root: Path) -> None:
    """Import all wheels: Python keeps its bytecode, which the first start of all would be counted with."""
    words = [str(python(root)), "-c", f"import {', '.join(WHEELS)}"]
    command = [*emulator(root).command("cortex-a76"), *words]
    subprocess.run(command, env=environment(root), check=True)


def _unpack_packages(root: Path) -> None:
    apt = (root / "apt").absolute()
    for each in ("lists/partial", "cache/archives/partial"):
        (apt / each).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State::lists": f"{apt}/lists",
        "Dir::State::status": f"{apt}/status", "Dir::Cache": f"{apt}/cache",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    subprocess.run(["apt-get", *words, "update", "-qq"], check=True)
    install = ["install", "-qq", "-y", "--download-only", "--no-install-recommends"]
    subprocess.run(["apt-get", *words, *install, *PACKAGES], check=True)
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)


def _unpack_wheels(root: Path) -> None:
    folder = root / "downloaded"
    platforms = [word for each in PLATFORMS for word in ("--platform", each)]
    words = ["--python-version", "3.11", "--only-binary=:all:", "--no-deps", "-q", "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *platforms, *words, *WHEELS], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(root / "wheels")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
