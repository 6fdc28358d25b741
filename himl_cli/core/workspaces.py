"""Workspaces as records: their ids, facts, checks, and what setting one up wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.errors import HimlError


@dataclass(frozen=True)
class LeftOut:
    """A setting of another tool that was not taken, and why. Holds no value: that may be a secret."""

    name: str
    why: str


@dataclass(frozen=True)
class PreparedFile:
    """A file or folder that is to be there: `is_new` where it was made, `keys` what it says."""

    path: Path
    is_new: bool
    keys: Sequence[str] = ()
    is_private: bool = False


@dataclass(frozen=True)
class SetUp:
    """The outcome: what is there now, what was read, what was left out."""

    files: Sequence[PreparedFile]
    read: Sequence[Path] = ()
    left_out: Sequence[LeftOut] = ()


HOW_TO_CONFIGURE = (
    "Put the workspace's config.json (from Studio's menu at the top right) into the project's folder, or have it "
    "written: "
    "himl init --subscription_id ID --resource_group RG --workspace_name WS."
)

# An id in the form of resource manager or of Studio, from its first part on; to be compared without regard to case
WORKSPACE_ID = (
    r"subscriptions/(?P<subscription>[^/?&#]+)/resourceGroups/(?P<group>[^/?&#]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<name>[^/?&#]+)"
)


class WorkspaceIds(NamedTuple):
    """A workspace's ids as they are spelled where they were read."""

    subscription: str
    group: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.group}/{self.name}"

    def is_same(self, other: WorkspaceIds) -> bool:
        """Ids of Azure resources are compared without regard to case."""
        return all(one.casefold() == two.casefold() for one, two in zip(self, other, strict=True))


def parse_workspace_id(text: str) -> WorkspaceIds | None:
    """The ids in *text*: an id of resource manager, an address that holds one; None where there is none."""
    found = re.search(f"/{WORKSPACE_ID}", text, re.IGNORECASE)
    return WorkspaceIds(found["subscription"], found["group"], found["name"]) if found else None


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


class CheckState(str, Enum):
    """`passed` and `failed` speak for themselves; `note` is worth knowing and no failure; `skipped` could not be looked
    at."""

    passed = "ok"
    failed = "failed"
    note = "note"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of `himl doctor`: `name` is a stable word for scripts, `message` one sentence, `remedy` the next move of
    a failed one."""

    name: str
    state: CheckState
    message: str
    remedy: str = ""

    @classmethod
    def passed(cls, name: str, message: str) -> Check:
        return cls(name, CheckState.passed, message)

    @classmethod
    def failed(cls, name: str, message: str, remedy: str = "") -> Check:
        return cls(name, CheckState.failed, message, remedy)

    @classmethod
    def note(cls, name: str, message: str, remedy: str = "") -> Check:
        return cls(name, CheckState.note, message, remedy)

    @classmethod
    def skipped(cls, name: str, message: str) -> Check:
        return cls(name, CheckState.skipped, message)


def tried(name: str, look: Callable[[], Check], remedy: str = "") -> Check:
    """What *look* finds; an error that a user can mend is a failed check, and its hint the remedy (*remedy* where it
    has none)."""
    try:
        return look()
    except HimlError as err:
        return Check.failed(name, str(err), err.hint or remedy)
