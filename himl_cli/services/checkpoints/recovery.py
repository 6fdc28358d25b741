"""The checkpoint that another attempt of a job resumes from, and whether a file was written to its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.text import read_json
from himl_cli.services.checkpoints.names import FOLDER, Kind, Rank, best_first, rank_of, retry_pattern

if TYPE_CHECKING:
    from himl_cli.core.blobs import TransferResult
    from himl_cli.workspaces.base import BlobStore

log = logging.getLogger(__name__)

ZIP, SAFETENSORS = b"PK\x03\x04", ".safetensors"
LONGEST_HEADER = 100_000_000


def is_whole(path: Path) -> bool:
    """False for what is empty, or can be seen to end too early; True for the rest. A folder is whole when it has files
    and all are, but for empty marks.

    Files of torch.save (since 1.6), NumPy's `.npz` and Keras's `.keras` are zip archives, whose index stands at their
    end; a file of safetensors says how long it is. Of other formats only their being empty can be seen: these should be
    written beside their place and renamed.
    """
    try:
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            return any(file.stat().st_size for file in files) and all(
                _is_whole_file(file) or is_mark(file) for file in files
            )
        return _is_whole_file(path)
    except OSError:
        return False


def is_mark(path: Path) -> bool:
    """Whether it is an empty file without an ending, as programs leave them beside the files of a checkpoint. Raises
    OSError."""
    return not path.suffix and path.stat().st_size == 0


def _is_whole_file(path: Path) -> bool:
    size = path.stat().st_size
    if size == 0:
        return False
    with path.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(ZIP):
            from zipfile import is_zipfile

            return is_zipfile(stream)
        if path.suffix == SAFETENSORS:
            length = int.from_bytes(start, "little")
            if length >= min(size, LONGEST_HEADER):
                return False
            try:
                entries = read_json(stream.read(length))
                ends = [int(one["data_offsets"][1]) for name, one in entries.items() if name != "__metadata__"]
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
                return False
            return max(ends, default=0) + length + 8 == size
    return True


def on_disk(root: Path, folder: str = FOLDER, *, least: Kind = Kind.last) -> Path | None:
    """The checkpoint below *root* to go on from, of the kind *least* or a more telling one; half-written ones are
    passed over, and named in the log."""
    for name in best_first(_names(root, folder), folder, least=least):
        if is_whole(root / name):
            return root / name
        log.warning("'%s' was not written to its end; the next best checkpoint is taken.", name)
    return None


def bring_best(files: BlobStore, root: Path, folder: str = FOLDER, *, than: Rank | None = None) -> TransferResult:
    """Bring the checkpoint to go on from out of the run's *files* to *root*, its name kept; nothing where there is
    none, or none better *than* that.

    One that proves half-written is removed and the next best brought. Raises ServiceFailed, IntegrityFailed and their
    kin.
    """
    from himl_cli.core.blobs import TransferResult
    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.filters import Filters, literal
    from himl_cli.services.transfer.plan import DownloadRequest

    above = folder.rpartition("/")[0]
    sizes = {blob.name: blob.size for page in files.list(f"{above}/" if above else "") for blob in page}
    total = TransferResult()
    better = (name for name, size in sizes.items() if size and is_better(rank_of(name, folder), than))
    for name in best_first(better, folder):
        result = download(files, DownloadRequest(root, Filters(name, include=(literal(name),)), overwrite=True))
        problem = result.problem()
        if problem is not None:
            raise problem
        total += result
        if is_whole(root / name):
            break
        log.warning("'%s' of %s was not written to its end; the next best checkpoint is taken.", name, files.label)
        (root / name).unlink()
    return total


def is_better(rank: Rank | None, than: Rank | None) -> bool:
    """Whether to go on from a checkpoint of *rank* and not from the other; None is none."""
    return rank is not None and (than is None or rank > than)


def _names(root: Path, folder: str) -> Iterator[str]:
    for place in [root / folder, *root.glob(retry_pattern(folder))]:
        if place.is_dir():
            yield from (path.relative_to(root).as_posix() for path in place.iterdir())
