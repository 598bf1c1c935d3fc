"""The parts of an artefact one by one: codes, constants, checksums, features, description, shapes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtcc.artifact.codes import CODES, Part, enum_text, function_text, table_text
from rtcc.artifact.elf import Elf, rename_and_hide
from rtcc.artifact.info import ArtifactInfo, TensorInfo
from rtcc.emission.blob import LARGEST_EMBEDDED, blob_of, checksum, require_embeddable
from rtcc.emission.features import requirements
from rtcc.emission.shapes import shape_function_text
from rtcc.errors import CodegenError, Unsupported
from rtcc.ir import DType, Graph, Layout, TensorType, symbol
from rtcc.ir.ops.plan import PlanConstant
from tests.artifact.plans import FLOATS, Plan, object_of, source_of

ROOT = Path(__file__).parents[2]


def test_codes_are_zero_or_negative_and_unique() -> None:
    assert CODES[0].value == 0
    assert all(code.value < 0 for code in CODES[1:])
    assert len({code.value for code in CODES}) == len({code.name for code in CODES}) == len(CODES)
    assert enum_text().count(" = ") == len(CODES)


PARTS = {
    "mapped_weights.c": Part.WEIGHTS_FILE, "pool.c": Part.THREADS, "cuda_device.c": Part.DEVICE,
    "cuda.c": Part.DEVICE, "cuda_entries.c": Part.DEVICE,
    "cuda_profile.c": Part.DEVICE, "driver.c": Part.DEVICE,
}  # fmt: skip
"""C files with codes of their own, and the part of an artefact that they are."""


def test_artefacts_have_texts_for_the_codes_that_they_return() -> None:
    seen = set[str]()
    for folder in ("rtcc/emission", "targets/fpga/image"):
        for path in sorted((ROOT / folder).glob("*.c")):
            text = function_text(*([PARTS[path.name]] if path.name in PARTS else []))
            for code in CODES:
                if re.search(rf"\bRTCC_{code.name}\b", path.read_text()):
                    seen.add(code.name)
                    assert f'case {code.value}: return "{code.text}"' in text, (path.name, code.name)
    kernels = {"INDEX_OUT_OF_RANGE", "SIZE_OUT_OF_RANGE", "NOT_RUN"}  # generated code returns their numbers
    assert {code.name for code in CODES} - kernels <= seen
    assert "device" not in function_text()


def test_the_documentation_lists_the_codes() -> None:
    assert table_text() in (ROOT / "docs" / "artifact.md").read_text(encoding="utf-8")


def test_constants_lie_at_their_places_in_their_layout() -> None:
    plan = Plan.of()
    array = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    packed = TensorType(DType.F32, (1, 3, 2), Layout.blocked(3, 4))
    constant = plan.module.add_constant("w", array, packed)
    plan.graph.append(PlanConstant(constant, place="const+128", types=[packed]))
    splat = plan.module.add_constant("s", np.array(7, np.int8), TensorType(DType.I8, (5,)))
    plan.graph.append(PlanConstant(splat, place="const+0", types=[splat.type]))
    plan.graph.return_()
    blob = blob_of(plan.module)
    assert len(blob) == 192
    assert blob[:6] == b"\7\7\7\7\7\0"
    stored = np.frombuffer(blob, np.float32, 8, 128).reshape(2, 4)
    np.testing.assert_array_equal(stored, [[0, 2, 4, 0], [1, 3, 5, 0]])


def test_checksum_equals_the_loop_in_the_runtime() -> None:
    words = np.random.default_rng(0).integers(0, 2**63, 3000, np.uint64) * np.uint64(2)
    total = both = 0
    for word in words.tolist():
        total = (total + word) % 2**64
        both = (both + total) % 2**64
    found = checksum(words.tobytes())
    assert (found.sum, found.sum_of_sums) == (total, both)
    big = np.tile(words, 1000)
    assert checksum(big.tobytes()) != checksum(big[::-1].tobytes())


def test_weights_beyond_reach_must_stay_outside() -> None:
    with pytest.raises(Unsupported, match="--weights external"):
        require_embeddable(LARGEST_EMBEDDED + 1)


def test_features_become_bits() -> None:
    found = requirements("x86_64", ["avx512f", "avx2", "avx512vnni", "avx2"])
    assert [(w.leaf, w.subleaf, w.word, w.mask) for w in found.words] == [
        (7, 0, 1, 1 << 5 | 1 << 16), (7, 0, 2, 1 << 11),
    ]  # fmt: skip
    assert found.xcr0 == 0xE6
    assert requirements("aarch64", ["dotprod", "i8mm"]).xcr0 == 0
    assert requirements("thumbv7em", []).words == ()
    with pytest.raises(CodegenError, match="dotprod"):
        requirements("x86_64", ["dotprod"])


def test_the_description_comes_back() -> None:
    info = source_of("positive").info
    assert info.outputs[0].symbolic == ("K",)
    assert ArtifactInfo.from_json(info.to_json()) == info
    with pytest.raises(ValueError, match="ABI"):
        ArtifactInfo.from_json(info.to_json().replace('"abi":1', '"abi":2'))
    with pytest.raises(ValueError, match="two outputs have one name"):
        ArtifactInfo.from_json(replace(info, outputs=info.outputs * 2).to_json())


@pytest.mark.parametrize(
    ("dtype", "alignment"),
    [("f32", 4), ("i64", 8), ("c64", 4), ("c128", 8), ("i4", 1), ("bool", 1), ("bf16", 2)],
)
def test_alignment_is_that_of_an_element(dtype: str, alignment: int) -> None:
    assert TensorInfo("x", (1,), dtype, 1).alignment == alignment


def test_names_that_c_could_misread() -> None:
    plan = Plan.of()
    x = plan.graph.add_parameter(FLOATS, 'a"\\*/??/é\n')
    (y,) = plan.launch("twice", x, places=("user:0",))
    from rtcc.emission.emit_c import emit_c
    from rtcc.system.machine import Machine

    source = emit_c(plan.finish(y), "9*?", Machine("x86_64"), {"twice": object_of("twice")})
    assert source.info.name == "model_9"
    assert source.header.isascii()
    assert "#define MODEL_9_INPUT_A 0 /* " in source.header


def test_shapes_follow_the_data() -> None:
    graph = Graph("main")
    size = symbol("K", 0, 100)
    y = graph.add_parameter(TensorType(DType.F32, (2, size * 3 + 1, (size + 1) // 2)), "y")
    graph.return_(y)
    with pytest.raises(Unsupported, match="depends on K"):
        shape_function_text(graph)
    graph.attributes["sizes"] = {"K": "workspace+64"}
    text = shape_function_text(graph)
    k = "*(const int64_t *)(arena + 64)"
    assert f"shape[1] = 3 * {k} + 1;" in text
    assert f"shape[2] = 1 * ((1 * {k} + 1) / 2) + 0;" in text


def test_a_kernel_is_renamed_and_hidden() -> None:
    new = "a_much_longer_name_than_before_" * 5
    renamed = Elf(rename_and_hide(object_of("twice"), "twice", new), "x")
    assert [s.name for s in renamed.symbols if s.is_global and s.is_defined] == [new]
