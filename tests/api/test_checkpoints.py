"""Tests of checkpoints in Python: as an argument of a script, fetched, changed, pushed and linked, and the example that
does so.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from himl_cli import (
    MODEL_WEIGHTS_DIR_NAME,
    CheckpointParser,
    checkpoint,
    checkpoint_url,
    fetch_checkpoint,
    fetch_run,
    get_workspace,
    push_checkpoints,
)
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound, TransferIncomplete
from tests.api.conftest import arrived
from tests.api.ranks import local_ranks, run_ranks
from tests.api.scripts import run_script
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns
from tests.support.web import FileServer

SECRET = "sig=zZtop5ecret"


def parsed(text: str) -> Any:
    parser = argparse.ArgumentParser(prog="train.py")
    parser.add_argument("--src_checkpoint", type=checkpoint)
    return parser.parse_args(["--src_checkpoint", text])


def test_what_a_text_means_is_known_without_a_workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(project, {"weights/best.ckpt": "best"})
    monkeypatch.chdir(project)
    page = "https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s/resourcegroups/g/workspaces/w"
    runs = ("train_1_aa", "train_1_aa:best.ckpt", "train:train_1_aa:models/best.pt", page, "azureml://jobs/train_1_aa")
    kinds = {
        "weights/best.ckpt": (True, False, False),
        "https://example.org/runs/3/best.ckpt": (False, True, False),
        **dict.fromkeys(runs, (False, False, True)),
    }
    for text, kind in kinds.items():
        given = parsed(text).src_checkpoint
        assert (given.is_local_file, given.is_url, given.is_aml_run_id) == kind
        assert (given.checkpoint, str(given), bool(given)) == (text, text, True)
    assert [*project.iterdir()] == [project / "weights"]
    given = CheckpointParser(Path("weights/best.ckpt"))
    monkeypatch.chdir("/")
    assert given.get_or_download_checkpoint("out") == Path(given) == project / "weights" / "best.ckpt"


def test_invalid_checkpoint_or_choice_is_one_line_without_secret(capsys: pytest.CaptureFixture[str]) -> None:
    empty = "The value is empty. Is a shell variable unset?"
    for text, said in {
        "weights/none.ckpt": "There is no file 'weights/none.ckpt'.",
        "none.ckpt": "There is no file 'none.ckpt'.",
        " ": empty,
    }.items():
        with pytest.raises(SystemExit, match="2"):
            parsed(text)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith(f"train.py: error: argument --src_checkpoint: {said}")
    with pytest.raises(ValueError, match=r"There is no file 'a/b\.ckpt'"):
        CheckpointParser("a/b.ckpt")
    assert not CheckpointParser()
    with pytest.raises(ValueError, match="The checkpoint is empty"):
        CheckpointParser().get_or_download_checkpoint("out")
    for text in (
        "https:/h.example/x.ckpt?{}",
        "https//h.example/x.ckpt?{}",
        "s3://bucket/x.ckpt?{}",
        "https%3A//h.example/x.ckpt?{}",
    ):
        with pytest.raises(ValueError, match="This is not a valid address") as caught:
            CheckpointParser(text.format(SECRET))
        assert "h.example" not in str(caught.value)
        assert SECRET not in f"{caught.value}{caught.value.__cause__}"
    wrongs: dict[str, dict[str, Any]] = {
        "must be last, best, or epoch=N, not 'bst'": {"select": "bst"},
        "no goal 'up'": {"goal": "up"},
        "^metric got an empty value": {"metric": " "},
        "^metric and goal select the best checkpoint": {"metric": "loss", "select": "last"},
        "^name_offset 1 applies to a logged metric": {"name_offset": 1},
    }
    for said, choice in wrongs.items():
        with pytest.raises(ValueError, match=said) as caught:
            CheckpointParser("train_1_aa", **choice)
        assert (isinstance(caught.value, argparse.ArgumentTypeError), "--" in str(caught.value)) == (True, False)


def test_checkpoints_of_a_run_are_fetched_once_and_chosen(
    local_runs: RecordedRuns, monkeypatch: pytest.MonkeyPatch, web: FileServer, tmp_path: Path
) -> None:
    given = parsed("train_1_aa").src_checkpoint
    assert not (local_runs.folder / "checkpoints").exists()
    with open(given) as stream:
        assert stream.read() == "last"
    assert os.fspath(given) == str(local_runs.folder / "checkpoints" / "train_1_aa" / "last.ckpt")
    (local_runs.folder / ".himl").rename(local_runs.folder / "gone")
    monkeypatch.chdir("/")
    assert Path(given).read_text() == "last"
    (local_runs.folder / "gone").rename(local_runs.folder / ".himl")
    monkeypatch.chdir(local_runs.folder)
    out = tmp_path / "outputs"
    assert (
        CheckpointParser("train_1_aa").get_or_download_checkpoint(download_dir=str(out))
        == out / "train_1_aa" / "last.ckpt"
    )
    assert CheckpointParser("train_1_aa").get_path(out) == out / "train_1_aa" / "last.ckpt"
    assert (
        CheckpointParser("train_1_aa:outputs/model.bin").get_or_download_checkpoint(out)
        == out / "train_1_aa" / "outputs" / "model.bin"
    )
    web.put("/best.ckpt", b"best")
    assert (
        CheckpointParser(web("/best.ckpt")).get_or_download_checkpoint(out)
        == out / MODEL_WEIGHTS_DIR_NAME / "best.ckpt"
    )
    assert arrived(out) == {
        "train_1_aa/last.ckpt": "last",
        "train_1_aa/outputs/model.bin": "m" * 10,
        "pretrained_models/best.ckpt": "best",
    }
    assert all(
        CheckpointParser.AML_RUN_ID_FORMAT in text for text in (CheckpointParser.DOC, CheckpointParser.INFO_MESSAGE)
    )
    with pytest.raises(FileNotFoundError, match=r"Run 'train_1_aa' has no 'best\.ckpt'") as caught:
        os.fspath(parsed("train_1_aa:best.ckpt").src_checkpoint)
    assert "outputs/checkpoints/last.ckpt" in getattr(caught.value, "hint")  # noqa: B009
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        CheckpointParser("nope").get_or_download_checkpoint(tmp_path)
    names = {"epoch=1-val_loss=0.3.ckpt": "good", "epoch=2-val_loss=0.7.ckpt": "later", "last.ckpt": "later"}
    local_runs.add("train_3_cc", files={f"outputs/checkpoints/{name}": text for name, text in names.items()})
    for text, wanted in {"train_3_cc": "good", "train:train_3_cc": "good", "train_3_cc:last.ckpt": "later"}.items():
        assert CheckpointParser(text, select="best").get_or_download_checkpoint(tmp_path).read_text() == wanted
    assert (
        CheckpointParser("train_3_cc", select="epoch=2").get_or_download_checkpoint(tmp_path).name
        == "epoch=2-val_loss=0.7.ckpt"
    )
    with pytest.raises(BadUsage, match="must be last, best, or epoch=N, not 'worst'"):
        CheckpointParser("train_3_cc", select="worst")
    changed = Path(checkpoint("train_1_aa"))
    changed.write_text("mine")
    with pytest.raises(TransferIncomplete, match=r"last\.ckpt") as incomplete:
        os.fspath(checkpoint("train_1_aa"))
    assert (changed.read_text(), incomplete.value.hint) == ("mine", "Pass the local path, or move the files away.")


@pytest.mark.parametrize("around", ["{}", " {}\n"])
def test_no_text_of_an_address_shows_its_signature(
    web: FileServer, project: Path, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    monkeypatch.chdir(project)
    web.put("/best.ckpt", b"best")
    arguments = parsed(around.format(web("/best.ckpt", SECRET)))
    given = arguments.src_checkpoint
    shown = [
        str(arguments),
        repr(given),
        str(given),
        given.checkpoint,
        f"{given}",
        json.dumps(vars(arguments), default=str),
    ]
    assert [text for text in shown if "sig" in text or web("/best.ckpt") not in text] == []
    unfetched = pickle.dumps(given)
    with pytest.raises(ValueError, match="pickled without its signature"):
        os.fspath(pickle.loads(unfetched))
    assert copy.deepcopy(given) == copy.copy(given) == given != checkpoint(web("/best.ckpt", "sig=2"))
    assert Path(given).read_text() == "best"
    assert web.seen[-1].query == SECRET
    fetched = pickle.dumps(given)
    assert Path(pickle.loads(fetched)).read_text() == "best"
    assert SECRET.encode() not in unfetched + fetched
    run = CheckpointParser(f"train_1_aa:best.ckpt?{SECRET}")
    assert (run.is_aml_run_id, "zZtop5ecret" in repr(run), b"zZtop5ecret" in pickle.dumps(run)) == (True, False, False)


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


@pytest.mark.large("starts several ranks")
def test_ranks_fetch_once_and_all_have_the_path(local_runs: RecordedRuns, tmp_path: Path) -> None:
    program = (
        "say([open(himl_cli.checkpoint('train_1_aa')).read(), "
        "str(himl_cli.fetch_checkpoint('train_1_aa:last.ckpt', sys.argv[1]))])"
    )
    out = tmp_path / "out"
    assert run_ranks(program, out, local_ranks(3), cwd=local_runs.folder) == [[["last", str(out / "last.ckpt")]]] * 3


EXAMPLE = Path(__file__).parents[2] / "examples" / "modify_checkpoint"
CHECKPOINTS = {"outputs/checkpoints/epoch=0-val_loss=0.5.ckpt": b"zero", "outputs/checkpoints/last.ckpt": b"one"}


@pytest.fixture(params=["local", "azure"])
def place(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder. Its workspace, local or in Azure ML, has the run train_1_aa."""
    monkeypatch.chdir(project)
    if request.param == "local":
        RecordedRuns(project).add("train_1_aa", files=CHECKPOINTS)
    else:
        azure: StagedWorkspace = request.getfixturevalue("azure_environment")
        azure.put_artifacts(azure.add_run("train_1_aa", "train", status="Completed"), CHECKPOINTS)
        azure.write_config(project)
    return project


def test_changed_checkpoints_become_a_run(place: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file 'none\.ckpt'"):
        push_checkpoints(["none.ckpt"], "train_1_aa", "changed")
    write_files(place, {"empty.ckpt": ""})
    with pytest.raises(BadUsage, match=r"empty\.ckpt' is empty"):
        push_checkpoints([Path("empty.ckpt")], "train_1_aa", "changed")
    assert [*get_workspace().experiment("changed").get_runs()] == []
    folder = fetch_checkpoint("train_1_aa:outputs/checkpoints/")
    assert folder == place / "checkpoints" / "train_1_aa"
    (folder / "last.ckpt").write_text("changed")
    with pytest.raises(TransferIncomplete, match=r"last\.ckpt") as caught:
        fetch_checkpoint("train_1_aa")
    assert caught.value.hint == "To replace files that differ, pass overwrite=True."
    run = push_checkpoints(folder, "train_1_aa", "changed", "new head", tags={"by": "Ada"})
    assert (run.status, run.experiment.name, run.display_name) == ("Completed", "changed", "new head")
    assert (run.tags["himl.checkpoint_from"], run.tags["by"], run.workspace) == (
        "train_1_aa",
        "Ada",
        fetch_run(None, "train_1_aa").workspace,
    )
    assert fetch_checkpoint(run.id).read_text() == "changed"
    assert fetch_checkpoint(run.id, "weights", select="best").read_text() == "zero"
    assert fetch_checkpoint("train_1_aa", overwrite=True).read_text() == "one"
    assert fetch_checkpoint(folder / "last.ckpt") == folder / "last.ckpt"
    with pytest.raises(BadUsage, match="can be selected, but the source is a local path"):
        fetch_checkpoint(str(folder), select="best")


def test_a_link_reads_the_file_and_only_that(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("train_1_aa", "train", status="Completed"), CHECKPOINTS)
    azure.write_config(project)
    monkeypatch.chdir(project)
    link = checkpoint_url("train_1_aa", expiry_days=0.5)
    assert fetch_checkpoint(link, tmp_path / "out").read_bytes() == b"one"
    assert "sig=" in link
    with pytest.raises(NotFound):
        checkpoint_url("train_1_aa:none.ckpt")
    with pytest.raises(BadUsage, match=r"must be a number from 0\.001"):
        checkpoint_url("train_1_aa", 0)


@pytest.mark.large("runs an example")
def test_example_changes_checkpoints_and_goes_on_from_them(
    azure_environment: StagedWorkspace, himl: Himl, tmp_path: Path
) -> None:
    azure = azure_environment
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    azure.add_compute("gpu")
    azure.write_config(folder)
    (folder / "environment.yml").write_text("dependencies: [python=3.11]\n")
    azure.run_jobs()
    submit = ("submit", "train.py", "--cluster", "gpu", "--wait", "-q")
    first = himl.ok(*submit, cwd=folder).stdout.strip()
    done = run_script(folder / "modify_checkpoint.py", first)
    assert (done.returncode, done.stdout.count("changed ")) == (0, 4), done.stderr
    new = done.stdout.splitlines()[-1]
    assert azure.state.runs[new].tags["himl.checkpoint_from"] == first
    last = himl.ok(*submit, "--checkpoint", new, "--", "--layer", "head", cwd=folder).stdout.strip()
    assert (
        "starting from last.ckpt: head.weight, head.bias" in himl.ok("runs", "logs", "--run", last, cwd=folder).stdout
    )
    assert json.loads(azure.artifacts(last)["outputs/checkpoints/last.ckpt"])["state_dict"].keys() == {
        "head.weight",
        "head.bias",
    }
