"""What NVIDIA's driver says of a GPU. Needs ctypes alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_ATTRIBUTES = {
    "clock": 13, "multiprocessors": 16, "memory_clock": 36, "bus_width": 37, "l2": 38,
    "major": 75, "minor": 76,
}  # fmt: skip
"""CUdevice_attribute of cuda.h; clocks are the highest ones, in kHz."""


@dataclass(frozen=True)
class GpuFacts:
    """A GPU. gigahertz: the highest clock of its multiprocessors. gigabytes_per_second: of its memory at the
    highest clock; 0 where the driver says none. cuda: the version that the driver supports ("13.0")."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    gigahertz: float
    gigabytes_per_second: float
    l2: int
    cuda: str


def gpu_facts(number: int) -> GpuFacts:
    """The GPU of a number. OSError where there is no driver, or it refuses."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)

    def require(code: int) -> None:
        if code:
            raise OSError(f"the driver of the GPU said {code}")

    require(driver.cuInit(0))
    require(driver.cuDeviceGet(ctypes.byref(device), number))
    require(driver.cuDriverGetVersion(ctypes.byref(version)))
    require(driver.cuDeviceGetName(name, len(name), device))
    found: dict[str, int] = {}
    for key, attribute in _ATTRIBUTES.items():
        value = ctypes.c_int()
        require(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        found[key] = value.value
    transferred = 2 * found["memory_clock"] * 1e3 * found["bus_width"] / 8  # twice in a clock
    return GpuFacts(
        name.value.decode(errors="replace"), (found["major"], found["minor"]), found["multiprocessors"],
        found["clock"] / 1e6, transferred / 1e9, found["l2"],
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )  # fmt: skip
