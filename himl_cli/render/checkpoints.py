"""What `himl checkpoint` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from himl_cli.core.checkpoints import FetchedCheckpoint
from himl_cli.render.durations import duration_text, size_text
from himl_cli.render.output import Format, Output


def say_fetched(output: Output, fetched: FetchedCheckpoint, digest: Callable[[], str | None]) -> None:
    """The path alone on stdout, where it came from on stderr: `"$(himl checkpoint fetch RUN)"` is the path. *digest*
    gives the MD5 in hex digits."""
    if fetched.status != "local":
        output.notice(_came(fetched))
    data = _form(fetched, digest()) if output.format is Format.json else None
    output.result(data, human=fetched.shown, quiet=fetched.shown)


def _came(fetched: FetchedCheckpoint) -> str:
    what = f"'{fetched.names[0]}'" if len(fetched.names) == 1 else f"{len(fetched.names):,} files"
    where = f"of run '{fetched.run.id}'" if fetched.run is not None else f"from {fetched.address}"
    if fetched.status == "complete":
        said = f"{what} {where} {'is' if len(fetched.names) == 1 else 'are'} complete here already."
    else:
        said = f"Fetched {what} {where} ({size_text(fetched.size)}) in {duration_text(fetched.seconds)}."
    if fetched.unverified:
        said += " No MD5 is on record to check it by."
    return said


def _form(fetched: FetchedCheckpoint, md5: str | None) -> dict[str, Any]:
    return {
        "path": fetched.shown,
        "status": fetched.status,
        "run": fetched.run.id if fetched.run is not None else None,
        "address": fetched.address or None,
        "names": list(fetched.names),
        "size": fetched.size,
        "md5": md5,
        "verified": not fetched.unverified if fetched.status == "fetched" else None,
        "epoch": fetched.epoch,
        "metric": fetched.metric or None,
        "value": fetched.value,
    }
