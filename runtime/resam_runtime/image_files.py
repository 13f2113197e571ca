"""What the first bytes of an image file say: its size, whether it is whole, whether it is georeferenced.

OpenCV has no way to ask for the size of an image without decoding all of it, and its older versions return the
upper half of a truncated file in silence. Both answers lie in a few header bytes, read here.
Sources: PNG (ISO/IEC 15948, chunk layout), JPEG (ITU T.81 annex B, marker segments), TIFF 6.0 and BigTIFF (IFD).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF_MARKS = {b"II*\x00": ("<", False), b"MM\x00*": (">", False), b"II+\x00": ("<", True), b"MM\x00+": (">", True)}
_GEO_TAGS = {33550, 33922, 34264, 34735}  # pixel scale, tie points, transformation, GeoKey directory


@dataclass(frozen=True)
class ImageHeader:
    """Kind (`png`, `jpeg`, `tiff`), width and height in px, and what is known of the file's state.

    transparent: the level that a gray PNG declares transparent, in pixels as they are decoded, to 8 or 16 bits.
    """

    kind: str
    width: int
    height: int
    whole: bool = True
    georeferenced: bool = False
    transparent: int | None = None


def read_header(data: bytes | memoryview) -> ImageHeader | None:
    """Header of a PNG, JPEG or TIFF file given all its bytes (an mmap's memoryview will do); None for other kinds.

    A header that ends before the size is known gives None too: the decoder then says what is wrong.
    """
    try:
        if bytes(data[:8]) == _PNG:
            return _png(data)
        if bytes(data[:2]) == b"\xff\xd8":
            return _jpeg(data)
        if bytes(data[:4]) in _TIFF_MARKS:
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return None


def _png(data: bytes | memoryview) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    depth, colour = data[24], data[25]
    at, whole, transparent = len(_PNG), False, None
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"IEND":
            whole = True
            break
        if kind == b"tRNS" and colour == 0:
            most = 2**depth - 1
            transparent = struct.unpack_from(">H", data, at + 8)[0] & most
            if depth in (1, 2, 4):
                transparent = transparent * 255 // most
        at += 12 + length
    return ImageHeader("png", width, height, whole, transparent=transparent)


def _jpeg(data: bytes | memoryview) -> ImageHeader | None:
    at, size = 2, None
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        # start of frame: C0..CF but for DHT (C4), JPG (C8), DAC (CC)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
        if marker == 0xDA:  # start of scan: entropy-coded bytes never hold FF D9 but as the end of the image
            break
    if size is None:
        return None
    return ImageHeader("jpeg", size[1], size[0], whole=bytes(data[at:]).rfind(b"\xff\xd9") >= 0)


def _tiff(data: bytes | memoryview) -> ImageHeader | None:
    order, big = _TIFF_MARKS[bytes(data[:4])]
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    values: dict[int, int] = {}
    for index in range(min(count, 4096)):
        entry = at + index * (20 if big else 12)
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "I")
        (values[tag],) = struct.unpack_from(order + code, data, entry + (12 if big else 8))
    if 256 not in values or 257 not in values:
        return None
    return ImageHeader("tiff", values[256], values[257], georeferenced=bool(_GEO_TAGS & values.keys()))
