"""What `himl tb` says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from himl_cli.render.durations import size_text
from himl_cli.render.output import Output
from himl_cli.render.places import shown_path
from himl_cli.render.tables import Column

COLUMNS = (
    Column("RUN", lambda synced: synced.run, rank=1, least=20),
    Column(
        "EVENT FILES", lambda synced: f"{synced.files:,}", plain=lambda synced: str(synced.files), rank=2, right=True
    ),
    Column(
        "NEW",
        lambda synced: size_text(synced.new_bytes),
        plain=lambda synced: str(synced.new_bytes),
        rank=2,
        least=8,
        right=True,
    ),
    Column("FOLDER", lambda synced: shown_path(str(synced.folder)), plain=lambda synced: str(synced.folder)),
)


def say_synced(output: Output, runs: Iterable[Any]) -> None:
    """Where the event files of *runs* are: a line a run, or the folders alone."""
    output.table(runs, COLUMNS, quiet=lambda synced: str(synced.folder))


def say_served(output: Output, url: str, runs: Iterable[str]) -> None:
    """Where TensorBoard is, in one line that is there at once, also for a program at the other end of a pipe."""
    output.result({"url": url, "runs": list(runs)}, human=f"TensorBoard: {url}", quiet=url)
    output.flush()
    output.notice("Ctrl-C ends it.")
