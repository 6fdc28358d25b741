"""Which pages there are, and who runs the blocks of those that are not among them."""

from __future__ import annotations

from fnmatch import fnmatch

from tests.docs.blocks import ROOT

ELSEWHERE = (
    "docs/ci.md",  # tests/project/test_ci_files.py runs its files
    "docs/design*",
    "docs/performance.md",
    "docs/reliability.md",
)
"""Pages for those who work on himl, which show no use of it."""

NOT_YET: tuple[str, ...] = ()
"""Pages whose blocks are not run."""


def pages() -> list[str]:
    """Their names below the checkout, the README first."""
    found = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    return [name for name in found if not any(fnmatch(name, pattern) for pattern in ELSEWHERE)]
