"""`himl checkpoint fetch` through the installed program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from tests.servers.azureml.faults import WrongMd5
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.servers.web import FileServer
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns

HERE = "outputs/checkpoints"
RUN = "train_1_aa"
LAST = Path("checkpoints") / RUN / "last.ckpt"
MAKES = """
from pathlib import Path
for name in ("last.ckpt", "best.ckpt"):
    path = Path("outputs/checkpoints", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
"""


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add(RUN, files={f"{HERE}/last.ckpt": b"last", f"{HERE}/epoch=1-val_loss=0.5.ckpt": b"one", f"{HERE}/epoch=2-val_loss=0.1.ckpt": b"two"})
    write_files(project, {"most_recent_run.txt": f"train:{RUN}\n"})
    return runs


@pytest.mark.skipif(shutil.which("sh") is None, reason="NEEDS a shell")
def test_a_script_gets_the_path_of_what_was_trained_before(himl: Himl, project: Path) -> None:
    write_files(project, {"make.py": MAKES, "use.py": "import sys; print(open(sys.argv[1]).read())"})
    run = himl.ok("submit", "make.py", "-q").stdout.strip()
    program = f'"{sys.executable}" use.py "$("{himl.program}" checkpoint fetch'
    done = subprocess.run(["sh", "-c", f'{program})"; {program} {run} --select best)"'], cwd=project, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "last.ckpt\nbest.ckpt\n"), done.stderr
    assert f"Fetched 'outputs/checkpoints/last.ckpt' of run '{run}' (9 B)" in done.stderr


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((RUN,), LAST),
        ((f"train:{RUN}",), LAST),
        (("--experiment", "train"), LAST),
        (("--run", RUN, "--select", "epoch=1"), LAST.with_name("epoch=1-val_loss=0.5.ckpt")),
        (("latest", "--goal", "maximize"), LAST.with_name("epoch=1-val_loss=0.5.ckpt")),
        (("--metric", "val/loss", "--output_dir", "weights"), Path("weights/epoch=2-val_loss=0.1.ckpt")),
        ((f"{RUN}:{HERE}/", "--output-dir", "weights", "--workers", "2"), Path("weights")),
    ],
)
def test_the_path_alone_is_printed(himl: Himl, project: Path, arguments: tuple[str, ...], path: Path) -> None:
    assert himl.ok("checkpoint", "fetch", *arguments).stdout == f"{path}\n"
    assert (project / path).exists()
    quiet = himl.ok("checkpoint", "fetch", *arguments, "-q")
    assert (quiet.stdout, quiet.stderr) == (f"{path}\n", "")


@pytest.mark.usefixtures("recorded")
def test_json_says_what_was_chosen_and_why(himl: Himl) -> None:
    document = himl.ok("checkpoint", "fetch", "--select", "best", "--json").json()
    name = "epoch=2-val_loss=0.1.ckpt"
    assert document == {
        "path": str(LAST.with_name(name)),
        "status": "fetched",
        "run": RUN,
        "address": None,
        "names": [f"{HERE}/{name}"],
        "size": 3,
        "md5": "b8a9f715dbb64fd5c56e7783c6820a61",
        "verified": True,
        "epoch": 2,
        "metric": "val_loss",
        "value": 0.1,
    }


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("lost/last.ckpt",), 3, "There is no file 'lost/last.ckpt'."),
        (("last.ckpt",), 3, "There is no file 'last.ckpt'."),
        (("",), 2, "The checkpoint's source is empty."),
        (("~nosuchuser/last.ckpt",), 3, "There is no file '~nosuchuser/last.ckpt'."),
        (("s3://bucket/last.ckpt",), 2, "an address that cannot be read"),
        (("most_recent_run.txt/",), 3, "'most_recent_run.txt/' is a file, and no folder."),
        ((RUN, "--output_dir", ""), 2, "--output_dir got an empty value."),
        ((RUN, "--output_dir", "~nosuchuser/x"), 3, "There is no folder '~nosuchuser/x'"),
        ((f"{RUN}:/",), 2, "names no file or folder of the run."),
        (("nothing",), 3, "No run 'nothing'"),
        ((f"{RUN}:nothing.ckpt",), 3, f"Run '{RUN}' has no 'nothing.ckpt'."),
        ((RUN, "--select", "epoch=3"), 3, "Epochs in names: 1, 2."),
        ((RUN, "--run", RUN), 2, "A SOURCE and options that select a run at once."),
        (("--run", f"{RUN},other_2_bb"), 2, "2 runs are selected, and a checkpoint is that of one."),
        (("most_recent_run.txt", "--select", "best"), 2, "the source is a path here"),
        ((RUN, "--select", "newest"), 2, "Give last, best, or epoch=N"),
        ((RUN, "--workers", "0"), 2, "--workers takes"),
        ((RUN, "--output_dir", "most_recent_run.txt"), 2, "most_recent_run.txt"),
    ],
)
def test_what_cannot_be_is_said_with_its_exit_code(himl: Himl, recorded: RecordedRuns, project: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    recorded.add("other_2_bb")
    outcome = himl("checkpoint", "fetch", *arguments)
    assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
    assert said in outcome.stderr
    assert not (project / "checkpoints").exists()


def test_a_path_needs_no_workspace_and_stays_as_it_was_written(himl: Himl, project: Path) -> None:
    write_files(project, {"weights/last.ckpt": "w"})
    home = Path(os.environ["HOME"])
    write_files(home, {"mine.ckpt": "m"})
    for written in ("./weights/last.ckpt", str(project / "weights/last.ckpt"), "weights"):
        outcome = himl.ok("checkpoint", "fetch", written)
        assert (outcome.stdout, outcome.stderr) == (f"{written}\n", "")
    assert himl.ok("checkpoint", "fetch", "~/mine.ckpt").stdout == f"{home / 'mine.ckpt'}\n"
    outcome = himl("checkpoint", "fetch", "early")
    assert (outcome.code, "There is no file 'early', and no workspace that could have such a run." in outcome.stderr) == (3, True)
    assert sorted(path.name for path in project.iterdir()) == ["weights"]


def test_fetch_downloads_url_once_and_stores_no_secret(himl: Himl, project: Path, web: FileServer) -> None:
    web.put("/models/best%20weights.pt", b"weights")
    address = web("/models/best%20weights.pt")
    first = himl("checkpoint", "fetch", f"{address}?sv=1&sig=hush1", "-v")
    path = Path("checkpoints") / "best weights.pt"
    assert (first.code, first.stdout) == (0, f"{path}\n"), first.stderr
    assert (project / path).read_bytes() == b"weights"
    asked = len(web.seen)
    again = himl.ok("checkpoint", "fetch", f"{address}?sv=1&sig=hush2", "--json")
    assert (again.json()["status"], again.json()["address"], len(web.seen)) == ("complete", address, asked + 1)
    assert again.json()["verified"] is None, "nothing came"
    anew = himl.ok("checkpoint", "fetch", f"{address}?sv=1&sig=hush2", "--json", "--output_dir", "anew")
    assert anew.json()["verified"] is False, "the server told no MD5"
    kept = b"".join(file.read_bytes() for file in project.parent.rglob("*") if file.is_file())
    assert "hush" not in first.stderr + again.stderr + again.stdout
    assert b"hush" not in kept
    missing = himl("checkpoint", "fetch", web("/nothing.pt", "sig=hush3"))
    assert (missing.code, missing.stdout, "hush" in missing.stderr) == (3, "", False)


@pytest.mark.usefixtures("recorded")
def test_of_eight_ranks_one_fetches_and_all_print_the_path(himl: Himl, project: Path) -> None:
    order = (3, 1, 7, 0, 2, 6, 5, 4)
    ranks = [himl.start("checkpoint", "fetch", RUN, "--json", env={"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "8"}, new_session=False) for rank in order]
    documents = [json.loads(rank.communicate(timeout=100)[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 8
    assert documents == [documents[0]] * 8
    assert (documents[0]["path"], documents[0]["status"], (project / LAST).read_bytes()) == (str(LAST), "fetched", b"last")


@pytest.mark.usefixtures("recorded")
def test_ranks_fail_alike(himl: Himl) -> None:
    ranks = [himl.start("checkpoint", "fetch", f"{RUN}:no.ckpt", env={"LOCAL_RANK": str(rank)}, new_session=False) for rank in (1, 0)]
    said = [rank.communicate(timeout=100) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [3, 3]
    assert said[0] == said[1]
    assert b"has no 'no.ckpt'" in said[0][1]


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX signals")
def test_ctrl_c_exits_with_130_and_the_next_call_goes_on(himl: Himl, web: FileServer, project: Path) -> None:
    """In the midst of a file, whose server sends the first part and keeps the others back."""
    body, go_on = os.urandom(36 << 20), Event()
    web.put("/large.ckpt", body)
    web.before = lambda asked: None if len(web.ranges) < 2 else _waited(go_on)
    process = himl.start("checkpoint", "fetch", web("/large.ckpt"))
    until(lambda: len(web.ranges) >= 2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=100)
    assert (process.returncode, out, b"Interrupted" in said) == (130, b"", True), said
    assert [path.name for path in (project / "checkpoints").glob("[!.]*")] == []
    go_on.set()
    assert himl.ok("checkpoint", "fetch", web("/large.ckpt")).stdout == f"{Path('checkpoints/large.ckpt')}\n"
    assert (project / "checkpoints/large.ckpt").read_bytes() == body


def _waited(event: Event) -> None:
    event.wait(60)


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    run = azure_environment.add_run(RUN, "train")
    azure_environment.put_artifacts(run, {f"{HERE}/last.ckpt": b"last" * 1000, f"{HERE}/epoch=1.ckpt": b"one", "user_logs/std_log.txt": b"log"})
    return azure_environment


@pytest.mark.usefixtures("seeded")
def test_the_second_time_costs_finding_the_run_and_one_listing(himl: Himl, stage: Stage, project: Path) -> None:
    assert himl.ok("checkpoint", "fetch", RUN).stdout == f"{LAST}\n"
    for source in (RUN, f"{RUN}:last.ckpt"):
        stage.log.clear()
        assert himl.ok("checkpoint", "fetch", source).stdout == f"{LAST}\n"
        asked = [str(seen) for seen in stage.log.find("")]
        assert sum("comp=list" in line for line in asked) == 1, asked
        assert (len(asked), sum(f"/runs/{RUN} " in line for line in asked)) == (2, 1), asked
    assert (project / LAST).read_bytes() == b"last" * 1000


@pytest.mark.usefixtures("seeded")
def test_bytes_that_do_not_match_their_md5_get_no_name(himl: Himl, stage: Stage, project: Path) -> None:
    stage.faults.add(WrongMd5(), "GET .*/last.ckpt", times=None)
    outcome = himl("checkpoint", "fetch", RUN)
    assert (outcome.code, outcome.stdout) == (6, ""), outcome.stderr
    assert "Checksums do not match" in outcome.stderr
    assert not (project / LAST).exists()
    stage.faults.clear()
    assert himl.ok("checkpoint", "fetch", RUN).stdout == f"{LAST}\n"
