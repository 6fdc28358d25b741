"""The checkpoint that another try of a job goes on from: on its disk, else among the files that its run kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.services.checkpoints.names import FOLDER, Kind, Rank, best_first, rank_of, retry_pattern
from himl_cli.services.checkpoints.whole import is_whole

if TYPE_CHECKING:
    from himl_cli.core.blobs import TransferResult
    from himl_cli.workspaces.base import BlobStore

log = logging.getLogger(__name__)


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
