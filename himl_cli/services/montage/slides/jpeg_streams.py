"""JPEG streams, looked at without decoding: their size, and damage that libjpeg covers with grey.

Between the marks of a stream stand codes of Huffman's. In each table the first value has a code of zeros only, so what
a run of zero bytes would mean is known without decoding: rarely more than the end of a block after block of one colour,
and nothing at all where ends have other codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

from himl_cli.core.montage import Size

LONGEST_ZEROS = 64
"""Bytes. A shorter run may be chance."""

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_HUFFMAN_FRAMES, _PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2}), 0xC2
_TABLES, _START, _END, _SCAN, _INTERVAL = 0xC4, 0xD8, 0xD9, 0xDA, 0xDD
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_MARK = re.compile(rb"\xff+([^\x00\xff])")
_MARK_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END_OF_BLOCK, _MOST_CORRECTIONS = 0, 256


@dataclass(frozen=True)
class Frame:
    """`size` is width and height, `sampling` how many blocks of each component stand beside and above each other in a
    group."""

    kind: int
    precision: int
    size: Size
    sampling: dict[int, Size]


@dataclass(frozen=True)
class _Code:
    """The code of zeros only of a table: how many there are, and what it means."""

    bits: int
    value: int


@dataclass(frozen=True)
class _Component:
    sampling: Size
    flat: _Code | None
    detail: _Code | None


@dataclass(frozen=True)
class _Scan:
    """*first* is the number of its first coefficient; *is_refining*: it has lower bits of what an earlier one began."""

    frame: Frame
    components: list[_Component]
    first: int
    is_refining: bool
    interval: int
    data: bytes

    @property
    def groups(self) -> int:
        """How many groups of blocks it has."""
        width, height = self.frame.size
        most_x, most_y = (max(each[axis] for each in self.frame.sampling.values()) for axis in (0, 1))
        if len(self.components) > 1:
            return ceil(width / (8 * most_x)) * ceil(height / (8 * most_y))
        beside, above = self.components[0].sampling
        return ceil(ceil(width * beside / most_x) / 8) * ceil(ceil(height * above / most_y) / 8)

    def blocks(self, component: _Component) -> int:
        """Of one group."""
        return component.sampling[0] * component.sampling[1] if len(self.components) > 1 else 1


@dataclass
class _Reading:
    """What was found so far."""

    frame: Frame | None = None
    codes: dict[int, _Code] = field(default_factory=dict)
    interval: int = 0


def frame_of(data: bytes) -> Frame | None:
    """What the stream says of itself; None where it has no such header."""
    for mark, begin, end in _parts(data):
        if mark in _FRAMES:
            return _frame(mark, data[begin:end])
        if mark in {_SCAN, _END}:
            break
    return None


def trouble_in(data: bytes, tables: bytes | None = None) -> str:
    """What is wrong with the stream, or nothing; *tables* is the one that holds its tables, where it has none
    itself."""
    has_zeros = bytes(LONGEST_ZEROS + 1) in data
    if not has_zeros and b"\xff\xdd" not in data and (tables is None or b"\xff\xdd" not in tables):
        return ""
    reading = _Reading()
    if tables is not None:
        for _ in _scans(tables, reading):
            pass
    for scan in _scans(data, reading):
        if scan.frame.kind not in _HUFFMAN_FRAMES or not scan.components:
            continue
        if bytes(max(LONGEST_ZEROS, _most_zeros(scan)) + 1) in scan.data:
            return "zeros in the midst of it"
        if scan.interval and len(_RESTART.findall(scan.data)) < ceil(scan.groups / scan.interval) - 1:
            return "parts of it are missing"
    return ""


def is_whole(data: bytes) -> bool:
    """Whether its scans are followed by the mark of the end, whatever stands behind that."""
    has_scan = False
    for mark, _, _ in _parts(data):
        has_scan = has_scan or mark == _SCAN
        if mark == _END:
            return has_scan
    return False


def _parts(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marks, each with where what belongs to it begins and ends; of a scan, its header. What stands between is
    passed over, as libjpeg does."""
    place = 0
    while found := _MARK.search(data, place):
        mark, place = found[1][0], found.end()
        if mark in _ALONE or mark == _END:
            yield mark, place, place
        else:
            end = place + max(2, int.from_bytes(data[place : place + 2], "big"))
            yield mark, place + 2, end
            place = end
        if mark == _END:
            return
        if mark == _SCAN:
            after = _MARK_AFTER_SCAN.search(data, place)
            place = len(data) if after is None else after.start()


def _scans(data: bytes, reading: _Reading) -> Iterator[_Scan]:
    for mark, begin, end in _parts(data):
        part = data[begin:end]
        if mark in _FRAMES:
            reading.frame = _frame(mark, part)
        elif mark == _TABLES:
            reading.codes.update(_codes(part))
        elif mark == _INTERVAL:
            reading.interval = int.from_bytes(part[:2], "big")
        elif mark == _SCAN and reading.frame is not None and part:
            after = _MARK_AFTER_SCAN.search(data, end)
            yield _scan(part, data[end : None if after is None else after.start()], reading, reading.frame)


def _frame(mark: int, part: bytes) -> Frame | None:
    if len(part) < 6 + 3 * part[5] if len(part) > 5 else True:
        return None
    sampling = {part[at]: (part[at + 1] >> 4 or 1, part[at + 1] & 15 or 1) for at in range(6, 6 + 3 * part[5], 3)}
    return Frame(mark, part[0], (int.from_bytes(part[3:5], "big"), int.from_bytes(part[1:3], "big")), sampling)


def _codes(part: bytes) -> Iterator[tuple[int, _Code]]:
    """The code of zeros of each table of a part; the key says which table it is: 16 and more are those of details."""
    while len(part) > 17:
        counts, key = part[1:17], part[0]
        bits = next((number for number, count in enumerate(counts, start=1) if count), 1)
        yield key, _Code(bits, part[17])
        part = part[17 + sum(counts) :]


def _scan(part: bytes, data: bytes, reading: _Reading, frame: Frame) -> _Scan:
    count = part[0]
    if len(part) < 4 + 2 * count:
        return _Scan(frame, [], 0, False, 0, b"")
    chosen = ((part[at], part[at + 1]) for at in range(1, 1 + 2 * count, 2))
    components = [
        _Component(
            frame.sampling.get(name, (1, 1)), reading.codes.get(tables >> 4), reading.codes.get(16 + (tables & 15))
        )
        for name, tables in chosen
    ]
    first, approximation = part[1 + 2 * count], part[3 + 2 * count]
    return _Scan(frame, components, first, bool(approximation >> 4), reading.interval, data)


def _most_zeros(scan: _Scan) -> int:
    """The longest run of zero bytes that may stand in a sound scan, roughly."""
    if scan.frame.kind != _PROGRESSIVE:
        return _of_flat(scan, has_details=True)
    if scan.first == 0:
        return (
            scan.groups * sum(map(scan.blocks, scan.components)) // 8
            if scan.is_refining
            else _of_flat(scan, has_details=False)
        )
    return _of_details(scan)


def _of_flat(scan: _Scan, *, has_details: bool) -> int:
    """Zeros may say that block after block is as the one before, or darker by the same: that ends at black."""
    bits, darker = 0, 0
    for each in scan.components:
        if each.flat is None or (has_details and each.detail is None):
            return len(scan.data)
        if has_details and each.detail is not None and each.detail.value != _END_OF_BLOCK:
            return LONGEST_ZEROS
        of_details = each.detail.bits if has_details and each.detail is not None else 0
        bits += scan.blocks(each) * (each.flat.bits + each.flat.value + of_details)
        darker = max(darker, (1 << each.flat.value) - 1)
    groups = min(scan.groups, (8 << scan.frame.precision) // darker + 1) if darker else scan.groups
    return groups * bits // 8 + 1


def _of_details(scan: _Scan) -> int:
    """Zeros may say that blocks have nothing more, in a refining scan also that what they have is refined by
    nothing."""
    code = scan.components[0].detail
    if code is None:
        return len(scan.data)
    runs, size = code.value >> 4, code.value & 15
    if size or runs == 15:
        return _MOST_CORRECTIONS if scan.is_refining else LONGEST_ZEROS
    if scan.is_refining:
        return scan.groups * 8
    return (scan.groups >> runs) * (code.bits + runs) // 8 + 1
