"""The README and the guides to Azure ML name commands and options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.running import Himl

ROOT = Path(__file__).parents[2]
README = "".join(
    (ROOT / name).read_text(encoding="utf-8")
    for name in (
        *("README.md", "docs/azure.md", "docs/submit.md", "docs/many-runs.md", "docs/pipelines.md", "docs/preemption.md"),
        *("docs/checkpoints.md", "docs/tensorboard.md", "docs/montage.md"),
    )
)


def commands() -> list[str]:
    """Every `himl …` of a code block or a table's first column, arguments of scripts cut off."""
    blocks = "\n".join(re.findall(r"```\w+\n(.*?)```", README, flags=re.DOTALL))
    shown = re.findall(r"(?:^|\$ |&& |\$\()(himl (?:'[^'\n]*'|[^\n#)'])*)", blocks, flags=re.MULTILINE)
    listed = re.findall(r"^\| `(himl [^`]*)`", README, flags=re.MULTILINE)
    return sorted({command.split(" -- ")[0].strip() for command in (*shown, *listed)})


def names_of(command: str) -> list[str]:
    """The command's own words: `runs list` of `runs list --tags a=b`."""
    first, *rest = shlex.split(command.replace("[", "").replace("]", ""))[1:]
    return [first, rest[0]] if first in ("runs", "datastore", "workspace", "checkpoint") else [first]


def test_the_readme_shows_commands() -> None:
    assert len(commands()) > 15
    assert {"submit", "init", "download", "runs", "tb", "datastore", "checkpoint", "montage", "workspace", "doctor"} == {
        names_of(command)[0] for command in commands()
    }


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_exists_with_its_options(command: str, himl: Himl) -> None:
    help_text = himl.ok(*names_of(command), "--help").stdout
    assert f"Usage: himl {' '.join(names_of(command))}" in help_text
    options = re.findall(r"(?<= )--?[a-z]\w*", command)
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}\b", help_text)] == []
