"""Boxes within boxes."""

from __future__ import annotations

from himl_cli.core.montage import Box, Size


def fitted(room: Box, size: Size) -> Box:
    """The largest box of the proportions of *size* that lies in *room*, in its middle; at least one pixel wide and
    high."""
    width, height = size
    scale = min(room.width / width, room.height / height)
    wide = min(room.width, max(1, round(width * scale)))
    high = min(room.height, max(1, round(height * scale)))
    return Box(room.x + (room.width - wide) // 2, room.y + (room.height - high) // 2, wide, high)


def middle(room: Box, size: Size) -> Box:
    """The middle of *room*, no wider and no higher than *size*."""
    wide, high = min(room.width, size[0]), min(room.height, size[1])
    return Box(room.x + (room.width - wide) // 2, room.y + (room.height - high) // 2, wide, high)


def relative(box: Box, to: Box) -> Box:
    """*box* as it lies in *to*."""
    return Box(box.x - to.x, box.y - to.y, box.width, box.height)
