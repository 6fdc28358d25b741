"""Records about workspaces: ids, facts, checks, and the files of a setup."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.errors import HimlError
from himl_cli.core.records import dataclass


@dataclass(frozen=True)
class LeftOut:
    """A setting of another tool that himl did not adopt, and why. Contains no value, since that may be a secret."""

    name: str
    why: str


@dataclass(frozen=True)
class PreparedFile:
    """A file or folder of a setup: `is_new` if himl created it, `keys` its keys."""

    path: Path
    is_new: bool
    keys: Sequence[str] = ()
    is_private: bool = False


@dataclass(frozen=True)
class Garbage:
    """Files that no run needs: `copies` of code in the folders of ended runs, `code` in the store that no run lists, or
    `artifacts` of old runs, or `downloads` in himl's cache that nothing used, their number and their size in bytes."""

    kind: str
    files: int
    size: int


@dataclass(frozen=True)
class SetUp:
    """The outcome of a setup: the files, the files that were read, and the settings that were omitted."""

    files: Sequence[PreparedFile]
    read: Sequence[Path] = ()
    left_out: Sequence[LeftOut] = ()


HOW_TO_CONFIGURE = (
    "Put the workspace's config.json (from the menu at the top right of Studio) into the project's folder, or create "
    "it: himl init --subscription_id ID --resource_group RG --workspace_name WS."
)

# An id of Resource Manager or of Studio, from its first part on. Compare it without regard to case
WORKSPACE_ID = (
    r"subscriptions/(?P<subscription>[^/?&#]+)/resourceGroups/(?P<group>[^/?&#]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<name>[^/?&#]+)"
)


class WorkspaceIds(NamedTuple):
    """A workspace's ids, spelled as in their source."""

    subscription: str
    group: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.group}/{self.name}"

    def is_same(self, other: WorkspaceIds) -> bool:
        """Compare without regard to case, as Azure does for ids of resources."""
        return all(one.casefold() == two.casefold() for one, two in zip(self, other, strict=True))


def parse_workspace_id(text: str) -> WorkspaceIds | None:
    """The ids in *text*, which is an id of Resource Manager or an address that contains one, else None."""
    found = re.search(f"/{WORKSPACE_ID}", text, re.IGNORECASE)
    return WorkspaceIds(found["subscription"], found["group"], found["name"]) if found else None


@dataclass(frozen=True)
class WorkspaceFacts:
    """A workspace: `kind` is `local` or `azure`, `source` says why himl chose it.

    `facts` are the rest, in display order: stable words (`location`, `subscription_id`, `studio_url`, ...) and
    their values, without secrets.
    """

    kind: str
    label: str
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)


class CheckState(str, Enum):
    """The result of a check. A `note` is information and no failure. A `skipped` check was impossible."""

    passed = "ok"
    failed = "failed"
    note = "note"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of `himl doctor`: `name` is a stable word for scripts, `message` one sentence, `remedy` the next step
    after a failure."""

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
    """Return the check of *look*. An error that a user can fix is a failed check, with its hint as the remedy
    (*remedy* if it has none)."""
    try:
        return look()
    except HimlError as err:
        return Check.failed(name, str(err), err.hint or remedy)
