"""`himl --complete`: names for completion scripts, printed before Typer is imported.

It never fails, prints nothing on stderr, sends no requests and writes no files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from himl_cli.core.engines import SLURM
from himl_cli.core.errors import HimlError
from himl_cli.core.files import named_folder
from himl_cli.core.settings import nearest_local, section_settings
from himl_cli.workspaces.local.completion_names import PLAIN, completion_names

AZURE_OPTIONS = ("config_file", "config_path", "workspace_config_path", "workspace_config")
"""`--config_file` and hi-ml's names for it: the workspace is not on this machine."""


def main() -> None:
    """Print the names with PREFIX for `KIND=PREFIX WORD...`, one per line, without those among the words. KIND is
    `runs`, `experiments`, `machines` or `clusters`, and the words are the command line so far."""
    question, *words = sys.argv[2:] or ("",)
    kind, _, prefix = question.partition("=")
    given = {part for word in words for part in word.split(",")} - {prefix}
    found: list[str] = []
    try:
        folder, place = workspace_of(words)
        if folder is not None and kind in ("runs", "experiments"):
            found += completion_names(folder, "runs" if kind == "runs" else "experiments", prefix, place)
        if kind == "runs" and "latest".startswith(prefix):
            found.append("latest")
        found += [name for name in _names_in_settings(kind) if name.startswith(prefix)]
        with open(1, "wb", closefd=False) as stdout:
            stdout.write("".join(f"{name}\n" for name in found if name not in given).encode("ascii"))
    except (HimlError, OSError, ValueError):  # a missing folder, a closed pipe, an incomplete character
        pass


def _names_in_settings(kind: str) -> Iterator[str]:
    """The other machines, and for `clusters` also the places of engines, that the settings name."""
    sections = {"machines": ["remote"], "clusters": ["remote", SLURM]}.get(kind, [])
    for section in sections:
        for name in filter(PLAIN.fullmatch, section_settings(Path.cwd(), section)):
            yield f"{'ssh' if section == 'remote' else section}:{name}"


def workspace_of(words: Sequence[str]) -> tuple[Path | None, str]:
    """The folder of the local workspace for *words*, None for an Azure ML workspace or without a workspace, and the
    machine that they name, to which that workspace has pointers."""
    spec, pending = None, False
    for word in takewhile(lambda word: word != "--", words):
        name, equals, value = word.partition("=")
        option = name[2:].replace("-", "_") if name.startswith("--") else ""
        if option in AZURE_OPTIONS:
            return None, ""
        if pending:
            spec, pending = word, False
        elif option == "workspace":
            spec, pending = (value, False) if equals else (spec, True)
        elif word.startswith("-w"):
            spec, pending = (word[2:], False) if word[2:] else (spec, True)
    if spec is None or spec in ("", "local"):
        return nearest_local(Path.cwd()), ""
    from himl_cli.workspaces.remote.address import is_remote

    if is_remote(spec):
        return nearest_local(Path.cwd()), spec
    return None if spec.endswith(".json") else named_folder(spec), ""
