"""The other files that belong to a slide of several files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from posixpath import dirname, splitext

MIRAX, HAMAMATSU, DICOM = ".mrxs", (".vms", ".vmu"), ".dcm"


def companions(name: str, names: Sequence[str]) -> Iterator[str]:
    """Those of *names*, which are sorted, that OpenSlide reads along with the slide *name*.

    Of a MIRAX slide the folder that is called as it; of a Hamamatsu `.vms` or `.vmu` the files beside it whose names
    begin with its own; of a DICOM file the others of its folder, for each may hold a level. Slides of other formats are
    one file.
    """
    stem, extension = splitext(name)
    extension = extension.lower()
    folder = f"{dirname(name)}/" if "/" in name else ""
    if extension == MIRAX:
        yield from _beginning(f"{stem}/", names)
    elif extension in HAMAMATSU:
        yield from (each for each in _beginning(stem, names) if "/" not in each[len(folder) :] and each != name)
    elif extension == DICOM:
        yield from (
            each
            for each in _beginning(folder, names)
            if "/" not in each[len(folder) :] and each.lower().endswith(DICOM) and each != name
        )


def _beginning(prefix: str, names: Sequence[str]) -> Iterator[str]:
    for place in range(bisect_left(names, prefix), len(names)):
        if not names[place].startswith(prefix):
            return
        yield names[place]
