"""Patterns of file names, as `--image_glob` takes them."""

from __future__ import annotations

import os
import re
from fnmatch import translate

from himl_cli.core.errors import BadUsage

ANY_FOLDERS = "**"


class Pattern:
    """A pattern of names with `/` separators, matched from the root as `Path.glob` does: `**` is any number of folders, other wildcards stay within a part.

    A leading `/` or `./` is dropped. A `**` at the end means every file below. Names that begin with a dot match too.
    """

    def __init__(self, text: str) -> None:
        """Raises BadUsage for a pattern that is empty or leaves the folder."""
        self.text = text
        parts = [part for part in (text.replace("\\", "/") if os.name == "nt" else text).split("/") if part not in ("", ".")]
        if not parts:
            raise BadUsage("--image_glob has no pattern.", hint="Write one such as '**/*.tiff', or leave --image_glob out.")
        if ".." in parts:
            raise BadUsage(f"--image_glob '{text}' leaves the folder.", hint="Patterns are relative to the folder; name the folder above instead.")
        if parts[-1] == ANY_FOLDERS:
            parts.append("*")
        ignoring = re.IGNORECASE if os.name == "nt" else 0
        self._parts = [None if part == ANY_FOLDERS else re.compile(translate(part), ignoring) for part in parts]

    def matches(self, name: str) -> bool:
        """Whether *name* matches as a whole; the time is bounded by the number of its parts times those of the pattern."""
        reached = self._past_any_folders({0})
        for part in name.split("/"):
            stays = {at for at in reached if at < len(self._parts) and self._parts[at] is None}
            moves = {at + 1 for at in reached if at < len(self._parts) and (wanted := self._parts[at]) is not None and wanted.match(part)}
            reached = self._past_any_folders(stays | moves)
            if not reached:
                return False
        return len(self._parts) in reached

    def _past_any_folders(self, reached: set[int]) -> set[int]:
        """*reached*, and the places after each `**`, which may stand for no folder."""
        found = set(reached)
        for at in sorted(reached):
            while at < len(self._parts) and self._parts[at] is None:
                at += 1
                found.add(at)
        return found
