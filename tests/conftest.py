"""Options of the whole test suite."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator

import pytest

if "OPENBLAS_NUM_THREADS" not in os.environ:  # threads of NumPy wait in a loop for a core
    os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from benchmarks.models.zoo import ModelMissing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what the passes give into the golden files"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: the garbage collector need not go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def idle_processes_stay() -> None:
    """Tests that compile nothing may take longer than a user is waited for."""
    from rtcc.targets.tvm import worker_pool
    from rtcc.verification import kernels

    worker_pool.IDLE_SECONDS = kernels.IDLE_SECONDS = 300.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    try:
        yield
    except ModelMissing as missing:
        pytest.skip(f"a model is not installed: {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        yield
    except ModelMissing as missing:
        pytest.skip(f"a model is not installed: {missing}")


def _lacks_something(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether a report says skipped for want of a tool or package that CI must have."""
    reason = str(report.longrepr)
    return report.skipped and ("is not installed" in reason or "could not import" in reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if "CI" in os.environ and _lacks_something(report):
        report.outcome, report.longrepr = "failed", f"with CI set nothing may be missing: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if "CI" in os.environ and _lacks_something(report):
        report.outcome, report.longrepr = "failed", f"with CI set nothing may be missing: {report.longrepr}"
    return report
