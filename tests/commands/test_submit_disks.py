"""Jobs where a disk is full or a folder may only be read: the record stays true, and what is refused leaves nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import lacking
from tests.support.folders import SmallDisk, made_read_only
from tests.support.processes import is_sound
from tests.support.running import Himl, write_files
from tests.support.runs import POSIX, runs, started


@POSIX
def test_a_job_can_be_canceled_on_a_full_disk(himl: Himl, small_disk: SmallDisk) -> None:
    script = "import time; print(1, flush=True); time.sleep(600)"
    begin = f"echo '{script}' > train.py; himl submit train.py -q --no_wait >/dev/null; until himl runs logs latest | grep -q 1; do sleep 0.1; done"
    fill = f"{begin}; dd if=/dev/zero of=fill bs=1k 2>/dev/null"
    done = on_disk(himl, small_disk, f"{fill}; himl runs cancel --run latest; echo code $?; rm fill; himl runs logs latest --follow; himl runs list --json")
    assert "code 0" in done.stdout, done.stdout + done.stderr
    assert '"Canceled"' in done.stdout


def test_a_running_job_is_running_for_who_may_only_read(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    undo = made_read_only(project)
    try:
        seen = [run["status"] for run in runs(himl)]
    finally:
        if undo:
            undo()
    himl.ok("runs", "cancel", "--run", "latest")
    process.communicate(timeout=100)
    if undo is None:
        lacking("a folder that cannot be written (by permission, or by a read-only mount as root)")
    assert seen == ["Running"]


def test_job_stays_completed_when_outputs_cannot_be_kept(himl: Himl, project: Path) -> None:
    """In place, and the place where outputs are kept is taken by a file."""
    script = "import os, pathlib\nrun = os.environ['AZUREML_RUN_ID']\n(pathlib.Path('.himl/runs') / run / 'code' / 'outputs').write_text('in the way')\n"
    write_files(project, {"train.py": script + "pathlib.Path('outputs/new').write_text('n')\n"})
    assert himl("submit", "train.py", "--in_place").code == 0
    (run,) = runs(himl)
    assert (run["status"], run["exit_code"], "could be kept" in run["reason"]) == ("Completed", 0, True)


def test_a_project_that_may_only_be_read(himl: Himl, project: Path, tmp_path: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"train.py": "print('ran')"})
    read_only(project)
    refused = himl("submit", "train.py")
    assert (refused.code, len(refused.stderr.strip().splitlines())) == (1, 3), refused.stderr
    assert "--workspace" in refused.stderr
    elsewhere = himl("submit", "train.py", "--workspace", tmp_path / "lab")
    assert (elsewhere.code, elsewhere.stdout) == (0, "ran\n")
    assert "most_recent_run.txt" in elsewhere.stderr


def test_a_workspace_that_may_only_be_read_can_be_read(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"train.py": "print('ran')"})
    himl.ok("submit", "train.py")
    read_only(project)
    (run,) = runs(himl)
    assert (run["status"], himl.ok("runs", "logs", run["id"]).stdout) == ("Completed", "ran\n")
    refused = himl("runs", "tag", run["id"], "a=b")
    assert (refused.code, "workspace.db" in refused.stderr) == (1, True)


def on_disk(himl: Himl, disk: SmallDisk, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the small disk's folder; `himl` is the program."""
    code = f'cd "{disk.folder}" && himl() {{ "{himl.program}" "$@"; }} && {script}'
    return subprocess.run([*disk.prefix, "sh", "-c", code], capture_output=True, text=True, timeout=100, env=dict(os.environ))


def test_a_disk_that_fills_while_the_job_runs(himl: Himl, small_disk: SmallDisk) -> None:
    fill = 'printf \'print(1, flush=True)\\nopen("outputs/big", "wb").write(b"x" * 9000000)\\n\' > train.py'
    done = on_disk(himl, small_disk, f"{fill}; himl submit train.py; echo code $?; himl runs list --json")
    assert "code 1" in done.stdout
    assert '"Failed"' in done.stdout
    assert "no space is left" in done.stdout
    assert not small_disk.is_shared or is_sound(small_disk.folder)
    assert "No space left on device" in done.stdout + done.stderr


def test_a_disk_that_is_too_small_for_the_snapshot(himl: Himl, small_disk: SmallDisk, project: Path) -> None:
    (project / "big.bin").write_bytes(os.urandom(9_000_000))
    write_files(project, {"train.py": ""})
    done = on_disk(
        himl,
        small_disk,
        f"cd '{project}'; himl submit train.py --workspace '{small_disk.folder}'; echo code $?; himl runs list --json --workspace '{small_disk.folder}'",
    )
    assert "code 1" in done.stdout
    assert "No space left on device" in done.stderr
    assert '"Failed"' in done.stdout


def test_a_disk_that_is_full_from_the_start(himl: Himl, small_disk: SmallDisk) -> None:
    fill = "printf 'print(1)' > train.py; cat /dev/zero > full 2>/dev/null; "
    done = on_disk(
        himl, small_disk, f"{fill} himl submit train.py; echo code $?; rm full; himl runs list --json; himl submit train.py -q >/dev/null; echo code $?"
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 1", "code 0"], done.stdout + done.stderr
    assert "[]" in done.stdout.splitlines(), "a job that was refused leaves nothing"
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_is_refused_for_want_of_space_leaves_nothing(himl: Himl, small_disk: SmallDisk) -> None:
    """Room for the workspace and the run's folder, none for what recording the end would need."""
    begin = "printf 'print(1)' > train.py; mkdir -p .himl/runs; dd if=/dev/zero of=fill bs=1k 2>/dev/null; truncate -s -60K fill"
    done = on_disk(himl, small_disk, f"{begin}; himl submit train.py; echo code $?; ls .himl/runs | wc -l")
    assert done.stdout.split() == ["code", "1", "0"], done.stdout + done.stderr
    assert "Cannot record the run: No space left" in done.stderr


def test_a_disk_that_others_filled_still_gives_and_takes_back(himl: Himl, small_disk: SmallDisk) -> None:
    script = "print(1); open('outputs/model', 'wb').write(bytes(500_000))"
    fill = f'echo "{script}" > train.py; himl submit train.py -q >/dev/null;'
    settle = "while [ -e .himl/workspace.db-wal ]; do sleep 0.05; done; dd if=/dev/zero of=fill bs=1k 2>/dev/null;"  # an ending supervisor gives room back
    look = "himl runs list --json; himl runs logs latest; himl runs delete latest --yes; echo code $?; himl runs list --json;"
    done = on_disk(himl, small_disk, f"{fill} {settle} {look} rm fill; himl submit train.py -q >/dev/null; echo code $?")
    lines = done.stdout.splitlines()
    assert '"Completed"' in lines[0], done.stdout + done.stderr
    assert [line for line in lines[1:] if line.startswith("code")] == ["code 0", "code 0"], done.stdout + done.stderr
    assert "[]" in lines
