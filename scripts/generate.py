"""Renew the generated files, which no other module lists. `scripts/generate --help` shows how.

`texts` makes the files that the sources and the kept results determine. `RUNS` are the commands that make the others,
and need programs, a network or some minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import report
from docs.tools import cli_pages, json_documents
from scripts import completions
from stress import document
from tests.api import public_api

ROOT = Path(__file__).parents[1]
WHOLE = ("docs/cli", "completions")
"""Folders that have no other files."""
AGAIN = "scripts/generate"


@dataclass(frozen=True)
class Generator:
    """A command that writes files, and what they are."""

    files: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None


def _module(name: str, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", name, *arguments]


def _lock(name: str) -> Generator:
    """The command in the second line of a lock file, for a shell."""
    line = (ROOT / name).read_text(encoding="utf-8").splitlines()[1]
    return Generator(f"{name}, with uv and a package index", ["bash", "-c", line.removeprefix("#").strip()])


RUNS: Mapping[str, Generator] = {
    "golden": Generator(
        "tests/golden/, after an intended change of a document or a request body",
        _module("pytest", "-n", "0", "-q", "tests/golden", "tests/workspaces/test_azure_job_bodies.py"),
        {"HIML_TEST_GOLDEN": "write"},
    ),
    "routes": Generator("the table in docs/azure-double.md, with all clients", _module("docs.tools.route_table")),
    "terminal": Generator("the terminal in the README", _module("docs.tools.terminal")),
    "pictures": Generator("the other pictures of the pages, with Chromium", _module("docs.tools.guide_pictures")),
    "sizes": Generator("docs/sizes.md, with large downloads", ["scripts/sizes"]),
    "lock": _lock("requirements-dev.lock"),
    "oldest": _lock("requirements-oldest.lock"),
}


@cache
def texts() -> Mapping[str, bytes]:
    """The content of each generated file by its path below the project's folder."""
    made: dict[str, str] = {
        **{f"docs/cli/{name}": text for name, text in cli_pages.pages().items()},
        json_documents.FILE.relative_to(ROOT).as_posix(): json_documents.text(),
        **{f"completions/{name}": text for name, text in completions.scripts().items()},
        **{path.relative_to(ROOT).as_posix(): text for path, text in report.pages(report.RESULTS).items()},
        "docs/reliability.md": document.render(document.RESULTS),
        "tests/api/public_api.txt": public_api.public_api(),
    }
    return {name: text.encode("utf-8") for name, text in made.items()}


def stale(root: Path = ROOT) -> list[str]:
    """The files below *root* that are missing, outdated or no longer made."""
    wrong = (name for name, text in texts().items() if _content(root / name) != text)
    left_over = (f"{folder}/{path.name}" for folder in WHOLE for path in (root / folder).glob("*"))
    return sorted([*wrong, *(name for name in left_over if name not in texts())])


def write(root: Path = ROOT) -> list[str]:
    """Write the files that are not current, and remove those that are no longer made. Return their names."""
    names = stale(root)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(texts()[name]) if name in texts() else (root / name).unlink()
    return names


def _content(path: Path) -> bytes | None:
    """The content of a file, if there is one, with the ends of lines of the repository."""
    return path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else None


def main() -> None:
    runs = "\n".join(f"  {name:10}{run.files}" for name, run in RUNS.items())
    parser = argparse.ArgumentParser(
        prog=AGAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Renew the files that are made from the sources and the kept results, and print their names.",
        epilog=f"A NAME runs a command for other files instead:\n{runs}",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="see below")
    parser.add_argument("--check", action="store_true", help="write nothing, and exit with 1 if a file is not current")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in RUNS]:
        parser.error(f"Unknown name '{unknown[0]}'. The names are {', '.join(RUNS)}.")
    if options.check:
        if names := stale():
            sys.exit(f"Not current: {', '.join(names)}. Run: {AGAIN}")
        return
    for name in options.names:
        subprocess.run(RUNS[name].command, cwd=ROOT, env={**os.environ, **(RUNS[name].env or {})}, check=True)
    if not options.names:
        sys.stdout.writelines(f"{name}\n" for name in write())


if __name__ == "__main__":
    main()
