"""WebP files, looked at without decoding."""

from __future__ import annotations

_MARGIN = 256
_BYTES_OF_BLOCK = 2
_LOSSY = b"VP8 "


def trouble_in(data: bytes) -> str:
    """What is wrong with it, or nothing. Lossless WebP may have zeros of any number."""
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        body = data[place + 8 : place + 8 + length]
        if kind == _LOSSY and bytes(_longest_zeros(body)) in body:
            return "zeros in the midst of it"
        place += 8 + length + length % 2
    return ""


def _longest_zeros(body: bytes) -> int:
    """More zero bytes than stand in a row in a lossy picture: its encoders were seen to need 0.7 bytes at most for a
    flat block of 16 x 16 pixels."""
    width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return -(-width // 16) * -(-height // 16) * _BYTES_OF_BLOCK + _MARGIN
