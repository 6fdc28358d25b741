"""`himl --complete`: names for completion scripts, printed before Typer is imported.

It never fails, prints nothing on stderr, sends no requests and writes no files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.files import named_folder
from himl_cli.core.settings import nearest_local
from himl_cli.workspaces.local.completion_names import completion_names

AZURE_OPTIONS = ("config_file", "config_path", "workspace_config_path", "workspace_config")
"""`--config_file` and hi-ml's names for it: the workspace is not on this machine."""


def main() -> None:
    """Print the names with PREFIX for `KIND=PREFIX WORD...`, one per line, without those among the words. KIND is
    `runs` or `experiments`, and the words are the command line so far."""
    question, *words = sys.argv[2:] or ("",)
    kind, _, prefix = question.partition("=")
    given = {part for word in words for part in word.split(",")} - {prefix}
    found: list[str] = []
    try:
        folder = workspace_of(words)
        if folder is not None and kind in ("runs", "experiments"):
            found += completion_names(folder, "runs" if kind == "runs" else "experiments", prefix)
        if kind == "runs" and "latest".startswith(prefix):
            found.append("latest")
        with open(1, "wb", closefd=False) as stdout:
            stdout.write("".join(f"{name}\n" for name in found if name not in given).encode("ascii"))
    except (HimlError, OSError, ValueError):  # a missing folder, a closed pipe, an incomplete character
        pass


def workspace_of(words: Sequence[str]) -> Path | None:
    """The folder of the local workspace for *words*. None for an Azure ML workspace, or without a workspace."""
    spec, pending = None, False
    for word in takewhile(lambda word: word != "--", words):
        name, equals, value = word.partition("=")
        option = name[2:].replace("-", "_") if name.startswith("--") else ""
        if option in AZURE_OPTIONS:
            return None
        if pending:
            spec, pending = word, False
        elif option == "workspace":
            spec, pending = (value, False) if equals else (spec, True)
        elif word.startswith("-w"):
            spec, pending = (word[2:], False) if word[2:] else (spec, True)
    if spec is None or spec in ("", "local"):
        return nearest_local(Path.cwd())
    return None if spec.endswith(".json") else named_folder(spec)
