"""What there is to say of runs while they are looked at."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.errors import NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.sweeps import MANY
from himl_cli.services.tensorboard.feeds import RunFeed

NAMED = 3
"""So many runs are named one by one."""


def say_without_files(feeds: Sequence[RunFeed], notify: Notify) -> None:
    """That runs have nothing to show, or nothing yet. Sweeps and pipelines, whose files lie with the runs below them,
    are passed over."""
    for yet in ("", " yet"):
        ids = [feed.run.id for feed in feeds if MANY not in feed.run.tags and feed.run.status.is_final == (yet == "")]
        if len(ids) > NAMED:
            notify(Notice(f"{len(ids):,} runs have no event files{yet}: {_listed(ids)}."))
        else:
            for run_id in ids:
                notify(Notice(f"Run '{run_id}' has no event files{yet}."))


def say_left_out(feeds: Sequence[RunFeed], notify: Notify) -> None:
    """Which files of runs are not shown because nothing here can have their names; each is said once."""
    for feed in feeds:
        names, feed.left_out = sorted(feed.left_out), set()
        if names:
            shown = ", ".join(f"'{name}'" for name in names[:NAMED]) + (
                f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            )
            notify(
                Notice(
                    f"Run '{feed.run.id}': not shown, since no file here can have that name, or a link is in its "
                    f"place: {shown}."
                )
            )


def say_joined(feeds: Sequence[RunFeed], notify: Notify) -> None:
    """That runs are shown that were not there at the start."""
    ids = [feed.run.id for feed in feeds]
    if len(ids) > NAMED:
        notify(Notice(f"{len(ids):,} more runs: {_listed(ids)}."))
    elif ids:
        notify(Notice(f"{'One more run' if len(ids) == 1 else f'{len(ids)} more runs'}: {', '.join(ids)}."))


def nothing_to_show(feeds: Sequence[RunFeed]) -> NotFound:
    """That none of the runs has event files."""
    what = (
        f"Run '{feeds[0].run.id}' has no event files."
        if len(feeds) == 1
        else f"None of these {len(feeds):,} runs has event files."
    )
    hint = (
        "Files with 'tfevents' in their names are looked for, in --log_dir first and then among all files of the run."
    )
    return NotFound(what, hint=f"{hint} A run has what its script wrote to outputs/ and logs/.")


def always_changing(feed: RunFeed) -> ServiceFailed:
    """That event files of a run were never the same from the beginning of a read to its end."""
    return ServiceFailed(
        f"Event files of run '{feed.run.id}' changed each time they were read.",
        hint="Run the command again when nothing replaces them.",
    )


def _listed(ids: Sequence[str]) -> str:
    return f"{', '.join(ids[:NAMED])} and {len(ids) - NAMED:,} more"
