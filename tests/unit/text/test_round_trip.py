"""Print, parse and print again: the same bytes; parse what was printed: the same module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidInput, ParseError
from rtcc.ir import DType, Graph, Layout, Location, Module, TensorType, symbol
from rtcc.ir.ops.control import If
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.plan import Launch
from rtcc.text import check_blobs, parse_module, print_module, read_module, write_module
from rtcc.text.blobs import MAPPED_BYTES

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.rtir"))
SCALAR = TensorType(DType.F32, ())


def module_with(**constants: np.ndarray) -> Module:
    """A module whose entry graph returns nothing."""
    module = Module()
    for name, array in constants.items():
        module.add_constant(name, array)
    module.add_graph(Graph("main")).return_()
    return module


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_text_prints_as_it_reads(path: Path) -> None:
    assert print_module(parse_module(path.read_text(), source=str(path))) == path.read_text()


def test_white_space_comments_and_order_are_free() -> None:
    text = """
    // rtir   1 level=fused   target="x86"
    kernel @k ( ) { return( ) } // a kernel before the graph
    graph @main(%x:f32[ 2 , 3 ],
                %y:f32[2,3]) { %z=math.add(%x,%y):f32[2,3] return(%z,) }"""
    module = parse_module(text.replace("%z,)", "%z)").replace("[ 2 , 3 ]", "[2, 3]"))
    assert print_module(module).splitlines() == [
        "// rtir 1  level=fused  target=x86",
        "graph @main(%x: f32[2,3], %y: f32[2,3]) {",
        "  %z = math.add(%x, %y) : f32[2,3]",
        "  return(%z)",
        "}",
        "kernel @k() {",
        "  return()",
        "}",
    ]


def test_names_that_collide_get_a_suffix_and_unnamed_values_numbers() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("y", SCALAR), ("y_1", SCALAR)]))
    first, second = graph.parameters
    for name in ("y", "y", None, "0"):
        graph.append(Add(first, second)).result.name = name
    graph.return_(*(op.result for op in graph.ops))
    text = print_module(module)
    assert [line.split(" = ")[0].strip() for line in text.splitlines() if "math.add" in line] == [
        "%y_2", "%y_3", "%0", '%"0"',
    ]  # fmt: skip
    again = parse_module(text)
    assert [op.result.name for op in again.main.ops if op.results] == ["y_2", "y_3", None, "0"]
    assert print_module(again) == text


@pytest.mark.parametrize(
    "name", ["", "a.b", "1a", "%x", 'a"b\\', "π/é:0", "\n\t\r\0", "\u2028\x85", "\ud800", "a b", "_"]
)
def test_any_name_survives(name: str) -> None:
    module = Module(metadata={name: name}, dimensions={name: (1, 4)})
    shape = TensorType(DType.F32, (symbol(name, 1, 4),))
    constant = module.add_constant(name, np.ones(1, np.float32))
    graph = module.add_graph(Graph("main", [(name, shape)]))
    op = graph.append(Add(graph.parameters[0], constant, location=Location((name,), (name,))))
    op.result.name = "sum"
    graph.attributes[name or "x"] = name
    graph.return_(op.result)
    module.kernels[name] = Graph(name)
    module.kernels[name].return_()
    text = print_module(module)
    text.encode("utf-8")
    again = parse_module(text)
    assert print_module(again) == text
    assert again.main.parameters[0].name == name
    assert again.main.parameters[0].type == shape
    assert (list(again.constants), list(again.kernels), again.metadata) == ([name], [name], {name: name})
    assert next(again.main.ops).location == Location((name,), (name,))


def test_equal_to_default_is_left_out_and_integers_become_floats_where_floats_are_meant() -> None:
    from rtcc.ir.ops.activation import LeakyRelu

    def printed(**attributes: Any) -> str:
        module = Module()
        graph = module.add_graph(Graph("main", [("x", SCALAR)]))
        graph.return_(graph.append(LeakyRelu(graph.parameters[0], **attributes)).result)
        return print_module(module).splitlines()[2].strip()

    assert printed() == printed(alpha=0.01) == "%0 = math.leaky_relu(%x) : f32[]"
    assert printed(alpha=1) == "%0 = math.leaky_relu(%x) {alpha = 1.0} : f32[]"
    assert printed(alpha=float(np.float32(0.1))) == "%0 = math.leaky_relu(%x) {alpha = 0.1} : f32[]"


def test_empty_and_mixed_lists_survive() -> None:
    graph = Graph("main", [("x", SCALAR)])
    graph.attributes = {
        "none": (),
        "floats": (1.0, 2.5),
        "ints": (1, -2),
        "strings": ("a", ","),
        "deep": {"a": {}},
    }
    graph.append(Launch(graph.parameters[0], kernel="k", places=(), types=()))
    graph.return_()
    again = parse_module(print_module(Module(graphs={"main": graph})).replace('"k"', "@k")).main
    assert again.attributes == graph.attributes
    assert next(again.ops).attributes["places"] == ()


def test_two_hundred_nested_regions_need_no_recursion() -> None:
    module = Module()
    condition = TensorType(DType.BOOL, ())
    graph = module.add_graph(Graph("main", [("p", condition)]))
    (parameter,) = graph.parameters
    regions = [graph, *(Graph() for _ in range(400))]
    for inner, outer in zip(reversed(regions[1:]), reversed(regions[:-1]), strict=True):
        if inner is regions[-1]:
            inner.return_(parameter)
        other = Graph()
        other.return_(parameter)
        op = If(parameter, regions=[inner, other], types=[condition])
        outer.append(op)
        outer.return_(op.result)
    text = print_module(module)
    assert print_module(parse_module(text)) == text


def test_layouts_are_part_of_the_type() -> None:
    type = TensorType(DType.F32, (1, 20, 5, 5), Layout.blocked(4, 16, halo=(1, 1, 1, 1)))
    module = Module()
    graph = module.add_graph(Graph("main", [("x", type)]))
    graph.return_(graph.parameters[0])
    assert parse_module(print_module(module)).main.parameters[0].type == type


# ---- files


def test_big_constants_lie_beside_the_text_once(tmp_path: Path) -> None:
    big = np.arange(MAPPED_BYTES // 4, dtype=np.float32)
    module = module_with(
        a=np.arange(17, dtype=np.int8), b=np.arange(17, dtype=np.int8), c=big, d=np.zeros(16)
    )
    write_module(module, tmp_path / "model.rtir")
    assert len(list((tmp_path / "blobs").iterdir())) == 2
    again = read_module(tmp_path / "model.rtir")
    check_blobs(again)
    assert isinstance(again.constants["c"].data, np.memmap)
    for name in "abcd":
        assert np.array_equal(again.constants[name].array, module.constants[name].array)
        assert not again.constants[name].array.flags.writeable
    assert print_module(again) == (tmp_path / "model.rtir").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "model.rtir"]


@pytest.mark.parametrize("cloned", [False, True])
def test_blobs_are_linked_when_written_elsewhere(tmp_path: Path, cloned: bool) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_module(module_with(c=np.ones(MAPPED_BYTES, np.int8).cumsum(dtype=np.int8)), tmp_path / "one/m.rtir")
    again = read_module(tmp_path / "one/m.rtir")
    write_module(again.clone() if cloned else again, tmp_path / "two/m.rtir")
    (first,) = (tmp_path / "one/blobs").iterdir()
    (second,) = (tmp_path / "two/blobs").iterdir()
    assert first.samefile(second)


def test_a_blob_that_is_a_link_is_followed(tmp_path: Path) -> None:
    """As caches of large files have them: the new folder has the bytes, not a link that leads nowhere."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_module(module_with(c=np.arange(100)), tmp_path / "one/m.rtir")
    (blob,) = (tmp_path / "one/blobs").iterdir()
    kept = blob.rename(tmp_path / "one/kept")
    blob.symlink_to("../kept")
    write_module(read_module(tmp_path / "one/m.rtir"), tmp_path / "two/m.rtir")
    (copy,) = (tmp_path / "two/blobs").iterdir()
    assert not copy.is_symlink()
    assert copy.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("dtype", [d for d in DType if d.bits], ids=lambda d: d.value)
def test_blobs_of_every_type(tmp_path: Path, dtype: DType) -> None:
    array = np.arange(24).astype(np.float32).astype(dtype.numpy).reshape(4, 6)
    write_module(module_with(a=array, s=np.array(list("abcdefghijklmnopqrst"), object)), tmp_path / "m.rtir")
    again = read_module(tmp_path / "m.rtir").constants
    assert again["a"].array.dtype == array.dtype
    assert again["a"].array.tobytes() == array.tobytes()
    assert "".join(again["s"].array) == "abcdefghijklmnopqrst"


def test_damaged_blobs(tmp_path: Path) -> None:
    path = tmp_path / "m.rtir"
    write_module(module_with(a=np.arange(100)), path)
    (blob,) = (tmp_path / "blobs").iterdir()
    blob.write_bytes(bytes(800))
    with pytest.raises(ParseError, match=r"bad-blob.*hash"):
        check_blobs(read_module(path))
    blob.write_bytes(bytes(799))
    with pytest.raises(ParseError, match="takes 800 bytes, the blob has 799"):
        read_module(path)
    blob.unlink()
    with pytest.raises(ParseError, match="missing-blob"):
        read_module(path)


@pytest.mark.parametrize("count", [100, MAPPED_BYTES])
def test_damaged_bytes_of_the_right_size_are_never_computed_with(tmp_path: Path, count: int) -> None:
    path, module = tmp_path / "m.rtir", module_with(a=np.arange(count))
    write_module(module, path)
    (blob,) = (tmp_path / "blobs").iterdir()
    right = blob.read_bytes()
    blob.write_bytes(bytes(len(right)))
    damaged = read_module(path)
    with pytest.raises(ParseError, match=r"bad-blob.*hash"):
        _ = damaged.constants["a"].array
    (tmp_path / "other").mkdir()
    with pytest.raises(ParseError, match=r"bad-blob.*hash"):
        write_module(damaged, tmp_path / "other" / "m.rtir")
    write_module(module, path)
    assert blob.read_bytes() == right
    assert np.array_equal(read_module(path).constants["a"].array, np.arange(count))


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        read_module(tmp_path / "none.rtir")
    (tmp_path / "binary.rtir").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParseError, match="no text IR"):
        read_module(tmp_path / "binary.rtir")
    with pytest.raises(InvalidInput, match="cannot write"):
        write_module(module_with(), tmp_path / "no/such/folder/m.rtir")


def test_positions_of_ops() -> None:
    module = parse_module("// rtir 1  level=graph\ngraph @main() {\n  return()\n}\n", source="m.rtir")
    assert module.positions[module.main.terminator] == "m.rtir:3:3"
