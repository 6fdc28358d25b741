"""What `himl checkpoint url` says."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from himl_cli.core.checkpoints import LinkedCheckpoint
from himl_cli.render.output import Output

NEARLY = timedelta(minutes=16)
"""Links begin a quarter of an hour before they are made."""


def say_linked(output: Output, linked: LinkedCheckpoint, days: float) -> None:
    """The link, which is nowhere else to be seen; how long it is good, and that it is for fewer than *days* where it
    is."""
    link = linked.link
    data = {"url": link.url, "expires": link.expires, "run": linked.run.id, "name": linked.name}
    output.result(data, human=link.url, quiet=link.url)
    output.notice(
        f"Whoever has this link can read '{linked.name}' of run {linked.run.id} until "
        f"{link.expires:%Y-%m-%d %H:%M} UTC."
    )
    if link.expires < datetime.now(timezone.utc) + timedelta(days=days) - NEARLY:
        output.notice(
            f"That is less than the {days:g} day{'s' * (days != 1)} asked for: without the storage account's key no "
            "link is good for longer."
        )
