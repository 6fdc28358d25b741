"""What a power cut leaves: copies of a disk at moments of commands, which are mounted afterwards. Needs root."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest

from tests.conftest import NEEDS
from tests.support.power_cuts import COMMANDS, Disk, fill, problems, results, resumable, runs
from tests.support.running import PROGRAM, Himl

STEPS = [name for name in COMMANDS if name != "download"]
MOMENTS = 40


@pytest.mark.large("mounts images of a disk")
def test_power_cut_leaves_no_file_without_its_content(
    tmp_path: Path, require_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_program("mkfs.ext4")
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "cache")
    )  # on another disk, whose flushes say nothing of this one
    disk = Disk(tmp_path)
    project = disk.place / "project"
    with disk.mounted() as is_mounted:
        if not is_mounted:
            pytest.skip(
                f"{NEEDS}a disk image that can be mounted (root, ext4 and loop devices)"
            )  # containers lack them
        project.mkdir()
        fill(project)
        os.sync()
        himl = Himl(PROGRAM, project)
        cuts = disk.cuts([partial(himl.ok, *COMMANDS[name]) for name in STEPS], repeat(0.1), MOMENTS - len(STEPS))
        wanted = results(project)
    again = []
    for cut in cuts:
        with disk.mounted(cut.image) as is_mounted:
            assert is_mounted
            assert problems(project, STEPS[: cut.done], wanted) == []
            again += [cut.image] if resumable(project) else []
    assert len(cuts) > 2 * len(STEPS), "moments between the ends of the commands"
    with disk.mounted(again[0]):
        run_id = resumable(project)
        himl.ok("submit", "--resume", run_id, "-q")
        assert runs(project) == {run_id: "Completed"}
        assert problems(project, ["submit"], wanted) == []
