"""A workspace of several users: two members of a group, and one who may only read. Needs root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.support.running import PROGRAM, Himl, until, write_files
from tests.support.tensorboard import serving
from tests.support.users import ADA, BOB, EVE, LAB, as_user

SCRIPT = """
import os, sys, time
from himl_cli import RUN_CONTEXT

RUN_CONTEXT.log("loss", 0.5)
open("outputs/model.txt", "w").write("trained")
if "wait" in sys.argv:
    while True: time.sleep(0.1)
sys.exit("fail" in sys.argv and os.environ["HIML_TRY"] == "1")
"""


def test_members_of_a_group_share_a_workspace_and_readers_leave_nothing(started_himl: Himl, shared: Path) -> None:
    project = shared / "project"
    project.mkdir()
    os.chown(project, ADA, LAB)
    project.chmod(0o2775)
    write_files(project, {"train.py": SCRIPT, "pyproject.toml": ""})
    ada, bob, eve = (as_user(user, shared, group) for user, group in ((ADA, LAB), (BOB, LAB), (EVE, None)))

    def himl(who: object, *words: str, code: int = 0) -> str:
        done = started_himl(*words, cwd=project, prefix=who)  # type: ignore[arg-type]
        assert done.code == code, done.stderr
        return done.stdout.strip()

    first = himl(ada, "submit", "train.py", "-q", "--", "fail", code=1)
    before = sorted(path.name for path in (project / ".himl").iterdir())
    assert first in himl(eve, "runs", "list", "--num_runs", "all")
    assert sorted(path.name for path in (project / ".himl").iterdir()) == before, "a reader leaves no files"
    assert stat.S_IMODE((project / ".himl" / "workspace.db").stat().st_mode) == 0o664
    assert first in himl(bob, "runs", "list")
    running = himl(ada, "submit", "train.py", "-q", "--no_wait", "--", "wait")
    until(lambda: "Running" in himl(eve, "runs", "show", running))
    ui, home = shared / "ui", shared / f"home_{EVE}"
    ui.mkdir()
    (ui / "tmp").symlink_to(home)
    before = sorted(path.name for path in (project / ".himl").iterdir())
    with serving(Himl(PROGRAM, project), ui, prefix=eve, command=["ui"]) as board:
        shown = board.ask("ajax-api/2.0/mlflow/runs/get", run_id=first)["run"]
        assert (shown["info"]["status"], shown["data"]["metrics"][0]["value"]) == ("FAILED", 0.5)
        assert sorted(path.name for path in (project / ".himl").iterdir()) == before, "a reader's server leaves no files"
    himl(bob, "runs", "cancel", running)
    until(lambda: "Canceled" in himl(eve, "runs", "show", running))
    himl(bob, "runs", "tag", first, "reviewed=yes")
    himl(bob, "submit", "--resume", first, "-q")
    assert "reviewed" in himl(ada, "runs", "show", first)
    himl(bob, "download", first, "--output_dir", str(shared / f"home_{BOB}" / "files"))
    himl(eve, "download", first, "--output_dir", str(shared / f"home_{EVE}" / "files"))
    himl(eve, "runs", "tag", first, "mine=yes", code=1)
    mark = project / ".himl" / "starting" / "train_0"
    mark.parent.mkdir(exist_ok=True)
    mark.touch(mode=0o600)  # of a start by root that was killed
    himl(bob, "runs", "delete", first, "--yes")
    himl(ada, "submit", "train.py", "-q")
