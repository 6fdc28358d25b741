"""Which name each of some files here gets among a run's checkpoints, when they are pushed."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.checkpoints.here import check_whole, files_in, path_of
from himl_cli.services.checkpoints.names import FOLDER
from himl_cli.services.transfer.local_files import disk_error

OUTPUTS = "outputs/"


def places_of(
    files: Sequence[Path], sources: Collection[str], has: Callable[[str], bool], cwd: Path
) -> Mapping[str, Path]:
    """The paths that *files* mean by their names in the new run. A folder stands for the files in it (`here.files_in`),
    a pattern for what matches.

    They go below `outputs/checkpoints`. What lies below a folder that is called as a run of *sources* was laid there by
    `fetch` (or `download`), and keeps its name; *has* says whether the source run has a file. Raises NotFound for what
    is not there, DiskFailed, and BadUsage for a file that is empty or was not written to its end, for the folder of a
    project, and for two files that would get one name.
    """
    found: dict[str, Path] = {}
    for file in files:
        for meant in _matching(path_of(file, cwd), file):
            for place, path in _inside(meant, file):
                name = _name(path, place, sources, has)
                other = found.setdefault(name, path)
                if not os.path.samefile(other, path):
                    raise BadUsage(
                        f"'{other}' and '{path}' would both be '{name}' in the new run.",
                        hint="Rename one of them, or push them to two runs.",
                    )
    return found


def _matching(path: Path, asked: Path) -> list[Path]:
    """The file or folder at *path*, or what matches it as a pattern: not every shell reads those. Raises NotFound."""
    if path.exists():
        return [path]
    matching = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(asked)) else []
    if not matching:
        raise NotFound(f"There is no file '{asked}'.")
    return [Path(one) for one in matching]


def _inside(path: Path, asked: Path) -> Iterator[tuple[str, Path]]:
    """The files that *path* means, each with its name from there. Raises NotFound, BadUsage, DiskFailed."""
    try:
        if path.is_file():
            check_whole(path)
            yield path.name, path
            return
        is_empty = True
        for found in files_in(path, asked) if path.is_dir() else ():
            is_empty = False
            check_whole(Path(found.path), in_folder=True)
            yield found.name, Path(found.path)
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or path}'") from err
    if is_empty:
        raise NotFound(f"There are no files in '{asked}'.")


def _name(path: Path, place: str, sources: Collection[str], has: Callable[[str], bool]) -> str:
    parts = Path(os.path.abspath(path)).parts
    runs = [number for number, part in enumerate(parts[:-1]) if part in sources]
    if runs:
        place = "/".join(parts[runs[-1] + 1 :])
    if place.startswith(OUTPUTS):
        return place
    below = f"{FOLDER}/{place}"
    return place if "/" in place and not has(below) and has(place) else below
