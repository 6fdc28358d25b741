"""Which level of a slide is read."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.montage import Size


def level_for(levels: Sequence[Size], asked: int | None, wanted: Size) -> tuple[int, str]:
    """The level to read, and a remark where it is not the one *asked* for.

    A level that is missing gives way to the coarsest there is, which is the nearest. None asks for the coarsest one
    that is at least as wide and as high as *wanted*; the finest, where none is. *levels* are sizes, the finest first;
    there is at least one.
    """
    if asked is None:
        covering = [number for number, size in enumerate(levels) if size[0] >= wanted[0] and size[1] >= wanted[1]]
        return (covering[-1] if covering else 0), ""
    if asked < len(levels):
        return asked, ""
    last = len(levels) - 1
    there = f"levels 0 to {last} are there" if last else "level 0 is the only one"
    return last, f"level {asked} is missing ({there}): level {last} was read"
