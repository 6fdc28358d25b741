"""Downloads as commands ask for them: once on each node, whatever the number of ranks; the files of a run in a folder
of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.runs import Run
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.requests import DownloadRequest
from himl_cli.workspaces.base import BlobStore

SERVICE_LOGS = ("user_logs/", "system_logs/", "azureml-logs/", "logs/azureml/")
FilesOf = Callable[[str], BlobStore]


def download_runs(
    files_of: FilesOf,
    runs: Sequence[Run],
    request: DownloadRequest,
    *,
    output_key: str | None = None,
    flat: bool = False,
    notify: Notify = ignore,
) -> TransferResult:
    """Bring the files of *runs* to `request.folder/<run id>`, with *flat* to the folder itself; *files_of* gives a
    run's store (of the output *output_key* where that is given).

    On a node with several ranks only rank 0 does it. A run without matching files is named, and the others go on;
    raises NotFound when no run has any, BadUsage for *flat* with several runs, and what `download` raises.
    """
    if flat and len(runs) > 1:
        raise BadUsage(
            f"--flat takes one run, and {len(runs)} are selected.", hint="Leave out --flat, or select one run."
        )
    key = repr(("download", [run.id for run in runs], output_key, flat, request))
    logs = SERVICE_LOGS if output_key is None else ()
    return rank_zero_only(
        request.folder, key, lambda: _download_each(files_of, runs, request, flat, logs, notify), notify=notify
    )


def download_blobs(store: BlobStore, request: DownloadRequest, *, notify: Notify = ignore) -> TransferResult:
    """As `download`, and on a node with several ranks only by rank 0."""
    return rank_zero_only(
        request.folder,
        repr(("download", store.origin, request)),
        lambda: download(store, request, notify),
        notify=notify,
    )


def _download_each(
    files_of: FilesOf, runs: Sequence[Run], request: DownloadRequest, flat: bool, logs: tuple[str, ...], notify: Notify
) -> TransferResult:
    total = TransferResult()
    missing: list[NotFound] = []
    for run in runs:
        try:
            one = download(files_of(run.id), replace(request, under="" if flat else run.id, logs=logs), notify)
            if one.is_empty and len(runs) > 1:
                notify(Notice(f"Run '{run.id}' has no files."))
            total += one
        except NotFound as err:
            if len(runs) > 1:
                notify(Notice(str(err)))
            missing.append(err)
    if missing and len(missing) == len(runs):
        raise missing[0]
    return total
