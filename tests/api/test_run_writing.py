"""Runs that a script starts itself and writes to: the same calls on a local workspace and on Azure ML."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from himl_cli import HimlError, Run, Workspace, create_aml_run_object, fetch_run, get_workspace
from himl_cli.core.errors import BadUsage
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
Start = Callable[..., Run]


class Figure:
    """As matplotlib's figures, which save themselves."""

    def savefig(self, target: Path, format: str) -> None:
        assert format == "png"
        target.write_bytes(PNG)


def here(request: pytest.FixtureRequest, project: Path) -> None:
    (project / ".himl").mkdir()


def in_azure(request: pytest.FixtureRequest, project: Path) -> None:
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    staged.write_config(project)


@pytest.fixture(params=[here, in_azure], ids=["local", "azure"])
def place(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    request.param(request, project)
    monkeypatch.chdir(project)
    return get_workspace()


@pytest.fixture
def run(place: Workspace) -> Run:
    return create_aml_run_object("train", "first try")


def shown(himl: Himl, run: Run) -> Any:
    return himl.ok("runs", "show", "--run", run.id, "--json").json()


def test_a_run_begins_and_completes_as_the_commands_see_it(run: Run, himl: Himl) -> None:
    assert (run.status, run.display_name, run.experiment.name) == ("Running", "first try", "train")
    assert run.tags["run_recovery_id"] == f"train:{run.id}"
    assert shown(himl, run)["status"] == "Running"
    assert run.id in himl.ok("runs", "list", "--experiment", "train").stdout
    run.complete()
    assert run.status == "Completed"
    assert shown(himl, run)["status"] == "Completed"
    assert fetch_run(None, run.id).get_status() == "Completed"


def test_a_failed_run_tells_why(place: Workspace, himl: Himl) -> None:
    run = create_aml_run_object("train")
    run.fail(error_details="no memory left")
    assert (shown(himl, run)["status"], shown(himl, run)["reason"]) == ("Failed", "no memory left")
    other = create_aml_run_object("train", workspace=place)
    other.fail(ValueError("7 is too many"))
    assert shown(himl, other)["reason"] == "ValueError: 7 is too many"


def test_the_block_ends_the_run(place: Workspace) -> None:
    with create_aml_run_object("train") as good:
        good.log("loss", 1)
    assert (good.get_status(), good.get_metrics()) == ("Completed", {"loss": 1.0})
    with pytest.raises(RuntimeError, match="stop"), create_aml_run_object("train") as bad:
        raise RuntimeError("stop")
    assert bad.get_details()["error"] == {"message": "RuntimeError: stop"}


def test_what_is_logged_is_read_back(run: Run, himl: Himl) -> None:
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log(name="accuracy", value=0.9)
    run.log_list("sizes", [1, 2, 3])
    run.log_row("fruit", kind="lime", size=3)
    run.log_row("fruit", "a description", kind="fig", size=1.5)
    run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8]})
    expected = {
        "loss": [1.0, 0.5, 0.25],
        "accuracy": 0.9,
        "sizes": [1.0, 2.0, 3.0],
        "fruit/kind": ["lime", "fig"],
        "fruit/size": [3.0, 1.5],
        "table/epoch": [1.0, 2.0],
        "table/accuracy": [0.7, 0.8],
    }
    assert run.get_metrics() == expected
    run.complete()
    ours = {logged["name"]: logged["value"] for kind in ("metrics", "texts") for logged in shown(himl, run)[kind]}
    assert ours == {name: value[-1] if isinstance(value, list) else value for name, value in expected.items()}


def test_texts_are_read_back_as_they_were_logged(run: Run, himl: Himl) -> None:
    """As azureml-core does it: texts stay texts, also where they look like numbers."""
    run.log("Kernel type", "linear")
    run.log("num", "3.5")
    run.log_row("m", a=1, s="x")
    run.log_list("words", ["a", "b"])
    assert run.get_metrics() == {"Kernel type": "linear", "num": "3.5", "m/a": 1.0, "m/s": "x", "words": ["a", "b"]}
    assert run.get_metrics("num") == {"num": "3.5"}
    run.complete()
    lines = [line.split() for line in himl.ok("runs", "show", run.id).stdout.splitlines()]
    assert ["Kernel", "type", "0", "1", "linear"] in lines
    assert ["words", "1", "2", "b"] in lines
    assert ["m/s", "0", "1", "x"] in lines
    (texts,) = [texts for texts in shown(himl, run)["texts"] if texts["name"] == "words"]
    assert texts == {"name": "words", "value": "b", "step": 1, "count": 2, "run": run.id}


def test_a_long_text_is_shortened_for_people(run: Run, himl: Himl) -> None:
    run.log("story", "once " * 1000)
    run.complete()
    assert max(map(len, himl.ok("runs", "show", run.id).stdout.splitlines())) < 400
    assert shown(himl, run)["texts"][0]["value"] == "once " * 1000


def test_flush_keeps_what_was_logged(run: Run, place: Workspace) -> None:
    run.log("loss", 1.0)
    run.flush()
    assert place.get_run(run.id).get_metrics() == {"loss": 1.0}


def test_files_texts_and_images_are_files_of_the_run(run: Run, project: Path, himl: Himl) -> None:
    write_files(project, {"model.bin": b"m" * 10, "folder/a.txt": "a", "folder/deep/b.txt": "b", "plots/p.png": PNG})
    run.upload_file("outputs/model.bin", "model.bin")
    run.upload_file("outputs/stream", io.BytesIO(b"streamed"))
    run.upload_files(["one", "two"], ["folder/a.txt", project / "folder" / "deep" / "b.txt"])
    run.upload_folder("checkpoints", "folder")
    run.log_text("größer", "notes/text.txt")
    run.log_image("curve", plot=Figure())
    run.log_image("photo", path="plots/p.png")
    run.complete()
    names = run.get_file_names()
    (curve,) = [name for name in names if name.startswith("curve_")]
    fixed = {"checkpoints/a.txt", "checkpoints/deep/b.txt", "notes/text.txt", "one", "outputs/model.bin", "outputs/stream", "plots/p.png", "two"}
    assert {name for name in names if not name.startswith("logged/")} == fixed | {curve}
    run.download_files(output_directory=project / "down")
    assert (project / "down" / "notes" / "text.txt").read_text(encoding="utf-8") == "größer"
    assert (project / "down" / curve).read_bytes() == (project / "down" / "plots" / "p.png").read_bytes() == PNG
    assert (project / "down" / "outputs" / "stream").read_bytes() == b"streamed"


def test_a_file_is_replaced_by_one_of_its_name(run: Run, project: Path) -> None:
    for text in ("one", "two"):
        run.log_text(text, "note.txt")
    run.download_file("note.txt", project / "came.txt")
    assert (project / "came.txt").read_text() == "two"


def test_what_cannot_be_is_refused_before_anything_is_sent(run: Run, project: Path) -> None:
    wrongs: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: run.log("a", [1]), "log takes one value"),
        (lambda: run.log_row("a"), "a row has columns"),
        (lambda: run.log_image("a"), "either path or plot"),
        (lambda: run.log_image("a", path="x.png", plot=Figure()), "either path or plot"),
        (lambda: run.log_image("a", path="nope.png"), "no file 'nope.png'"),
        (lambda: run.log_image("a", plot=object()), "savefig"),
        (lambda: run.upload_file("a", "nope"), "no file 'nope'"),
        (lambda: run.upload_folder("a", "nope"), "no folder 'nope'"),
        (lambda: run.upload_files(["a"], []), "as many names as paths"),
    )
    for wrong, words in wrongs:
        with pytest.raises(BadUsage, match=words):
            wrong()
    assert (run.get_metrics(), run.get_file_names()) == ({}, [])


def test_code_is_kept_without_secrets_and_ignored_files(place: Workspace, project: Path) -> None:
    files = {"train.py": "", "lib/net.py": "", "himl.private.toml": "key", ".gitignore": "*.tmp\n", "a.tmp": "", "outputs/old": ""}
    write_files(project / "work", files)
    run = create_aml_run_object("train", snapshot_directory=project / "work")
    assert run.get_file_names() == ["code/.gitignore", "code/lib/net.py", "code/train.py"]
    run.complete()
    with pytest.raises(HimlError):
        create_aml_run_object("train", snapshot_directory=project / "nope")


def test_the_experiment_gets_a_name_that_azure_takes(place: Workspace) -> None:
    run = create_aml_run_object("my experiment!")
    assert (run.experiment.name, run.id.startswith("my_experiment_")) == ("my_experiment_", True)
    run.complete()
    with pytest.raises(BadUsage, match="name is empty"):
        create_aml_run_object("")


MAKE = "from himl_cli import create_aml_run_object; run = create_aml_run_object('train'); run.complete(); print(run.id)"


def test_the_command_of_a_run_is_what_people_typed(place: Workspace, project: Path) -> None:
    (project / "make.py").write_text(MAKE)
    commands = {}
    for start in (["make.py", "--lr", "0.1"], ["-m", "make", "7"], ["-c", MAKE], ["-c", MAKE, "--token", "s3cret"]):
        done = subprocess.run([sys.executable, *start], cwd=project, capture_output=True, text=True, check=True)
        commands[start[0] + str(len(start))] = fetch_run(place, done.stdout.strip()).record.command
    assert commands == {"make.py3": "make.py --lr 0.1", "-m3": "make.py 7", "-c2": "python -c ...", "-c4": "python -c ... --token '***'"}


def test_a_run_from_outside_is_written_to_as_well(run: Run, place: Workspace) -> None:
    """By its id alone, as from another process."""
    other = place.get_run(run.id)
    other.log("loss", 2.0)
    other.flush()
    other.log_text("x", "x.txt")
    assert (run.get_metrics(), run.get_file_names()) == ({"loss": 2.0}, ["x.txt"])
    other.complete()
    assert run.get_status() == "Completed"


def test_what_is_no_number_is_kept_here_as_lines_of_json(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".himl").mkdir()
    monkeypatch.chdir(project)
    run = create_aml_run_object("train")
    run.log("val/word", "yes")
    run.log_table("t", {"name": ["a", "b"], "score": [0.5, float("nan")]})
    run.log("loss", 1.0)
    run.complete()
    assert run.get_file_names() == ["logged/t.jsonl", "logged/val%2Fword.jsonl"]
    run.download_file("logged/t.jsonl", "t.jsonl")
    rows = [json.loads(line)["values"] for line in Path("t.jsonl").read_text().splitlines()]
    assert rows == [{"name": "a", "score": 0.5}, {"name": "b", "score": "NaN"}]


def test_one_name_may_have_numbers_and_texts_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure ML refuses what has another type than before, and here nothing is lost of it."""
    (project / ".himl").mkdir()
    monkeypatch.chdir(project)
    with create_aml_run_object("train") as run:
        run.log("x", 1, step=0)
        run.log("x", "one", step=1)
        run.log("x", 2, step=2)
    assert run.get_metrics() == {"x": [1.0, "one", 2.0]}


def test_a_run_kept_here_is_canceled_on_record(project: Path, himl: Himl, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".himl").mkdir()
    monkeypatch.chdir(project)
    run = create_aml_run_object("train")
    himl.ok("runs", "cancel", run.id)
    assert run.get_status() == "Canceled"
    run.complete()
    assert run.get_status() == "Canceled"
    himl.ok("runs", "delete", run.id, "--yes")


def test_how_a_job_ends_is_not_a_programs_to_say(project: Path, himl: Himl) -> None:
    write_files(project, {"wait.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    run_id = himl.ok("submit", "wait.py", "--no_wait", "-q").stdout.strip()
    job = get_workspace(workspace_config_path=project / ".himl").get_run(run_id)
    with pytest.raises(BadUsage, match="is a job: how it ends is recorded when its script does"):
        job.complete()
    job.log("from outside", 1.0)
    job.flush()
    himl.ok("runs", "cancel", run_id)
    assert job.wait_for_completion(raise_on_error=False)["status"] == "Canceled"
    assert job.get_metrics() == {"from outside": 1.0}
