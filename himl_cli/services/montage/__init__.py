"""Montages: many slides in one picture, read, laid out and encoded strip by strip, so that memory does not grow with
their number.

The modules here import numpy and Pillow, which come with the extra `montage`: commands import them only once that was
checked.
"""
