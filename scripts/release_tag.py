"""Check that a tag, the version of the package and the changelog agree.

`python -m scripts.release_tag TAG [CHANGELOG]` prints the differences, and exits with 1 if there are any.
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
    lines = problems or [f"{sys.argv[1]} matches the version of the package and the newest entry of the changelog."]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return bool(problems)


def differences(tag: str, version: str, changelog: str) -> Iterator[str]:
    """Yield a sentence for each difference between *tag*, *version* and the text of the changelog."""
    if tag != f"v{version}":
        yield f"The tag must be 'v{version}', the version of the package, not '{tag}'."
    newest = newest_entry(changelog)
    if newest is None:
        yield "The changelog has no heading like '## 1.2.0 (2026-01-31)'."
    elif newest[0] != version:
        yield f"The newest entry of the changelog must be {version}, the version of the package, not {newest[0]}."
    elif newest[1] == "unreleased":
        yield f"The changelog marks {version} as unreleased. Replace 'unreleased' with the date."


def newest_entry(changelog: str) -> tuple[str, str] | None:
    """Return version and date (or `unreleased`) of the first heading, or None if there is none."""
    found = HEADING.search(changelog)
    return (found[1], found[2]) if found else None


if __name__ == "__main__":
    sys.exit(main())
