"""What the bytes of an image file say without decoding: its size, whether it is whole, or georeferenced, its pages.

OpenCV has no way to ask for the size of an image without decoding all of it, and its older versions return the
upper half of a truncated file in silence. The answers lie in a few bytes of headers, read here. A kind of image
that is not read here is not decoded: its size would be known too late.
Sources: PNG (ISO/IEC 15948, chunk layout), JPEG (ITU T.81 annex B, marker segments), TIFF 6.0 and BigTIFF (IFD), BMP
(BITMAPINFOHEADER and its forerunner), WebP (RFC 9649), PNM (netpbm's P1 to P6), JPEG 2000 (ITU T.800, boxes and SIZ).
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from resam_runtime.common.errors import ResamError

Bytes = bytes | mmap.mmap
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF_MARKS = {b"II*\x00": ("<", False), b"MM\x00*": (">", False), b"II+\x00": ("<", True), b"MM\x00+": (">", True)}
_JP2, _CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P[1-6]" + _GAP + rb"(\d{1,10})" + _GAP + rb"(\d{1,10})\s")
_GEO_TAGS = {33550, 33922, 34264, 34735}  # pixel scale, tie points, transformation, GeoKey directory
_SUBFILE, _OLD_SUBFILE = 254, 255  # what a page is: a smaller copy, a mask
_ORIENTATION = 274
_HOLE = b"\0" * 256

DECODE_LIMIT = 200_000_000
"""Pixels that may be decoded at once; a larger scene is read by windows."""

Tags = dict[int, tuple[int, int]]
"""Tag -> its value (-1 unless it is one whole number), and where in the file that is."""


@dataclass(frozen=True)
class ImageHeader:
    """Kind (png, jpeg, tiff, bmp, webp, pnm, jp2), width and height in px, and what is known of the file's state.

    zeroed: whether part of a JPEG is zeros, as where a transfer lost some blocks, which decoders take for data.
    transparent: the level that a gray PNG declares transparent, in pixels as they are decoded, to 8 or 16 bits. pages:
    images of a TIFF, of which decoders give the first; its smaller copies and masks are none. orientation: what a TIFF
    says of how its pixels are to be turned, 1 to 8 (1: not at all). by_windows: whether a part can be decoded without
    the rest.
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
    by_windows: bool = True

    @property
    def too_large(self) -> bool:
        """Whether it has too many pixels to decode them at once."""
        return self.width * self.height > DECODE_LIMIT

    def check_decodable(self, path: Path) -> None:
        """`ResamError` for an image that is too large to be decoded at once."""
        if self.too_large:
            raise ResamError(
                f"{path}: {self.width} x {self.height} px is too large to decode at once; convert it to a tiled "
                "GeoTIFF, which the extra 'geo' reads: pip install 'resam[geo]'"
            )


def file_header(path: Path) -> ImageHeader | None:
    """As `read_header`, without reading the whole file; None also for one that cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_header(data)
    except (OSError, ValueError):
        return None


def read_header(data: Bytes) -> ImageHeader | None:
    """Header of an image file given all its bytes (an mmap will do); None for other kinds.

    A header that ends before the size is known gives None too: the decoder then says what is wrong.
    """
    try:
        if data[:8] == _PNG:
            return _png(data)
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:4] in _TIFF_MARKS:
            return _tiff(data)
        if data[:2] == b"BM":
            return _bmp(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if match := _PNM.match(data[:4096]):
            return ImageHeader("pnm", int(match[1]), int(match[2]), by_windows=data[1] in b"56")
        if data[:12] == _JP2 or data[:4] == _CODESTREAM:
            return _jpeg_2000(data)
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
    return ImageHeader("png", width, height, whole, transparent=transparent, by_windows=data[28] == 0)


def _jpeg(data: Bytes) -> ImageHeader | None:
    at, size = 2, None
    sequential, flat = False, True
    while True:
        if data[at] != 0xFF:  # decoders skip what is between the segments
            at = data.find(b"\xff", at)
            if at < 0:
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


def _bmp(data: Bytes) -> ImageHeader:
    (length,) = struct.unpack_from("<I", data, 14)
    if length == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageHeader("bmp", width, height)
    width, height, _, _, packed = struct.unpack_from("<iiHHI", data, 18)
    # rows from top to bottom where the height is negative; runs (1, 2) are unpacked as a whole
    return ImageHeader("bmp", abs(width), abs(height), by_windows=packed not in (1, 2))


def _webp(data: Bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    else:
        return None
    return ImageHeader("webp", width, height, by_windows=False)


def _jpeg_2000(data: Bytes) -> ImageHeader | None:
    at = 0
    while data[at : at + 4] != _CODESTREAM:  # boxes, one of which begins with it
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        if kind == b"jp2c":
            at += head
        elif length < head:  # 0: the last one
            return None
        else:
            at += length
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    return ImageHeader("jp2", max(0, right - left), max(0, bottom - top))


def _tiff(data: Bytes) -> ImageHeader | None:
    order, big = _TIFF_MARKS[data[:4]]
    at = _first_page(data)
    first, following = _tiff_page(data, at, order, big)
    (width, _), (height, _), (orientation, _) = (first.get(tag, (-1, 0)) for tag in (256, 257, _ORIENTATION))
    if min(width, height) < 1:
        return None
    pages, seen = 1, {at}
    try:
        while following and following not in seen:
            seen.add(following)
            tags, following = _tiff_page(data, following, order, big)
            pages += not (max(0, tags.get(_SUBFILE, (0,))[0]) & 0b101 or tags.get(_OLD_SUBFILE, (0,))[0] == 2)
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
    """The tags of a page, of those that come twice the first; where the next page begins, or 0."""
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    size = 20 if big else 12
    tags: Tags = {}
    codes = {1: "B", 3: "H", 4: "I"} | ({16: "Q"} if big else {})
    for entry in range(at, at + min(count, 4096) * size, size):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, entry)
        place = entry + (12 if big else 8)
        single = number == 1 and kind in codes
        value = struct.unpack_from(order + codes[kind], data, place)[0] if single else -1
        tags.setdefault(tag, (value, place))
    return tags, struct.unpack_from(order + ("Q" if big else "I"), data, at + count * size)[0]
