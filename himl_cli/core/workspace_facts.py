"""What is known of a workspace itself, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkspaceFacts:
    """A workspace: `kind` is `local` or `azure`, `source` says why it is the one that is meant.

    `facts` are the rest, in the order to show them: stable words (`location`, `subscription_id`, `studio_url`, ...) and
    their values, without secrets.
    """

    kind: str
    label: str
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)
