"""A checkpoint as an argument of a script: what its text may be, when it is brought, and what of it may be seen."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from himl_cli import MODEL_WEIGHTS_DIR_NAME, CheckpointParser, checkpoint
from himl_cli.core.errors import BadUsage, RunNotFound, TransferIncomplete
from tests.api.places import arrived
from tests.api.ranks import SAY, local_ranks, run_ranks
from tests.api.scripts import run_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.web import FileServer
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

SECRET = "sig=zZtop5ecret"


def parsed(text: str) -> Any:
    parser = argparse.ArgumentParser(prog="train.py")
    parser.add_argument("--src_checkpoint", type=checkpoint)
    return parser.parse_args(["--src_checkpoint", text])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("weights/best.ckpt", (True, False, False)),
        ("https://example.org/runs/3/best.ckpt", (False, True, False)),
        ("train_1_aa", (False, False, True)),
        ("train_1_aa:best.ckpt", (False, False, True)),
        ("train:train_1_aa:models/best.pt", (False, False, True)),
        ("https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s/resourcegroups/g/workspaces/w", (False, False, True)),
    ],
)
def test_what_a_text_means_is_known_without_a_workspace(project: Path, monkeypatch: pytest.MonkeyPatch, text: str, kinds: tuple[bool, bool, bool]) -> None:
    write_files(project, {"weights/best.ckpt": "best"})
    monkeypatch.chdir(project)
    given = parsed(text).src_checkpoint
    assert (given.is_local_file, given.is_url, given.is_aml_run_id) == kinds
    assert (given.checkpoint, str(given), bool(given)) == (text, text, True)
    assert [*project.iterdir()] == [project / "weights"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weights/none.ckpt", "There is no file 'weights/none.ckpt'."),
        ("none.ckpt", "There is no file 'none.ckpt'."),
        (" ", "It is empty. Is a shell variable unset?"),
    ],
)
def test_what_can_be_no_checkpoint_is_refused_in_one_line(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(text)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"train.py: error: argument --src_checkpoint: {said}")


def test_hi_mls_class_raises_what_hi_mls_does(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ValueError, match=r"There is no file 'a/b\.ckpt'"):
        CheckpointParser("a/b.ckpt")
    assert not CheckpointParser()
    with pytest.raises(ValueError, match="There is no checkpoint"):
        CheckpointParser().get_or_download_checkpoint("out")


def test_local_path_stays_valid_after_chdir(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(project, {"weights/best.ckpt": "best", "elsewhere/x": ""})
    monkeypatch.chdir(project)
    given = CheckpointParser(Path("weights/best.ckpt"))
    assert given.get_or_download_checkpoint("out") == Path("weights/best.ckpt")
    monkeypatch.chdir(project / "elsewhere")
    assert Path(given).read_text() == "best"


def test_a_run_is_asked_for_when_the_path_is_wanted_and_once(local_runs: RecordedRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parsed("train_1_aa").src_checkpoint
    assert not (local_runs.folder / "checkpoints").exists()
    with open(given) as stream:
        assert stream.read() == "last"
    assert os.fspath(given) == str(local_runs.folder / "checkpoints" / "train_1_aa" / "last.ckpt")
    (local_runs.folder / ".himl").rename(local_runs.folder / "gone")
    monkeypatch.chdir("/")
    assert Path(given).read_text() == "last"


def test_hi_mls_folders(local_runs: RecordedRuns, web: FileServer, tmp_path: Path) -> None:
    out = tmp_path / "outputs"
    assert CheckpointParser("train_1_aa").get_or_download_checkpoint(download_dir=str(out)) == out / "train_1_aa" / "last.ckpt"
    assert CheckpointParser("train_1_aa:outputs/model.bin").get_or_download_checkpoint(out) == out / "train_1_aa" / "outputs" / "model.bin"
    web.put("/best.ckpt", b"best")
    assert CheckpointParser(web("/best.ckpt")).get_or_download_checkpoint(out) == out / MODEL_WEIGHTS_DIR_NAME / "best.ckpt"
    assert arrived(out) == {"train_1_aa/last.ckpt": "last", "train_1_aa/outputs/model.bin": "m" * 10, "pretrained_models/best.ckpt": "best"}


def test_one_of_several_is_chosen(local_runs: RecordedRuns, tmp_path: Path) -> None:
    names = {"epoch=1-val_loss=0.3.ckpt": "good", "epoch=2-val_loss=0.7.ckpt": "later", "last.ckpt": "later"}
    local_runs.add("train_3_cc", files={f"outputs/checkpoints/{name}": text for name, text in names.items()})
    best = partial(CheckpointParser, select="best")
    assert best("train_3_cc").get_or_download_checkpoint(tmp_path).read_text() == "good"
    assert best("train:train_3_cc").get_or_download_checkpoint(tmp_path).read_text() == "good"
    assert best("train_3_cc:last.ckpt").get_or_download_checkpoint(tmp_path).read_text() == "later"
    assert CheckpointParser("train_3_cc", select="epoch=2").get_or_download_checkpoint(tmp_path).name == "epoch=2-val_loss=0.7.ckpt"
    with pytest.raises(BadUsage, match="no checkpoint to select by 'worst'"):
        CheckpointParser("train_3_cc", select="worst")


@pytest.mark.usefixtures("local_runs")
def test_what_is_not_there_is_told_when_it_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Run 'train_1_aa' has no 'best\.ckpt'") as caught:
        os.fspath(parsed("train_1_aa:best.ckpt").src_checkpoint)
    assert "outputs/checkpoints/last.ckpt" in getattr(caught.value, "hint")  # noqa: B009
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        CheckpointParser("nope").get_or_download_checkpoint(tmp_path)


@pytest.mark.usefixtures("local_runs")
def test_a_file_that_was_changed_here_is_never_replaced() -> None:
    changed = Path(checkpoint("train_1_aa"))
    changed.write_text("mine")
    with pytest.raises(TransferIncomplete, match=r"last\.ckpt") as caught:
        os.fspath(checkpoint("train_1_aa"))
    assert (changed.read_text(), caught.value.hint) == ("mine", "Name it by its path, or move it away.")


def test_no_text_of_an_address_shows_its_signature(web: FileServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    web.put("/best.ckpt", b"best")
    arguments = parsed(web("/best.ckpt", SECRET))
    given = arguments.src_checkpoint
    shown = [str(arguments), repr(given), str(given), given.checkpoint, f"{given}", json.dumps(vars(arguments), default=str)]
    assert [text for text in shown if "sig" in text or web("/best.ckpt") not in text] == []
    unfetched = pickle.dumps(given)
    with pytest.raises(ValueError, match="pickled before it was fetched"):
        os.fspath(pickle.loads(unfetched))
    assert Path(given).read_text() == "best"
    assert web.seen[-1].query == SECRET
    fetched = pickle.dumps(given)
    assert Path(pickle.loads(fetched)).read_text() == "best"
    assert SECRET.encode() not in unfetched + fetched


def test_whitespace_around_url_does_not_reveal_signature(web: FileServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    web.put("/best.ckpt", b"best")
    given = CheckpointParser(f" {web('/best.ckpt', SECRET)}\n")
    assert (given.is_url, str(given), SECRET.encode() in pickle.dumps(given)) == (True, web("/best.ckpt"), False)
    assert Path(given).read_text() == "best"


@pytest.mark.parametrize("text", ["https:/h.example/x.ckpt?{}", "https//h.example/x.ckpt?{}", "s3://bucket/x.ckpt?{}", "https%3A//h.example/x.ckpt?{}"])
def test_what_is_nearly_an_address_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="looks like an address") as caught:
        CheckpointParser(text.format(SECRET))
    assert "h.example" not in str(caught.value)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


def test_a_run_with_a_signature_behind_it_shows_none() -> None:
    given = CheckpointParser(f"train_1_aa:best.ckpt?{SECRET}")
    assert (given.is_aml_run_id, "zZtop5ecret" in repr(given), b"zZtop5ecret" in pickle.dumps(given)) == (True, False, False)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"select": "bst"}, "no checkpoint to select by 'bst'"),
        ({"goal": "up"}, "no goal 'up'"),
        ({"metric": " "}, "^metric got an empty value"),
        ({"metric": "loss", "select": "last"}, "^metric and goal choose the best checkpoint"),
    ],
)
def test_invalid_select_or_goal_error_names_no_option(choice: dict[str, str], said: str) -> None:
    """The ValueError is also an ArgumentTypeError, so that argparse shows its text."""
    with pytest.raises(ValueError, match=said) as caught:
        CheckpointParser("train_1_aa", **choice)
    assert (isinstance(caught.value, argparse.ArgumentTypeError), "--" in str(caught.value)) == (True, False)


def test_hi_mls_texts_and_older_name(local_runs: RecordedRuns, tmp_path: Path) -> None:
    for text in (CheckpointParser.DOC, CheckpointParser.INFO_MESSAGE):
        assert CheckpointParser.AML_RUN_ID_FORMAT in text
    assert CheckpointParser("train_1_aa").get_path(tmp_path) == tmp_path / "train_1_aa" / "last.ckpt"


SPAWNING = """
import multiprocessing, sys
from himl_cli import checkpoint
def opened(given):
    with open(given) as stream:
        print(given, stream.read(), flush=True)
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=opened, args=(checkpoint(sys.argv[1]),))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def test_processes_that_a_script_starts_can_use_it(web: FileServer, project: Path) -> None:
    web.put("/best.ckpt", b"best")
    write_files(project, {"train.py": SPAWNING})
    done = run_script(project / "train.py", web("/best.ckpt", SECRET))
    assert (done.returncode, done.stdout) == (0, f"{web('/best.ckpt')} best\n"), done.stderr


def test_copies_are_the_same_checkpoint() -> None:
    given = checkpoint("https://example.org/best.ckpt?sig=1")
    assert copy.deepcopy(given) == copy.copy(given) == given
    assert checkpoint("https://example.org/best.ckpt?sig=2") != given


def test_ranks_fetch_once_and_all_have_the_path(local_runs: RecordedRuns, tmp_path: Path) -> None:
    program = "say([open(himl_cli.checkpoint('train_1_aa')).read(), str(himl_cli.fetch_checkpoint('train_1_aa:last.ckpt', sys.argv[1]))])"
    out = tmp_path / "out"
    assert run_ranks(program, out, local_ranks(3), cwd=local_runs.folder) == [[["last", str(out / "last.ckpt")]]] * 3


SELF_STARTED = """
import subprocess
say(open(himl_cli.checkpoint("train_1_aa")).read())
if "LOCAL_RANK" not in os.environ:
    assert subprocess.run([sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1]], env={**os.environ, "LOCAL_RANK": "1"}).returncode == 0
"""


def test_self_started_rank_finds_downloaded_checkpoint(local_runs: RecordedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM", SAY + SELF_STARTED)
    assert run_ranks(SELF_STARTED, tmp_path / "out", [{}], cwd=local_runs.folder) == [["last", "last"]]


IN_JOB = """
import json, sys
from himl_cli import checkpoint
given = checkpoint("first_1_aa:best.ckpt")
text = open(given).read()
print(json.dumps([text, [name for name in ("azure.ai", "azure.identity", "msal", "azureml", "mlflow", "typer", "rich") if name in sys.modules]]))
"""


def test_inside_an_azure_ml_job_the_jobs_identity_fetches_it(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("first_1_aa", "train", status="Completed"), {"outputs/checkpoints/best.ckpt": b"best"})
    job = azure.add_run("second_1_bb", "train", status="Running")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
    done = subprocess.run([sys.executable, "-c", IN_JOB], env={**environment, **azure.job_environment(job)}, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["best", []]
    assert arrived(project) == {"checkpoints/first_1_aa/best.ckpt": "best"}
