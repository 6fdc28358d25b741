"""The size that a compressed picture gives itself, by its header: a decoder takes memory for that, whatever the file
around it says."""

from __future__ import annotations

from himl_cli.core.montage import Size
from himl_cli.services.montage.slides.jpeg_streams import frame_of

_CODESTREAM = b"\xff\x4f\xff\x51"
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def stored_size(data: bytes) -> Size | None:
    """Width and height of a picture in JPEG, JPEG 2000, PNG, WebP, JPEG XR or JPEG XL; None for others, and where the
    header is damaged."""
    if data.startswith(b"\xff\xd8"):
        frame = frame_of(data)
        return None if frame is None else frame.size
    if data.startswith(b"\x89PNG"):
        return _pair(data, 16, 4)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _of_webp(data)
    if data.startswith(b"II\xbc"):
        return _of_jpeg_xr(data)
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return _of_jpeg_xl(data)
    if data.startswith((b"\xff\x4f", b"\0\0\0\x0cjP")):
        return _of_jpeg_2000(data)
    return None


def _pair(data: bytes, place: int, each: int) -> Size | None:
    if len(data) < place + 2 * each:
        return None
    return int.from_bytes(data[place : place + each], "big"), int.from_bytes(
        data[place + each : place + 2 * each], "big"
    )


def _of_jpeg_2000(data: bytes) -> Size | None:
    place = data.find(_CODESTREAM)
    ends, begins = _pair(data, place + 8, 4), _pair(data, place + 16, 4)
    if place < 0 or ends is None or begins is None:
        return None
    return ends[0] - begins[0], ends[1] - begins[1]


def _of_webp(data: bytes) -> Size | None:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _of_jpeg_xr(data: bytes) -> Size | None:
    """Its container is like a TIFF's directory, with tags of its own."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    entries = (data[at : at + 12] for at in range(start + 2, min(len(data), start + 2 + 12 * count), 12))
    found = {
        int.from_bytes(entry[:2], "little"): int.from_bytes(entry[8 : 10 if entry[2] == 3 else 12], "little")
        for entry in entries
        if len(entry) == 12
    }
    width, height = found.get(0xBC80), found.get(0xBC81)
    return None if width is None or height is None else (width, height)


def _of_jpeg_xl(data: bytes) -> Size | None:
    place = data.find(b"\xff\x0a", data.find(b"jxl")) if data.startswith(b"\0") else 0
    if place < 0:
        return None
    bits = _Bits(int.from_bytes(data[place + 2 : place + 18], "little"))
    is_small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if is_small else _of_class(bits)
    ratio = _JXL_RATIOS.get(bits.take(3))
    if ratio is not None:
        return height * ratio[0] // ratio[1], height
    return (8 * (bits.take(5) + 1) if is_small else _of_class(bits)), height


class _Bits:
    def __init__(self, number: int) -> None:
        self._number = number

    def take(self, count: int) -> int:
        taken = self._number & ((1 << count) - 1)
        self._number >>= count
        return taken


def _of_class(bits: _Bits) -> int:
    return 1 + bits.take((9, 13, 18, 30)[bits.take(2)])
