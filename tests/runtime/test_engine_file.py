"""An engine file is read back as it was written, or refused with one line that says why."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import Manifest, TensorRTTarget

from .engines import engine_graphs, engine_manifest, write_engine
from .run_helpers import start_run

GRAPHS = {"encoder": b"encoder" * 900, "decoder": b"decoder" * 500, "loop": bytes(range(256)) * 9}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.resam"
    write_engine_file(path, engine_manifest(), GRAPHS)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ResamError) as caught:
        EngineFile.open(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def rewrite(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a ZIP of our own making, in the order given."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_manifest(path: Path, **changes: Any) -> None:
    entries = entries_of(path)
    manifest = {**json.loads(entries["manifest.json"]), **changes}
    rewrite(path, {**entries, "manifest.json": json.dumps(manifest).encode()})


def test_what_was_written_is_read_back(engine: Path) -> None:
    opened = EngineFile.open(engine)
    assert {name: bytes(opened.graph(name)) for name in GRAPHS} == GRAPHS
    assert opened.manifest.requery == "box+points"
    assert Manifest.from_json(opened.manifest.to_json()) == opened.manifest


def test_any_zip_tool_reads_it_and_finds_the_manifest_first(engine: Path) -> None:
    with zipfile.ZipFile(engine) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    assert [info.filename for info in infos] == ["manifest.json", "encoder.onnx", "decoder.onnx", "loop.onnx"]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


def test_graphs_may_come_from_files_and_the_result_is_the_same(engine: Path, tmp_path: Path) -> None:
    sources: dict[str, Path] = {}
    for name, data in GRAPHS.items():
        sources[name] = tmp_path / f"{name}.bin"
        sources[name].write_bytes(data)
    other = tmp_path / "other.resam"
    write_engine_file(other, engine_manifest(), sources)
    assert other.read_bytes() == engine.read_bytes()


@pytest.mark.slow
def test_graphs_beyond_two_gigabytes_work(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("needs 6 GB of disk")
    big = tmp_path / "big.onnx"
    with open(big, "wb") as stream:
        stream.truncate((1 << 32) + 5)  # sparse: takes no space of its own; the copy is read in blocks
        stream.seek(1 << 32)
        stream.write(b"abc")
    path = tmp_path / "big.resam"
    write_engine_file(path, engine_manifest(), {**GRAPHS, "encoder": big})
    opened = EngineFile.open(path, verify=False)
    assert opened.size("encoder") == (1 << 32) + 5
    assert bytes(opened.graph("loop")) == GRAPHS["loop"]
    path.unlink()


@pytest.mark.parametrize("cut", [True, False])
def test_a_file_that_changes_after_it_was_opened_is_an_error_not_a_signal(engine: Path, cut: bool) -> None:
    opened = EngineFile.open(engine)
    with engine.open("r+b") as stream:
        if cut:
            stream.truncate(3000)
        else:
            stream.seek(-2000, os.SEEK_END)
            stream.write(b"other")
    with pytest.raises(ResamError, match=r"model\.resam: changed while it was being read"):
        opened.graph("loop")


def test_a_file_that_was_replaced_is_read_as_it_was(engine: Path) -> None:
    opened = EngineFile.open(engine)
    write_engine_file(engine, engine_manifest(), {**GRAPHS, "loop": b"another"})
    assert opened.graph("loop") == GRAPHS["loop"]


@pytest.mark.parametrize(
    ("graph", "side", "tensor", "shape"),
    [
        ("loop", "outputs", "masks", ["N", 64, 128]),
        ("loop", "outputs", "boxes", ["N"]),
        ("decoder", "outputs", "masks", ["N", 16, 16]),
        ("decoder", "inputs", "embedding", [1, 16, 4, 4]),
        ("encoder", "outputs", "embedding", ["B", 17, 8, 8]),
        ("encoder", "inputs", "image", ["B", 128, 128, 3]),
    ],
)
def test_a_tensor_of_another_size_than_the_manifest_says_is_refused(
    engine: Path, graph: str, side: str, tensor: str, shape: list[Any]
) -> None:
    graphs = json.loads(entries_of(engine)["manifest.json"])["graphs"]
    next(one for one in graphs[graph][side] if one["name"] == tensor)["shape"] = shape
    with_manifest(engine, graphs=graphs)
    assert f"graphs.{graph}.{side}.{tensor}: expected the shape" in refusal(engine)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(engine: Path) -> None:
    before = engine.read_bytes()
    with pytest.raises(OSError, match="gone"):
        write_engine_file(engine, engine_manifest(), {**GRAPHS, "loop": Path("gone.onnx")})
    with pytest.raises(ResamError, match="graphs"):
        write_engine_file(engine, engine_manifest(), {"encoder": b""})
    with pytest.raises(ResamError, match="precision"):
        write_engine_file(engine, engine_manifest(precision="fp8"), GRAPHS)
    assert engine.read_bytes() == before
    assert os.listdir(engine.parent) == [engine.name]


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.resam")
    process = start_run("--engine", tmp_path / "pipe.resam", tmp_path)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert (
        stderr
        == f"error: {tmp_path / 'pipe.resam'}: a pipe or a device, not an engine file; name a .resam or .plan file\n"
    )


def test_missing_file_folder_and_empty_file_are_told_apart(tmp_path: Path) -> None:
    assert "no such engine file" in refusal(tmp_path / "none.resam")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.resam").touch()
    assert "empty" in refusal(tmp_path / "empty.resam")


def test_a_file_that_is_no_zip_is_named_so(engine: Path) -> None:
    engine.write_bytes(b"\x08\x08\x12\x07pytorch" * 100)
    assert "not an engine file" in refusal(engine)


def test_an_ordinary_zip_is_no_engine_file(engine: Path) -> None:
    rewrite(engine, {"readme.txt": b"hello"})
    assert "manifest.json does not come first" in refusal(engine)


def test_truncated_file(engine: Path) -> None:
    data = engine.read_bytes()
    for length in (4, 100, len(data) // 2, len(data) - 1):
        engine.write_bytes(data[:length])
        assert "truncated" in refusal(engine)


def test_unknown_format_version_says_what_to_do(engine: Path) -> None:
    with_manifest(engine, format=2)
    assert "update resam" in refusal(engine)
    with_manifest(engine, format="one")
    assert "no format version" in refusal(engine)


def test_damaged_graph_names_the_graph(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[data.index(b"decoderdecoder") + 5] ^= 1
    engine.write_bytes(data)
    assert "graph decoder is damaged" in refusal(engine)


def test_damaged_manifest_is_found_by_its_checksum(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    place = data.index(b'"refine_threshold": 0.3') + len(b'"refine_threshold": 0.')
    data[place : place + 1] = b"4"  # still good JSON, in range: only the checksum knows
    engine.write_bytes(data)
    assert "manifest.json is damaged" in refusal(engine)


def test_missing_graph(engine: Path) -> None:
    entries = entries_of(engine)
    del entries["loop.onnx"]
    rewrite(engine, entries)
    assert "graph loop (loop.onnx) is missing" in refusal(engine)


def test_swapped_graphs(engine: Path) -> None:
    entries = entries_of(engine)
    entries["loop.onnx"], entries["decoder.onnx"] = entries["decoder.onnx"], entries["loop.onnx"]
    rewrite(engine, entries)
    assert "swapped" in refusal(engine)


def test_compressed_entries_are_refused(engine: Path) -> None:
    rewrite(engine, entries_of(engine), zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(engine)


def test_an_entry_that_claims_to_reach_beyond_the_file(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # the last entry's record: loop.onnx
    data[directory + 20 : directory + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    engine.write_bytes(data)
    assert "truncated" in refusal(engine)


def test_huge_or_hostile_manifests_are_refused(engine: Path) -> None:
    entries = entries_of(engine)
    for text in (b"[" * 100_000, b'{"format": 1, "format": 1}', b'{"format": NaN}', b"\xff\xfe", b"9" * 5000, b"[]"):
        rewrite(engine, {**entries, "manifest.json": text})
        refusal(engine)
    rewrite(engine, {**entries, "manifest.json": b" " * (5 << 20)})
    assert "claims" in refusal(engine)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backend": None}, "backend"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": "64"}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"mask_size": 33}, "mask_size"),
        ({"refine_threshold": 1.5}, "refine_threshold"),
        ({"refine_threshold": None}, "refine_threshold"),
        ({"requery": "points"}, "requery"),
        ({"rounds": 0}, "rounds"),
        ({"max_points": 0}, "max_points"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": []}, "graphs"),
        ({"base": None}, "base"),
        ({"adapter": 3}, "adapter"),
        ({"tensorrt": {"version": "10.3.0"}}, "tensorrt"),
        ({"created": ""}, "created"),
    ],
)
def test_a_manifest_out_of_range_names_the_field(engine: Path, changes: dict[str, Any], named: str) -> None:
    with_manifest(engine, **changes)
    assert named in refusal(engine)


def test_every_manifest_field_is_needed_or_may_be_null(engine: Path) -> None:
    original = json.loads(entries_of(engine)["manifest.json"])
    may_be_left_out = {
        "digest",
        "max_points",
        "max_points_per_instance",
        "max_batch",
        "adapter",
        "training",
        "upscaling",
    }
    for key in original:
        data = {name: value for name, value in original.items() if name not in (key, "format")}
        if key in may_be_left_out or key == "format":
            Manifest.from_json(data)
        else:
            with pytest.raises(ResamError, match=key):
                Manifest.from_json(data)


@pytest.mark.parametrize("file", ["../loop.onnx", "/etc/passwd", "a/b", "manifest.json", "", "decoder.onnx"])
def test_a_graph_file_name_may_not_lead_elsewhere(engine: Path, file: str) -> None:
    graphs = json.loads(entries_of(engine)["manifest.json"])["graphs"]
    graphs["loop"]["file"] = file
    with_manifest(engine, graphs=graphs)
    refusal(engine)


def test_a_graph_without_a_needed_tensor_is_refused(engine: Path) -> None:
    graphs = json.loads(entries_of(engine)["manifest.json"])["graphs"]
    graphs["loop"]["outputs"].pop(2)
    with_manifest(engine, graphs=graphs)
    assert "boxes" in refusal(engine)


def test_plans_carry_what_they_were_built_for(tmp_path: Path) -> None:
    target = TensorRTTarget("10.3.0", "8.7", "Orin", version_compatible=True)
    manifest = engine_manifest(backend="tensorrt", tensorrt=target)
    write_engine_file(tmp_path / "model.plan", manifest, GRAPHS)
    assert EngineFile.open(tmp_path / "model.plan").manifest.tensorrt == target
    for field, value in (("version", "ten"), ("compute_capability", "87"), ("device_name", "")):
        wrong = dataclasses.replace(target, **{field: value})
        with pytest.raises(ResamError, match=field):
            write_engine_file(tmp_path / "bad.plan", dataclasses.replace(manifest, tensorrt=wrong), GRAPHS)


def test_a_thousand_random_corruptions_never_crash_nor_load_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.resam"
    write_engine(path)
    good, graphs = path.read_bytes(), engine_graphs()
    manifest = EngineFile.open(path).manifest
    chance = random.Random(20260101)
    refused = 0
    for _ in range(1000):
        data = bytearray(good)
        kind = chance.choice(("flip", "flip", "burst", "truncate", "swap", "zero", "insert", "delete"))
        at, length = chance.randrange(len(data)), chance.choice((1, 2, 8, 64, 700))
        if kind == "flip":
            for _ in range(chance.choice((1, 1, 3))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "burst":
            data[at : at + length] = chance.randbytes(len(data[at : at + length]))
        elif kind == "truncate":
            del data[at:]
        elif kind == "swap":
            other = chance.randrange(len(data))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "insert":
            data[at:at] = chance.randbytes(length)
        else:
            del data[at : at + length]
        path.write_bytes(data)
        try:
            opened = EngineFile.open(path)
        except ResamError as error:
            refused += len(str(error).splitlines()) == 1
            continue
        # What loads (a flip in a date, say) is exactly what was written.
        assert {name: bytes(opened.graph(name)) for name in graphs} == graphs
        assert opened.manifest == manifest
    assert refused > 900
