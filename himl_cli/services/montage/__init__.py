"""Slides in one picture, or cut into tiles: read and encoded strip by strip, so that memory does not grow with their
number.

Modules that read, paint or encode pixels import numpy and Pillow, which come with the extra `montage`: commands import
those only once that was checked. `query`, `stored`, `cluster`, `files`, `layout` and `threads` import neither.
"""
