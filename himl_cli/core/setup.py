"""What setting up a workspace read, wrote, and left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Section = Mapping[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """A setting of another tool that was not taken, and why. Holds no value: that may be a secret."""

    name: str
    why: str


@dataclass(frozen=True)
class TakenSettings:
    """What the settings of another tool mean to himl.

    `workspace` has the keys of a `config.json`, some or all; `public` and `private` are sections of `himl.toml` and
    `himl.private.toml`; `read` are the files it comes from.
    """

    workspace: Mapping[str, str] = field(default_factory=dict)
    public: Mapping[str, Section] = field(default_factory=dict)
    private: Mapping[str, Section] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    read: Sequence[Path] = ()


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
