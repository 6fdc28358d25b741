"""The size that a compressed tile gives itself: a decoder takes memory for that, whatever the file around it says."""

from __future__ import annotations

import re

from himl_cli.core.montage import Size

_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_J2K_CODESTREAM = b"\xff\x4f\xff\x51"


def stored_size(data: bytes) -> Size | None:
    """Width and height of a picture in JPEG, JPEG 2000, PNG or WebP; None for others, and where the header is
    damaged."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG"):
        return _pair(data, 16, 4)
    if data.startswith((b"\xff\x4f", b"\0\0\0\x0cjP")):
        place = data.find(_J2K_CODESTREAM)
        ends, begins = _pair(data, place + 8, 4), _pair(data, place + 16, 4)
        return None if place < 0 or not ends or not begins else (ends[0] - begins[0], ends[1] - begins[1])
    return _webp_size(data) if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def _jpeg_size(data: bytes) -> Size | None:
    place = 2
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker in _JPEG_FRAMES:
            size = _pair(data, place + 3, 2)
            return size and (size[1], size[0])
        if marker in (_JPEG_END, _JPEG_SCAN):
            return None
        if marker not in _JPEG_BARE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return None


def _webp_size(data: bytes) -> Size | None:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _pair(data: bytes, place: int, length: int) -> Size | None:
    """Two big-endian numbers of *length* bytes each."""
    first, second = data[place : place + length], data[place + length : place + 2 * length]
    return (int.from_bytes(first, "big"), int.from_bytes(second, "big")) if len(second) == length else None
