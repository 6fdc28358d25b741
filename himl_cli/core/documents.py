"""A job that is written down in a file of another tool's format: what is to be otherwise than the file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DocumentChanges:
    """What counts instead of what a file says; empty: what it says. `tags` and `env` are added to its own.

    `cluster` is where the job runs, and every part of it that names no compute of its own. `command` is what the user
    typed, for the record. `code` has folders of code as this machine finds them, by their keys in the file
    (`jobs.train.code`). `is_secret` says of a folder of code and a file below it whether that is left out.
    """

    experiment: str = ""
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    command: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    is_secret: Callable[[str, str], bool] = field(default=lambda folder, path: False, compare=False)
