"""Patterns of file names, as `--image_glob` takes them."""

from __future__ import annotations

import re
import sys
from fnmatch import translate

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.ignore_rules import fits, without_repeats


class Pattern:
    """A pattern of names with `/` separators, matched from the root as `Path.glob` does: `**` is any number of folders,
    other wildcards stay within a part.

    A leading `/` or `./` is dropped. A `**` at the end means every file below. Names that begin with a dot match too.
    On Windows `\\` is a separator too, and upper and lower case are the same.
    """

    def __init__(self, text: str, *, windows: bool = sys.platform == "win32") -> None:
        """Raises BadUsage for a pattern that is empty or leaves the folder."""
        self.text = text
        parts = [part for part in (text.replace("\\", "/") if windows else text).split("/") if part not in ("", ".")]
        if not parts:
            raise BadUsage(
                "--image_glob has no pattern.", hint="Write one such as '**/*.tiff', or leave --image_glob out."
            )
        if ".." in parts:
            raise BadUsage(
                f"--image_glob '{text}' leaves the folder.",
                hint="Patterns are relative to the folder; name the folder above instead.",
            )
        ignoring = re.IGNORECASE if windows else 0
        self._parts = [
            None if part is None else re.compile(translate(part), ignoring) for part in without_repeats(parts)
        ]

    def matches(self, name: str) -> bool:
        """Whether *name* matches as a whole; the time is bounded by the number of its parts times those of the
        pattern."""
        return fits(self._parts, name.split("/"), _part_fits)


def _part_fits(wanted: re.Pattern[str], part: str) -> bool:
    return wanted.match(part) is not None
