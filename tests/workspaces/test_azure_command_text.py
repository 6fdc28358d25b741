"""The command of a job as bash takes it apart, and the names of jobs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.workspaces.azure.jobs.body import command_line
from himl_cli.workspaces.azure.jobs.job_submission import azure_run_id

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
    assert seen_by_script(command_line(spec_of(ODD)), tmp_path, require_program("bash")) == ["train.py", *ODD]


def test_placeholders_are_filled_in_wherever_they_stand(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    arguments = ["${{inputs.one}}", "--in=${{ inputs.one }}/a b", "it's ${{outputs.out}}:${{inputs.one}}", "${{x}}"]
    filled = ["/in/one", "--in=/in/one/a b", "it's /out:/in/one", "${{x}}"]
    assert seen_by_script(command_line(spec_of(arguments)), tmp_path, require_program("bash")) == ["train.py", *filled]


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
    assert command_line(spec_of(["x"], kind=kind, target=target)) == text


@pytest.mark.parametrize(
    ("argument", "known"),
    [("${{inputs.two}}", "one"), ("a ${{ outputs.one }}", "out"), ("${{inputs.a-b}}", "one"), ("${{outputs.größe}}", "out"), ("${{search_space.lr}}", "none")],
)
def test_a_placeholder_that_names_nothing_is_refused(argument: str, known: str) -> None:
    with pytest.raises(BadUsage, match=f"there are: {known}"):
        command_line(spec_of([argument]))


def laid_out(target: str, folder: Path, bash: str, ranks: int = 1) -> list[tuple[int, str]]:
    """Exit code and output of ranks that begin together in *folder* with an input whose files lie in `given`."""
    given = folder / "given files"
    given.mkdir(exist_ok=True)
    (given / "a.txt").write_text("A")
    spec = replace(spec_of(["${{inputs.one}}/a.txt"], kind=EntryKind.shell, target="show.sh"), inputs=[DataSpec("one", "pictures", target=target)])
    (folder / "show.sh").write_text('cat "$1" "$AZURE_ML_INPUT_one/a.txt"; echo " $AZURE_ML_INPUT_one"')
    text = command_line(spec).replace("${{inputs.one}}", str(given))
    started = [subprocess.Popen([bash, "-c", text], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(ranks)]
    ended = [(one.communicate()[0], one.returncode) for one in started]
    assert sorted(path.name for path in given.iterdir()) == ["a.txt"]
    return [(code, said) for said, code in ended]


@pytest.mark.parametrize("target", ["data", "deep/er/data/", "a b/it's $HOME", "-x", "../beside", "{absolute}/deep/data"])
def test_input_is_linked_at_its_target_for_all_ranks(tmp_path: Path, require_program: Callable[[str], str], target: str) -> None:
    folder = tmp_path / "wd"
    folder.mkdir()
    target = target.replace("{absolute}", str(tmp_path))
    said = f"AA {'./-x' if target == '-x' else target.rstrip('/')}\n"
    assert laid_out(target, folder, require_program("bash"), ranks=8) == [(0, said)] * 8
    assert laid_out(target, folder, require_program("bash")) == [(0, said)]
    assert (folder / target).is_symlink()


@pytest.mark.parametrize("there", ["folder", "file", "link", "dangling"])
def test_what_is_there_already_is_left_and_the_job_says_so(tmp_path: Path, require_program: Callable[[str], str], there: str) -> None:
    target, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    make: dict[str, Callable[[], None]] = {
        "folder": target.mkdir,
        "file": target.touch,
        "link": lambda: target.symlink_to(other),
        "dangling": lambda: target.symlink_to(tmp_path / "gone"),
    }
    make[there]()
    before = target.lstat().st_ino, target.lstat().st_mtime_ns
    ((code, said),) = laid_out(str(target), tmp_path, require_program("bash"))
    assert (code, said) == (1, f"himl: the input one cannot lie at {target}: something else is there, or nothing may be written there.\n")
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == before
    assert list(other.iterdir()) == []


def test_a_file_as_an_input_is_linked_too(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    spec = replace(spec_of([], kind=EntryKind.shell, target="show.sh"), inputs=[DataSpec("one", "pictures", target="in/list.txt")])
    (tmp_path / "given.txt").write_text("A")
    (tmp_path / "show.sh").write_text("cat in/list.txt")
    text = command_line(spec).replace("${{inputs.one}}", str(tmp_path / "given.txt"))
    assert subprocess.run([require_program("bash"), "-c", text], cwd=tmp_path, check=True, capture_output=True).stdout == b"A"


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        (["/data", "/data/deep"], "one would be inside the other"),
        (["x", "./x/"], "one would be inside the other"),
        (["lib"], "the snapshot has files of its own there"),
        (["./train.py"], "the snapshot has files of its own there"),
        (["x/.."], "target=. is refused"),
    ],
)
def test_targets_that_cannot_be_links_are_refused(targets: Sequence[str], why: str) -> None:
    inputs = [DataSpec(f"k{number}", "pictures", target=target) for number, target in enumerate(targets)]
    with pytest.raises(BadUsage, match=why):
        command_line(replace(spec_of([]), inputs=inputs, snapshot=Snapshot(Path("."), ("train.py", "lib/a.py"), 0)))


@pytest.mark.parametrize("experiment", ["train", "_train", "___", "9lives", "x" * 400])
def test_names_of_jobs_are_those_that_the_service_takes(experiment: str) -> None:
    made = azure_run_id(experiment)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", made)
    assert re.fullmatch(r"\w+_\d+_[0-9a-f]{8}", made)
    assert azure_run_id(experiment) != made
