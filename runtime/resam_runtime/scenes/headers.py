"""What the bytes of an image file say without decoding: its size, whether it is whole, or georeferenced, its pages.

OpenCV has no way to ask for the size of an image without decoding all of it, and its older versions return the
upper half of a truncated file in silence. The answers lie in a few bytes of headers, read here.
Sources: PNG (ISO/IEC 15948, chunk layout), JPEG (ITU T.81 annex B, marker segments), TIFF 6.0 and BigTIFF (IFD).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

Bytes = bytes | mmap.mmap
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF_MARKS = {b"II*\x00": ("<", False), b"MM\x00*": (">", False), b"II+\x00": ("<", True), b"MM\x00+": (">", True)}
_GEO_TAGS = {33550, 33922, 34264, 34735}  # pixel scale, tie points, transformation, GeoKey directory
_SUBFILE, _OLD_SUBFILE = 254, 255  # what a page is: a smaller copy, a mask
_ORIENTATION = 274
_HOLE = b"\0" * 256

Tags = dict[int, tuple[int, int]]
"""Tag -> its first value, and where in the file that is."""


@dataclass(frozen=True)
class ImageHeader:
    """Kind (`png`, `jpeg`, `tiff`), width and height in px, and what is known of the file's state.

    zeroed: whether part of a JPEG is zeros, as where a transfer lost some blocks, which decoders take for data.
    transparent: the level that a gray PNG declares transparent, in pixels as they are decoded, to 8 or 16 bits. pages:
    images of a TIFF, of which decoders give the first; its smaller copies and masks are none. orientation: what a TIFF
    says of how its pixels are to be turned, 1 to 8 (1: not at all).
    """

    kind: str
    width: int
    height: int
    whole: bool = True
    zeroed: bool = False
    georeferenced: bool = False
    transparent: int | None = None
    pages: int = 1
    orientation: int = 1


def file_header(path: Path) -> ImageHeader | None:
    """As `read_header`, without reading the whole file; None also for one that cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_header(data)
    except (OSError, ValueError):
        return None


def read_header(data: Bytes) -> ImageHeader | None:
    """Header of a PNG, JPEG or TIFF file given all its bytes (an mmap will do); None for other kinds.

    A header that ends before the size is known gives None too: the decoder then says what is wrong.
    """
    try:
        if data[:8] == _PNG:
            return _png(data)
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:4] in _TIFF_MARKS:
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return None


def without_orientation(data: bytes) -> bytes:
    """The bytes of a TIFF for decoders that would turn its pixels: what says so is changed to "not at all"."""
    order, big = _TIFF_MARKS[data[:4]]
    tags, _ = _tiff_page(data, _first_page(data), order, big)
    changed = bytearray(data)
    struct.pack_into(order + "H", changed, tags[_ORIENTATION][1], 1)
    return bytes(changed)


def _png(data: Bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    depth, colour = data[24], data[25]
    at, whole, transparent = len(_PNG), False, None
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
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


def _jpeg(data: Bytes) -> ImageHeader | None:
    at, size = 2, None
    sequential, flat = False, True
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
            sequential = marker in (0xC0, 0xC1)
        if marker == 0xC4:
            flat &= _zeros_are_flat(data[at + 4 : at + 2 + length])
        at += 2 + length
        if marker == 0xDA:  # start of scan: entropy-coded bytes never hold FF D9 but as the end of the image
            break
    if size is None:
        return None
    end = data.find(b"\xff\xd9", at)
    zeroed = sequential and not flat and data.find(_HOLE, at, end if end >= 0 else len(data)) >= 0
    return ImageHeader("jpeg", size[1], size[0], whole=end >= 0, zeroed=zeroed)


def _zeros_are_flat(tables: bytes) -> bool:
    """Whether zeros may be an area of one colour by these Huffman tables, a DHT segment's: if the code of zeros alone,
    the first, means "no difference" and "no more frequencies" (symbol 0 both). With tables that are not made for the
    image (annex K's, say) it means some frequency, and 256 zeros are the same noise in dozens of blocks on end."""
    at, flat = 0, True
    while at + 17 < len(tables):
        flat &= tables[at + 17] == 0
        at += 17 + sum(tables[at + 1 : at + 17])
    return flat


def _tiff(data: Bytes) -> ImageHeader | None:
    order, big = _TIFF_MARKS[data[:4]]
    at = _first_page(data)
    first, following = _tiff_page(data, at, order, big)
    if 256 not in first or 257 not in first:
        return None
    (width, _), (height, _), (orientation, _) = first[256], first[257], first.get(_ORIENTATION, (1, 0))
    pages, seen = 1, {at}
    try:
        while following and following not in seen:
            seen.add(following)
            tags, following = _tiff_page(data, following, order, big)
            pages += not (tags.get(_SUBFILE, (0,))[0] & 0b101 or tags.get(_OLD_SUBFILE, (0,))[0] == 2)
    except (struct.error, IndexError):  # the first page may be good all the same
        pass
    return ImageHeader(
        "tiff",
        width,
        height,
        georeferenced=bool(_GEO_TAGS & first.keys()),
        pages=pages,
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _first_page(data: Bytes) -> int:
    order, big = _TIFF_MARKS[data[:4]]
    return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _tiff_page(data: Bytes, at: int, order: str, big: bool) -> tuple[Tags, int]:
    """The tags of a page, as far as their values are whole numbers; where the next page begins, or 0."""
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    size = 20 if big else 12
    tags: Tags = {}
    for entry in range(at, at + min(count, 4096) * size, size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "I")
        place = entry + (12 if big else 8)
        tags[tag] = struct.unpack_from(order + code, data, place)[0], place
    return tags, struct.unpack_from(order + ("Q" if big else "I"), data, at + count * size)[0]
