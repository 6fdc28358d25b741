"""Moving files for scripts: each node's rank 0 alone brings them, progress only where it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from himl_cli.api.errors import NotThere, raising
from himl_cli.api.ranks import once_per_node
from himl_cli.core.blobs import TransferResult, named
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.services.transfer.plan import UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import BlobStore

log = logging.getLogger(__name__)

Work = Callable[[Notify], TransferResult]


def bring(folder: Path, key: str, work: Work, *, show_progress: bool = False) -> TransferResult:
    """What *work* brings to *folder*, done once on each node; *key* is the same for all ranks and for no other call.

    Raises NotThere where nothing is meant, and what *work* raises.
    """
    with _observing(show_progress, "Downloaded", str(folder)) as (notify, conclude), raising(NotFound, NotThere):
        return once_per_node(folder, key, lambda: conclude(work(notify)), notify=notify)


def send(store: BlobStore, request: UploadRequest, *, show_progress: bool = False) -> TransferResult:
    """Upload the folder that *request* means; every process that calls it does it. Raises BadUsage for a file, and as
    `upload`."""
    if request.local.is_file():
        raise BadUsage(f"'{request.local}' is a file, and a folder is uploaded.", hint="Give the folder that holds it.")
    with _observing(show_progress, "Uploaded", request.prefix) as (notify, conclude), raising(NotFound, NotThere):
        return conclude(upload(store, request, notify))


def complete(result: TransferResult) -> TransferResult:
    """*result* itself. Raises the error it amounts to, if any."""
    problem = result.problem()
    if problem is not None:
        raise problem
    return result


def leave_what_is_there(result: TransferResult) -> TransferResult:
    """As `complete`, and files that differ are no error, as hi-ml documents; the log names them."""
    if result.differing:
        log.warning(
            "Left as they are, because they exist with another content: %s; overwrite=True replaces them.",
            named(result.differing),
        )
    return complete(replace(result, differing=()))


Conclude = Callable[[TransferResult], TransferResult]


@contextmanager
def _observing(show_progress: bool, verb: str, place: str) -> Iterator[tuple[Notify, Conclude]]:
    """Whom to tell of progress, and of the result: the log, or where it was asked for stderr (a bar only on a
    terminal)."""
    if not show_progress:
        yield log_notice, lambda result: result
        return
    from himl_cli.render.output import Output
    from himl_cli.render.progress import observing
    from himl_cli.render.transfers import summary

    output = Output()
    said: list[TransferResult] = []

    def conclude(result: TransferResult) -> TransferResult:
        said.append(result)
        return result

    with observing(output) as notify:
        yield notify, conclude
    for result in said:
        output.notice(summary(result, verb, [place]))


def log_notice(event: Event) -> None:
    """What a script hears of a transfer where it asked for no progress."""
    if isinstance(event, Notice):
        log.info("%s", event.text)
