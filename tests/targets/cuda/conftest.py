# pyright: basic
"""The stand-in driver that tests share."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from rtcc.system.child_process import Child
from tests.targets.cuda.hosted import driver_in, process


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in driver, built."""
    return driver_in(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def gpu(driver: Path) -> Generator[Child]:
    """A process that finds the driver; each `Driver` there begins anew."""
    with pytest.MonkeyPatch.context() as patch, process(driver, patch) as child:
        yield child
