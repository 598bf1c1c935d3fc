"""Who may import whom, what importing costs, and what needs which packages."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNTIMES = frozenset({"onnxruntime", "openvino", "ncnn", "pnnx", "MNN", "tensorflow"})


def sources(folder: str) -> list[Path]:
    """The Python files of a top-level folder, links to other folders left out."""
    links = [path for path in (ROOT / folder).iterdir() if path.is_symlink()]
    return [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(path.is_relative_to(link) for link in links)
    ]


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax tree; a file is read by many tests."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The modules that a file imports anywhere in it, with the line."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def offenders(folder: str, *banned: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Imports of the banned packages in a folder, save in the allowed files or folders."""
    excused = [ROOT / each for each in allowed]
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        if not any(path.is_relative_to(each) for each in excused)
        for name, line in imports(path)
        if any(name == each or name.startswith(f"{each}.") for each in banned)
    ]


def python(code: str) -> str:
    """Run code in a process of its own, warnings as errors; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_names_no_pass_and_no_target() -> None:
    assert offenders("rtcc", "rtcc.passes", "rtcc.targets") == []


def test_the_core_knows_passes_by_what_they_declare() -> None:
    """Outside the catalogue no string of the core is a pass's name or pipeline text; hints may speak of one.

    Names of one word are left out: `quantize` is a command, too.
    """
    from rtcc.pipeline.catalogue import BUILT_IN

    names = {name for name in BUILT_IN if "-" in name}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} has {node.value!r}"
        for path in sources("rtcc")
        if path != ROOT / "rtcc" / "pipeline" / "catalogue.py"
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and not names.isdisjoint(re.split(r"[,{}]", node.value))
    ]  # fmt: skip
    assert found == []


def test_passes_and_targets_do_not_know_each_other() -> None:
    assert offenders("passes", "rtcc.targets") == []
    assert offenders("targets", "rtcc.passes") == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets", "benchmarks", "examples"])
def test_only_tests_import_tests(folder: str) -> None:
    assert offenders(folder, "tests") == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets"])
def test_benchmarks_serve_tests_and_people_alone(folder: str) -> None:
    assert offenders(folder, "benchmarks") == []


def test_only_targets_import_tvm() -> None:
    assert offenders("rtcc", "tvm") + offenders("passes", "tvm") == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets"])
def test_only_the_onnx_package_imports_onnx(folder: str) -> None:
    assert offenders(folder, "onnx", "onnx_graphsurgeon", allowed=("rtcc/onnx",)) == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets"])
def test_only_peers_import_other_runtimes(folder: str) -> None:
    assert offenders(folder, *RUNTIMES, allowed=("rtcc/peers.py",)) == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets"])
def test_only_training_imports_torch(folder: str) -> None:
    assert offenders(folder, "torch", allowed=("rtcc/training",)) == []


@pytest.mark.parametrize("folder", ["rtcc", "passes", "targets"])
def test_no_bare_import_of_the_linked_folders(folder: str) -> None:
    assert offenders(folder, "passes", "targets") == []


@pytest.mark.parametrize("name", ["passes", "targets"])
def test_a_bare_import_is_refused(name: str) -> None:
    code = f"import {name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"write `import rtcc.{name}` instead" in done.stderr


GLOBAL_STATE = """
import faulthandler, gc, locale, logging, os, random, signal, sys, threading, warnings
import numpy

def state():
    return {
        "environment": dict(os.environ), "path": list(sys.path), "hooks": (sys.excepthook, sys.meta_path[:]),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "warnings": list(warnings.filters), "locale": locale.setlocale(locale.LC_ALL),
        "random": random.getstate(),
        "numpy": (numpy.geterr(), numpy.get_printoptions(), numpy.random.get_state()[1].tolist()),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()], "cwd": os.getcwd(),
        "logging": (list(logging.root.handlers), logging.root.level), "faults": faulthandler.is_enabled(),
        "threads": threading.active_count(), "cores": os.sched_getaffinity(0), "umask": os.umask(0o22),
    }

before = state()
"""


def test_importing_changes_no_global_state_and_stays_light() -> None:
    code = """
import rtcc
heavy = {"tvm", "onnx", "onnx_graphsurgeon", "lark", "typer", "rich"} & set(sys.modules)
assert not heavy, heavy
for name in ("rtcc.artifact", "rtcc.compiler", "rtcc.interpreter", "rtcc.ir", "rtcc.pipeline", "rtcc.session",
             "rtcc.target", "rtcc.text"):
    __import__(name)
heavy = {"tvm", "onnx", "onnx_graphsurgeon"} & set(sys.modules)
assert not heavy, heavy
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, changed
"""
    python(GLOBAL_STATE + code)


BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
"""


def test_a_warm_compile_never_imports_tvm(tmp_path: Path) -> None:
    model = ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx"
    compile_it = f"import rtcc; rtcc.compile({str(model)!r})"
    python(compile_it)
    python(f'BLOCKED = {{"tvm"}}\n{BLOCK}\n{compile_it}')


def test_numpy_alone_loads_and_runs_artefacts(tmp_path: Path) -> None:
    model = ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx"
    path = tmp_path / "lenet.so"
    python(f"import rtcc; rtcc.compile({str(model)!r}).save({str(tmp_path / 'lenet5_mnist.so')!r})")
    (tmp_path / "lenet5_mnist.so").rename(path)
    blocked = ("tvm", "onnx", "onnx_graphsurgeon", "lark", "typer", "rich", "ml_dtypes", "click")
    code = f"""
BLOCKED = {set(blocked)}
{BLOCK}
import numpy, rtcc
with rtcc.load({str(path)!r}) as artifact:
    outputs = artifact.run({{"image": numpy.zeros((1, 1, 28, 28), numpy.float32)}})
    binding = artifact.bind({{"image": numpy.zeros((1, 1, 28, 28), numpy.float32)}})
    binding()
    assert (binding.outputs["logits"] == outputs["logits"]).all()
    print(outputs["logits"].shape)
"""
    assert python(code) == "(1, 10)\n"


def test_training_says_what_it_needs() -> None:
    code = f"""
BLOCKED = {{"torch"}}
{BLOCK}
import rtcc, rtcc.training.settings
try:
    rtcc.distill("teacher.onnx", "student.onnx", "data.npz")
except rtcc.RtccError as error:
    print(error)
"""
    assert 'error[torch-missing]' in (said := python(code))
    assert 'pip install "rtcc[train]"' in said


def test_criteria_by_gradients_say_what_they_need() -> None:
    folder = ROOT / "tests" / "data" / "digits"
    code = f"""
BLOCKED = {{"torch"}}
{BLOCK}
import rtcc
try:
    rtcc.prune(r"{folder}/residual.onnx", r"{folder}/training_digits.npz", criterion="fisher", samples=4)
except rtcc.RtccError as error:
    print(error)
"""
    assert "error[torch-missing]: a criterion by gradients runs in PyTorch" in python(code)


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_find_their_own_modules(script: Path) -> None:
    """Each is run by its path, from any folder: the root comes first on `sys.path`, then what is imported."""
    text = script.read_text()
    imported = re.search(r"^ *from benchmarks", text, re.MULTILINE)
    placed = text.find("sys.path.insert(0, str(Path(__file__)")
    assert imported is None or 0 <= placed < imported.start()


def test_the_public_interface_is_what_the_page_lists() -> None:
    page = (ROOT / "docs" / "stability.md").read_text()
    listed = re.findall(r"^    (rtcc\.[\w.]+)$", page, re.MULTILINE)
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    package = importlib.import_module("rtcc")
    public = {f"rtcc.{name}" for name in package.__all__ if not name.startswith("__")}
    assert public == {name for name in listed if name.count(".") == 1}
    assert set(package.__all__) <= set(dir(package))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        importlib.import_module("rtcc").frobnicate  # noqa: B018
