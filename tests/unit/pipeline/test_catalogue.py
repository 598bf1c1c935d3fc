"""Which passes there are: the built-in table and plug-in files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.pipeline import Pass, catalogue
from rtcc.pipeline.catalogue import BUILT_IN, find_pass, load_plugin, pass_names
from rtcc.pipeline.run import RunOptions, run_pipeline
from tests.unit.pipeline.graphs import chain, module_of, op_names

PLUGIN = '''
from dataclasses import dataclass
from rtcc.ir.ops.math import Exp, Neg
from rtcc.pipeline import Pass, apply, rewrite

@rewrite(Exp)
def exp_to_neg(op, rw):
    rw.replace(op, Neg(op.data))

@dataclass(frozen=True)
class ExpToNeg(Pass):
    """Replace exp by neg."""
    def run(self, module):
        return apply(module, (exp_to_neg,), self.name)
'''


@pytest.fixture(autouse=True)
def _forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(catalogue, "_loaded", {})
    monkeypatch.setattr(catalogue, "_files", {})


def write(folder: Path, text: str, name: str = "my_pass.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_pass_loads_and_describes_itself(name: str) -> None:
    found = find_pass(name)
    assert found is not None
    assert issubclass(found, Pass)
    assert found.name == name
    assert found.description().endswith(".")
    assert BUILT_IN[name].startswith(f"rtcc.passes.{name.replace('-', '_')}:")


def test_unknown_pass() -> None:
    assert find_pass("no-such-pass") is None


def test_names_are_sorted_and_import_no_pass() -> None:
    code = (
        "import sys, rtcc.pipeline.catalogue as c; names = list(c.pass_names());"
        "assert names == sorted(names);"
        "assert not [m for m in sys.modules if m.startswith('rtcc.passes.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bare_import_of_passes_is_refused() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", "import passes"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "rtcc.passes" in run.stderr.strip().split("\n")[-1]


def test_plugin_is_found_and_runs(tmp_path: Path) -> None:
    (loaded,) = load_plugin(write(tmp_path, PLUGIN))
    assert loaded.name == "exp-to-neg"
    assert "exp-to-neg" in pass_names()
    load_plugin(tmp_path / "my_pass.py")
    from rtcc.ir.ops.math import Exp

    module = chain([Exp])
    assert run_pipeline(module, "exp-to-neg").changed
    assert op_names(module) == ["math.neg"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_plugin(tmp_path / "none.py")
    assert caught.value.code == "plugin-missing"


@pytest.mark.parametrize(
    ("text", "line", "mentions"),
    [("x = 1\nimport no_such_module_at_all\n", 2, "no_such_module_at_all"), ("def f(:\n", 1, "SyntaxError")],
)
def test_broken_file_names_its_line(tmp_path: Path, text: str, line: int, mentions: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load_plugin(path)
    assert caught.value.code == "plugin-broken"
    assert caught.value.where == f"{path}:{line}"
    assert mentions in caught.value.message


def test_file_without_a_pass(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_plugin(write(tmp_path, "from rtcc.pipeline import Pass\n"))
    assert caught.value.code == "plugin-empty"


def test_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_plugin(write(tmp_path, PLUGIN.replace("ExpToNeg", "FoldConstants")))
    assert caught.value.code == "pass-name-taken"
    load_plugin(write(tmp_path, PLUGIN, "first.py"))
    with pytest.raises(InvalidInput) as caught:
        load_plugin(write(tmp_path, PLUGIN, "second.py"))
    assert "first.py" in caught.value.message


DOCUMENT = Path(__file__).parents[3] / "docs" / "passes.md"


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_pass_is_documented_with_its_exactness(name: str) -> None:
    found = find_pass(name)
    assert found is not None
    assert (
        f"| `{name}` | {str(found.exactness).replace('rtol=', '').replace('e-06', 'e-6')} |"
        in DOCUMENT.read_text()
    )


def test_the_example_of_the_document_works(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    load_plugin(write(tmp_path, text.partition("```python\n")[2].partition("```")[0]))
    graph = text.partition("// rtcc opt -p square-of-abs\n")[2].partition("// ----- expect")[0]
    module = module_of(graph)
    report = run_pipeline(module, "square-of-abs", RunOptions(verify_each=True))
    assert report.changed
    assert op_names(module) == ["math.mul"]


def entry_point(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, catalogue.ENTRY_POINTS)

    def points(group: str) -> dict[str, EntryPoint]:
        return {name: point} if group == catalogue.ENTRY_POINTS else {}

    monkeypatch.setattr(catalogue, "entry_points_of", points)


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point(monkeypatch, "from-a-package", f"{__name__}:FromAPackage")
    assert "from-a-package" in pass_names()
    assert find_pass("from-a-package") is FromAPackage


@pytest.mark.parametrize(
    "value", ["no_such_package_at_all:Thing", "tests.unit.pipeline.test_catalogue:DOCUMENT"]
)
def test_broken_entry_points_are_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry_point(monkeypatch, "from-a-package", value)
    with pytest.raises(InvalidInput) as caught:
        find_pass("from-a-package")
    assert caught.value.code == "plugin-broken"
    assert f"from-a-package = {value} of the package" in (caught.value.where or "")


@dataclass(frozen=True)
class FromAPackage(Pass):
    """Stands for a pass that an installed package brings."""

    def run(self, module: Module) -> bool:
        return False
