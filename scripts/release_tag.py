"""Whether a tag, the package's version and the changelog agree.

`python -m scripts.release_tag TAG [CHANGELOG]` prints what does not, and ends with 1 then.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from himl_cli import __version__

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
HEADING = re.compile(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    changelog = Path(sys.argv[2]) if len(sys.argv) == 3 else CHANGELOG
    problems = [*differences(sys.argv[1], __version__, changelog.read_text(encoding="utf-8"))]
    told = problems or [f"{sys.argv[1]}: the version of the package, and of the changelog's newest entry"]
    sys.stdout.writelines(f"{line}\n" for line in told)
    return bool(problems)


def differences(tag: str, version: str, changelog: str) -> Iterator[str]:
    """What keeps *tag* from being the release of *version*, a sentence each."""
    if tag != f"v{version}":
        yield f"The tag is '{tag}'; the package says {version}, whose tag is 'v{version}'."
    newest = newest_entry(changelog)
    if newest is None:
        yield "The changelog has no heading like '## 1.2.0 (2026-01-31)'."
    elif newest[0] != version:
        yield f"The changelog's newest entry is {newest[0]}, the package says {version}."
    elif newest[1] == "unreleased":
        yield f"The changelog calls {version} unreleased: give it its date."


def newest_entry(changelog: str) -> tuple[str, str] | None:
    """Version and date (or `unreleased`) of the first heading; None where there is none."""
    found = HEADING.search(changelog)
    return (found[1], found[2]) if found else None


if __name__ == "__main__":
    sys.exit(main())
