"""The map of the micro-kernels' modules, in their package's docstring, names all that there are."""

from __future__ import annotations

import re
from pathlib import Path

import rtcc.targets.tvm.kernels as kernels


def test_the_map_has_every_module_once() -> None:
    folder = Path(kernels.__path__[0])
    paths = [path.relative_to(folder) for path in folder.rglob("*.py") if path.name != "__init__.py"]
    modules = sorted(".".join(path.with_suffix("").parts) for path in paths)
    rows = re.findall(r"^\| ([\w., ]+?) \| ", kernels.__doc__ or "", re.MULTILINE)
    assert rows[0] == "module"
    assert sorted(name for row in rows[1:] for name in row.split(", ")) == modules


def test_every_family_says_what_it_is() -> None:
    folder = Path(kernels.__path__[0])
    for family in (path for path in folder.iterdir() if (path / "__init__.py").exists()):
        assert (family / "__init__.py").read_text().startswith('"""'), family.name
