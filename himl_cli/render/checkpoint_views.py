"""The output of `himl checkpoint`: paths, new runs and links on stdout, remarks on stderr."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from himl_cli.core.runs import (
    FetchedCheckpoint,
    LinkedCheckpoint,
    PushedCheckpoints,
    run_form,
)
from himl_cli.core.text import named
from himl_cli.render.job_views import print_run
from himl_cli.render.output import (
    Format,
    Output,
    duration_text,
    size_text,
)


def print_fetched_checkpoint(output: Output, fetched: FetchedCheckpoint, digest: Callable[[], str | None]) -> None:
    """Print the path on stdout and its source on stderr, so that `"$(himl checkpoint fetch RUN)"` is the path. *digest*
    returns the MD5 in hex digits."""
    what = f"'{fetched.names[0]}'" if len(fetched.names) == 1 else f"{len(fetched.names):,} files"
    where = f"of run '{fetched.run.id}'" if fetched.run is not None else f"from {fetched.address}"
    if fetched.status == "complete":
        said = f"{what} {where} {'is' if len(fetched.names) == 1 else 'are'} already complete on this machine."
    else:
        said = f"Fetched {what} {where} ({size_text(fetched.size)}) in {duration_text(fetched.seconds)}."
    if fetched.status != "local":
        output.notice(f"{said}{' The service has no MD5 to compare.' if fetched.unverified else ''}")
    document = {
        "path": fetched.shown,
        "status": fetched.status,
        "run": fetched.run.id if fetched.run is not None else None,
        "address": fetched.address or None,
        "names": list(fetched.names),
        "size": fetched.size,
        "md5": digest() if output.format is Format.json else None,
        "verified": not fetched.unverified if fetched.status == "fetched" else None,
        "epoch": fetched.epoch,
        "metric": fetched.metric or None,
        "value": fetched.value,
    }
    output.result(document, human=fetched.shown, quiet=fetched.shown)


def print_pushed_checkpoints(output: Output, pushed: PushedCheckpoints) -> None:
    """Print the new run's id on stdout. Name its workspace, and how jobs start from it, on stderr."""
    run, count, same = pushed.run, len(pushed.names), len(pushed.unchanged)
    if same == count:
        output.notice(
            f"warning: {'The file is' if count == 1 else 'All files are'} the same as in run {pushed.source.id}."
        )
    elif same:
        output.notice(f"himl also pushed unchanged files: {named(pushed.unchanged)}.")
    data = {
        **run_form(run),
        "from": pushed.source.id,
        "files": list(pushed.names),
        "unchanged": list(pushed.unchanged),
        "checkpoint": pushed.start,
    }
    output.result(data, human=run.id, quiet=run.id)
    print_run(output, run, f"{count:,} file{'s' * (count != 1)} in run", url=run.url)
    output.notice(f"Start from it: himl submit SCRIPT --checkpoint {pushed.start}")


def print_checkpoint_url(output: Output, linked: LinkedCheckpoint, days: float) -> None:
    """Print the link, which no other output shows, and its expiry, with a remark if it is valid for fewer than
    *days*."""
    link = linked.link
    data = {"url": link.url, "expires": link.expires, "run": linked.run.id, "name": linked.name}
    output.result(data, human=link.url, quiet=link.url)
    output.notice(
        f"Everyone with this link can read '{linked.name}' of run {linked.run.id} until "
        f"{link.expires:%Y-%m-%d %H:%M} UTC."
    )
    # The validity of a link begins a quarter of an hour before its creation
    if link.expires < datetime.now(timezone.utc) + timedelta(days=days, minutes=-16):
        output.notice(
            f"The link is valid for less than {days:g} day{'s' * (days != 1)}. Longer links require the key of the "
            "storage account."
        )
