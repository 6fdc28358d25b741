"""What the files of a montage are called."""

from __future__ import annotations

PNG, JPG, RECORD, PAGE = "montage.png", "montage.jpg", "montage.csv", "index.html"
DZI, TILES = "montage.dzi", "montage_files"
"""The description of the pyramid, and the folder of its tiles, whose name Deep Zoom makes of the other."""

FILES = (PNG, JPG, DZI, RECORD, PAGE)
