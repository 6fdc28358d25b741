"""The command of a job as bash takes it apart, and the names of jobs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.submission import azure_run_id

ODD = ["", " ", "a b", "it's", 'say "x"', "$HOME", "`ls`", "$(ls)", "*", "~", "a\nb", "\\", "!x", "é漢🙂", "-x", "--", "#no", "a;b&c|d", "${x}", "{a,b}"]


def spec_of(arguments: Sequence[str], *, kind: EntryKind = EntryKind.script, target: str = "train.py") -> JobSpec:
    data = {"inputs": [DataSpec("one", "pictures")], "outputs": [DataSpec("out", "trained")]}
    return JobSpec("e", Entry(kind, target), Snapshot(Path("."), (), 0), arguments=arguments, **data)  # type: ignore[arg-type]


def seen_by_script(text: str, folder: Path, bash: str) -> list[str]:
    """What `python` in the command is given, once the service has filled the placeholders in."""
    filled = text.replace("${{inputs.one}}", "/in/one").replace("${{outputs.out}}", "/out")
    program = folder / "python"
    program.write_text('#!/bin/sh\nfor one in "$@"; do printf \'%s\\0\' "$one"; done\n')
    program.chmod(0o755)
    said = subprocess.run([bash, "-c", f"PATH={folder}:$PATH; {filled}"], check=True, capture_output=True).stdout
    return said.decode().split("\0")[:-1]


def test_bash_gives_the_script_each_argument_as_it_was(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    assert seen_by_script(command_text(spec_of(ODD)), tmp_path, require_program("bash")) == ["train.py", *ODD]


def test_placeholders_are_filled_in_wherever_they_stand(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    arguments = ["${{inputs.one}}", "--in=${{ inputs.one }}/a b", "it's ${{outputs.out}}:${{inputs.one}}", "${{x}}", "${{search_space.lr}}"]
    filled = ["/in/one", "--in=/in/one/a b", "it's /out:/in/one", "${{x}}", "${{search_space.lr}}"]
    assert seen_by_script(command_text(spec_of(arguments)), tmp_path, require_program("bash")) == ["train.py", *filled]


@pytest.mark.parametrize(
    ("kind", "target", "text"),
    [
        (EntryKind.script, "a b/train.py", "python 'a b/train.py' x"),
        (EntryKind.script, "-x.py", "python ./-x.py x"),
        (EntryKind.module, "lab.train", "python -m lab.train x"),
        (EntryKind.shell, "run.sh", "bash run.sh x"),
    ],
)
def test_each_kind_of_entry_has_its_program(kind: EntryKind, target: str, text: str) -> None:
    assert command_text(spec_of(["x"], kind=kind, target=target)) == text


@pytest.mark.parametrize(("argument", "known"), [("${{inputs.two}}", "one"), ("a ${{ outputs.one }}", "out")])
def test_a_placeholder_that_names_nothing_is_refused(argument: str, known: str) -> None:
    with pytest.raises(BadUsage, match=f"there are: {known}"):
        command_text(spec_of([argument]))


@pytest.mark.parametrize("experiment", ["train", "_train", "___", "9lives", "x" * 400])
def test_names_of_jobs_are_those_that_the_service_takes(experiment: str) -> None:
    made = azure_run_id(experiment)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", made)
    assert re.fullmatch(r"\w+_\d+_[0-9a-f]{8}", made)
    assert azure_run_id(experiment) != made
