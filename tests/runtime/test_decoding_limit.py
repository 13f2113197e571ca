"""An image says its size before it is decoded, whatever its kind: a small file cannot fill the memory."""

from __future__ import annotations

import contextlib
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes import headers
from resam_runtime.scenes.headers import read_header
from resam_runtime.scenes.scene import open_scene

SIDE = 50_000


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(1000)


PNG = b"\x89PNG\r\n\x1a\n"
VP8X = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00" * 2
BOMBS = {
    "bmp": b"BM" + struct.pack("<IIIIiiHHI", 1082, 0, 1078, 40, SIDE, SIDE, 1, 8, 1) + bytes(1052),
    "bmp upside down": b"BM" + struct.pack("<IIIIiiHHI", 1082, 0, 1078, 40, SIDE, -SIDE, 1, 8, 1) + bytes(1052),
    "old bmp": b"BM" + struct.pack("<IIIIHHHH", 1082, 0, 26, 12, SIDE, SIDE, 1, 24) + bytes(1052),
    "webp": b"RIFF" + struct.pack("<I", 4 + 18) + b"WEBP" + VP8X,
    "lossless webp": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8L" + struct.pack("<IBI", 20, 0x2F, 0x0FFFFFFF),
    "pgm": f"P5\n# a comment\n{SIDE} {SIDE}\n255\n".encode() + bytes(100),
    "text ppm": f"P3\n{SIDE}\n{SIDE}\n255\n".encode() + b"0 " * 100,
    "png": PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 1)) + chunk(b"IEND", b""),
    "tif": tiff((256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 200), (279, 4, 1, 9)),
    "jp2": b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIII", 41, 0, SIDE, SIDE, 0, 0, SIDE, SIDE, 0, 0) + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["", ".tif", ".png"])
@pytest.mark.parametrize("with_rasterio", [True, False])
@pytest.mark.parametrize("kind", list(BOMBS))
def test_an_image_too_large_to_decode_is_refused_before(
    kind: str, with_rasterio: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    if not with_rasterio:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    path = tmp_path / (f"a{suffix}" if suffix else f"a.{kind.split()[-1]}")
    path.write_bytes(BOMBS[kind])
    if with_rasterio and kind in ("tif", "pgm", "jp2", "old bmp"):  # read by windows, if at all
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, hard))
        try:
            with contextlib.suppress(ResamError), open_scene(path) as scene:
                scene.read(0, 0, 64, 64)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return
    with pytest.raises(ResamError, match=r"too large to decode|not a readable image|not a supported raster"):
        open_scene(path)


@pytest.mark.parametrize(
    "tags",
    [
        ((256, 4, 1, SIDE), (256, 4, 1, 8), (257, 4, 1, SIDE)),  # decoders take the first
        ((256, 17, 1, 8), (257, 17, 1, 8)),  # a number elsewhere, of a kind that decoders know
        ((256, 4, 2, 8), (257, 4, 2, 8)),
    ],
)
def test_a_tiff_that_says_its_size_in_two_ways_is_not_believed(tags: tuple[tuple[int, int, int, int], ...]) -> None:
    header = read_header(tiff(*tags))
    assert header is None or header.width == header.height == SIDE


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".ppm", ".pgm", ".jp2", ".png", ".jpg", ".tif"])
def test_the_sizes_that_headers_say_are_those_that_are_decoded(suffix: str, tmp_path: Path) -> None:
    image = np.zeros((37, 53) if suffix == ".pgm" else (37, 53, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), image)
    header = read_header(path.read_bytes())
    assert header is not None
    assert (header.width, header.height) == (53, 37)
    with open_scene(path) as scene:
        assert (scene.width, scene.height) == (53, 37)


def test_a_bmp_bomb_does_not_fill_the_memory_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(BOMBS["bmp"])
    script = (
        "import sys\n"
        "from resam_runtime.scenes import open_scene\n"
        "try: open_scene(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) >> 10)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.bmp"], capture_output=True, text=True, check=True
    )
    name, megabytes = shown.stdout.split()
    assert name == "ResamError"
    assert int(megabytes) < 500
    assert headers.DECODE_LIMIT == 200_000_000
