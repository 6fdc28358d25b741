"""Tests of runs that scripts write: those that they start, locally and on Azure ML, and `RUN_CONTEXT` in and outside of
jobs.
"""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from himl_cli import HimlError, Run, Workspace, create_aml_run_object, fetch_run, get_metrics_for_run, get_workspace
from himl_cli.core.errors import BadUsage
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.sweeps import show

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
Start = Callable[..., Run]


class Figure:
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


def test_run_begins_and_ends_as_the_commands_see_it(run: Run, himl: Himl, place: Workspace, project: Path) -> None:
    assert (run.status, run.display_name, run.experiment.name) == ("Running", "first try", "train")
    assert run.tags["run_recovery_id"] == f"train:{run.id}"
    assert show(himl, run.id)["status"] == "Running"
    assert run.id in himl.ok("runs", "list", "--experiment", "train").stdout
    run.complete()
    assert run.status == "Completed"
    assert show(himl, run.id)["status"] == "Completed"
    assert fetch_run(None, run.id).get_status() == "Completed"
    failed = create_aml_run_object("train", workspace=place)
    failed.fail(error_details="no memory left")
    assert (show(himl, failed.id)["status"], show(himl, failed.id)["reason"]) == ("Failed", "no memory left")
    with create_aml_run_object("train") as good:
        good.log("loss", 1)
    assert (good.get_status(), good.get_metrics()) == ("Completed", {"loss": 1.0})
    with pytest.raises(RuntimeError, match="stop"), create_aml_run_object("train") as bad:
        raise RuntimeError("stop")
    assert show(himl, bad.id)["reason"] == "RuntimeError: stop"
    assert bad.get_details()["error"] == {"message": "RuntimeError: stop"}
    run = create_aml_run_object("my experiment!")
    assert (run.experiment.name, run.id.startswith("my_experiment_")) == ("my_experiment_", True)
    other = place.get_run(run.id)
    other.log("loss", 2.0)
    other.flush()
    for text in ("one", "two"):
        other.log_text(text, "x.txt")
    assert (run.get_metrics(), run.get_file_names()) == ({"loss": 2.0}, ["x.txt"])
    run.download_file("x.txt", project / "came.txt")
    assert (project / "came.txt").read_text() == "two"
    other.complete()
    assert run.get_status() == "Completed"
    with pytest.raises(BadUsage, match="name is empty"):
        create_aml_run_object("")


def test_attributes_of_a_run_change_it_or_are_refused(run: Run, place: Workspace) -> None:
    run.description = None
    assert fetch_run(place, run.id).description == ""
    run.display_name = "other"
    run.description = "why"
    found = fetch_run(place, run.id)
    assert (found.display_name, found.description) == (run.display_name, run.description) == ("other", "why")
    changes: tuple[tuple[Callable[[], object], type[Exception], str], ...] = (
        (lambda: setattr(run, "tags", {"a": "b"}), AttributeError, "run.set_tags"),
        (lambda: run.tags.update(a="b"), TypeError, "run.set_tags"),
        (lambda: setattr(run, "name", "other"), AttributeError, "display_name"),
        (lambda: setattr(run, "status", "Failed"), AttributeError, "set"),
        (lambda: attrgetter("child_run")(run), AttributeError, "himl's Run has no attribute 'child_run'. Use MLflow's"),
        (
            lambda: attrgetter("models")(place),
            AttributeError,
            "himl's Workspace has no attribute 'models'. Use azure-ai-ml's",
        ),
        (lambda: attrgetter("submit")(run.experiment), AttributeError, "himl_cli.submit"),
        (lambda: attrgetter("as_mount")(place.get_default_datastore()), AttributeError, "DatasetConfig"),
        (lambda: run.upload_file("a", __file__, datastore_name="scans"), BadUsage, "datastore_name"),
        (lambda: run.upload_files(["a"], [__file__], datastore_name="scans"), BadUsage, "datastore_name"),
        (lambda: run.upload_folder("a", ".", datastore_name="scans"), BadUsage, "datastore_name"),
    )
    for change, kind, words in changes:
        with pytest.raises(kind, match=words):
            change()
    assert fetch_run(place, run.id).get_tags().keys() <= {"run_recovery_id", "mlflow.note.content"}
    assert copy.deepcopy(run.tags) == run.tags == dict(run.tags) == json.loads(json.dumps(run.tags))
    assert not any(hasattr(run, name) for name in ("child_run", "properties"))


def test_names_of_azureml_core_for_runs_and_datastores(run: Run, place: Workspace, project: Path) -> None:
    write_files(project, {"std_log.txt": "said\n", "a/1.txt": "one", "a/b/2.txt": "two"})
    run.upload_file("user_logs/std_log.txt", "std_log.txt")
    run.upload_file("outputs/model", "a/1.txt")
    assert [Path(path).read_text() for path in run.get_all_logs("got")] == ["said\n"]
    assert run.get_all_logs() == [str(Path(run.id, "user_logs/std_log.txt"))]
    assert [*run.get_details()["logFiles"]] == ["user_logs/std_log.txt"]
    assert place.experiments == {"train": run.experiment}
    page = run.experiment.get_portal_url()
    assert (
        page == ""
        if not place.is_in_azure
        else page.startswith("https://ml.azure.com/experiments/train?wsid=/subscriptions/")
    )
    datastore = place.get_default_datastore()
    assert datastore.upload_files(["a/1.txt", project / "a/b/2.txt"], target_path="up") == 2
    assert datastore.upload_files(["a/1.txt"], relative_root=".", target_path="up", overwrite=True) == 1
    assert datastore.upload_files(["a/1.txt", "a/b/2.txt"], None, "up") == 0
    assert datastore.download("down", prefix="up/") == 3
    assert {path.relative_to("down").as_posix() for path in Path("down").rglob("*.txt")} == {
        "up/1.txt",
        "up/b/2.txt",
        "up/a/1.txt",
    }
    for files, root, words in (
        (["a"], None, "no file"),
        ([], None, "a list of files"),
        (["std_log.txt"], "a", "relative_root"),
    ):
        with pytest.raises(HimlError, match=words):
            datastore.upload_files(files, root)


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_is_logged_is_read_back(run: Run, himl: Himl) -> None:
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log(name="accuracy", value=0.9)
    run.log_list("sizes", [1, 2, 3])
    run.log_row("fruit", kind="lime", size=3)
    run.log_row("fruit", "a description", kind="fig", size=1.5)
    run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8]})
    run.log("Kernel type", "linear")
    run.log("num", "3.5")  # strings stay strings, as in azureml-core
    run.log("story", "once " * 50)
    run.log_list("words", ["a", "b"])
    expected: dict[str, Any] = {
        "loss": [1.0, 0.5, 0.25],
        "accuracy": 0.9,
        "sizes": [1.0, 2.0, 3.0],
        "fruit/kind": ["lime", "fig"],
        "fruit/size": [3.0, 1.5],
    }
    expected |= {
        "table/epoch": [1.0, 2.0],
        "table/accuracy": [0.7, 0.8],
        "Kernel type": "linear",
        "num": "3.5",
        "story": "once " * 50,
        "words": ["a", "b"],
    }
    assert run.get_metrics() == expected
    assert run.get_metrics("num") == {"num": "3.5"}
    assert get_metrics_for_run(run=run, keep_metrics=["num", "table"]) == {
        "num": "3.5",
        "table": {"epoch": [1, 2], "accuracy": [0.7, 0.8]},
    }
    assert run.get_metrics("table") == {"table": {"epoch": [1, 2], "accuracy": [0.7, 0.8]}}
    assert run.get_metrics(name="fruit", recursive=True) == {
        run.id: {"fruit": {"kind": ["lime", "fig"], "size": [3, 1.5]}}
    }
    run.complete()
    ours = {logged["name"]: logged["value"] for kind in ("metrics", "texts") for logged in show(himl, run.id)[kind]}
    assert ours == {name: value[-1] if isinstance(value, list) else value for name, value in expected.items()}
    printed = himl.ok("runs", "show", run.id).stdout.splitlines()
    lines = [line.split() for line in printed]
    assert [
        line for line in (["Kernel", "type", "0", "1", "linear"], ["words", "1", "2", "b"]) if line not in lines
    ] == []
    assert max(len(line) for line in printed if "once" in line) < 400
    texts = {one["name"]: one for one in show(himl, run.id)["texts"]}
    assert texts["words"] == {"name": "words", "value": "b", "step": 1, "count": 2, "run": run.id}


def test_files_and_code_are_kept_and_wrong_ones_refused(run: Run, project: Path, himl: Himl, place: Workspace) -> None:
    wrongs: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: run.log("a", [1]), "log takes one value"),
        (lambda: run.log_row("a"), "a row must have columns"),
        (lambda: run.log_image("a"), "either path or plot"),
        (lambda: run.log_image("a", path="x.png", plot=Figure()), "either path or plot"),
        (lambda: run.log_image("a", path="nope.png"), "no file 'nope.png'"),
        (lambda: run.log_image("a", plot=object()), "savefig"),
        (lambda: run.upload_file("a", "nope"), "no file 'nope'"),
        (lambda: run.upload_folder("a", "nope"), "Folder 'nope' does not exist"),
        (lambda: run.upload_files(["a"], []), "as many names as paths"),
    )
    for wrong, words in wrongs:
        with pytest.raises(BadUsage, match=words):
            wrong()
    assert (run.get_metrics(), run.get_file_names()) == ({}, [])
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
    fixed = {
        "checkpoints/a.txt",
        "checkpoints/deep/b.txt",
        "notes/text.txt",
        "one",
        "outputs/model.bin",
        "outputs/stream",
        "plots/p.png",
        "two",
    }
    assert {name for name in names if not name.startswith("logged/")} == fixed | {curve}
    run.download_files(output_directory=project / "down")
    assert (project / "down" / "notes" / "text.txt").read_text(encoding="utf-8") == "größer"
    assert (project / "down" / curve).read_bytes() == (project / "down" / "plots" / "p.png").read_bytes() == PNG
    assert (project / "down" / "outputs" / "stream").read_bytes() == b"streamed"
    files = {
        "train.py": "",
        "lib/net.py": "",
        "himl.private.toml": "key",
        ".gitignore": "*.tmp\n",
        "a.tmp": "",
        "outputs/old": "",
    }
    write_files(project / "work", files)
    coded = create_aml_run_object("train", snapshot_directory=project / "work")
    assert create_aml_run_object("train", snapshot_directory="").get_file_names() == []
    assert coded.get_file_names() == ["code/.gitignore", "code/lib/net.py", "code/train.py"]
    with pytest.raises(HimlError):
        create_aml_run_object("train", snapshot_directory=project / "nope")


def test_images_of_equal_names_and_tags_that_count_as_false_are_kept(run: Run, project: Path, tmp_path: Path) -> None:
    class Plot:
        content = b""

        def savefig(self, target: Path, *, format: str) -> None:
            target.write_bytes(self.content)

    write_files(project, {"a/0.png": b"a", "b/0.png": b"b", "0.png": b"first"})
    write_files(tmp_path / "far", {"a/0.png": b"c", "b/0.png": b"d"})
    for name, path in (
        ("s", "a/0.png"),
        ("s", project / "b" / "0.png"),
        ("s", tmp_path / "far" / "a" / "0.png"),
        ("t", tmp_path / "far" / "b" / "0.png"),
    ):
        run.log_image(name, path=path)
    for content in (b"first", b"second", b"second"):
        (project / "0.png").write_bytes(content)
        run.log_image("u", path="0.png")
    write_files(project, {"outputs/0.png": b"out"})
    run.log_image("w", path="outputs/0.png")
    for Plot.content in (b"x", b"y"):
        run.log_image("plot", plot=Plot())
    run.log_image("v", path="a/../b/0.png")
    run.log_row("损失" * 14, a=1)  # a local workspace cannot store it, which must not end the script
    run.flush()
    results = run.workspace.opened.results([run.workspace.opened.run(run.id)], wanted=lambda name: True, whole=True)[
        run.id
    ]
    files = run.workspace.opened.run_files(run.id)
    kept = {name: [b"".join(files.read(file)) for file in images] for name, images in results.images.items()}
    assert kept == {
        "s": [b"a", b"b", b"c"],
        "t": [b"d"],
        "u": [b"first", b"second", b"second"],
        "plot": [b"x", b"y"],
        "v": [b"b"],
        "w": [b"out"],
    }
    assert results.images["w"] == ["images/outputs/0.png"], "the script may replace its outputs"
    assert results.images["s"][:2] == ["a/0.png", "b/0.png"]
    falsy: dict[str, Any] = {"fold": 0, "is_debug": False, "lr": 0.0, "empty": "", "none": None}
    for key, value in falsy.items():
        run.tag(key, value)
    tags = run.get_tags()
    assert {key: tags[key] for key in falsy} == {"fold": "0", "is_debug": "False", "lr": "0.0", "empty": "", "none": ""}
    run.log_row("损失" * 14, a=1)
    run.complete()


@pytest.mark.large("starts several scripts")
def test_the_command_of_a_run_is_what_people_typed(project: Path) -> None:
    (project / ".himl").mkdir()
    make = (
        "from himl_cli import create_aml_run_object; run = create_aml_run_object('train'); run.complete(); "
        "print(run.record.command)"
    )
    (project / "make.py").write_text(make)
    commands = []
    for start in (["make.py", "--lr", "0.1"], ["-m", "make", "7"], ["-c", make, "--token", "s3cret"]):
        done = subprocess.run([sys.executable, *start], cwd=project, capture_output=True, text=True, check=True)
        commands.append(done.stdout.strip())
    assert commands == ["make.py --lr 0.1", "make.py 7", "python -c ... --token '***'"]


def test_run_kept_here_takes_texts_and_is_canceled_on_record(
    project: Path, monkeypatch: pytest.MonkeyPatch, himl: Himl
) -> None:
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
    with create_aml_run_object("train") as run:
        run.log("x", 1, step=0)
        run.log("x", "one", step=1)
        run.log("x", 2, step=2)
    assert run.get_metrics() == {"x": [1.0, "one", 2.0]}
    run = create_aml_run_object("train")
    himl.ok("runs", "cancel", run.id)
    assert run.get_status() == "Canceled"
    run.complete()
    assert run.get_status() == "Canceled"
    himl.ok("runs", "delete", run.id, "--yes")


LOGGING = """
import json, sys
from pathlib import Path
import himl_cli
from himl_cli import RUN_CONTEXT, Run
run = Run.get_context(allow_offline=False)
assert RUN_CONTEXT == run and isinstance(RUN_CONTEXT, Run)
for step, loss in enumerate((1.0, 0.5)):
    RUN_CONTEXT.log("loss", loss, step=step)
RUN_CONTEXT.log_row("row", a=1, b=2.5)
RUN_CONTEXT.log_text("hello", "notes.txt")
Path("weights.bin").write_bytes(b"w")
RUN_CONTEXT.upload_file("outputs/weights.bin", "weights.bin")
run.set_tags({"by": "script"})
RUN_CONTEXT.display_name = "named by script"
RUN_CONTEXT.flush()
loaded = [name for name in ("azure.ai", "azure.identity", "msal", "azureml", "mlflow", "torch", "typer", "rich")
    if name in sys.modules]
print(json.dumps([RUN_CONTEXT.id, RUN_CONTEXT.experiment.name, run.get_status(), run.get_metrics(),
    himl_cli.is_running_in_azure_ml(RUN_CONTEXT), loaded]))
RUN_CONTEXT.log("last", 3.0)
RUN_CONTEXT.complete()
"""
LOGGED = {"loss": [1.0, 0.5], "row/a": 1.0, "row/b": 2.5}


def values(document: Any) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in document["metrics"]}


@pytest.mark.large("runs several jobs")
def test_job_here_logs_to_its_run_even_once_it_said_it_failed(project: Path, himl: Himl) -> None:
    write_files(project, {"train.py": LOGGING})
    for how in ((), ("--in_place",)):
        run_id = himl.ok("submit", "train.py", "-q", *how).stdout.strip().splitlines()[-1]
        log = himl.ok("runs", "logs", "--run", run_id).stdout
        assert json.loads(log.splitlines()[-1]) == [run_id, "train", "Running", LOGGED, False, []]
        document = show(himl, run_id)
        assert (document["status"], document["tags"]["by"], document["display_name"]) == (
            "Completed",
            "script",
            "named by script",
        )
        assert values(document) == {"loss": 0.5, "row/a": 1.0, "row/b": 2.5, "last": 3.0}
        himl.ok("download", "--run", run_id, "--output_dir", project / "down")
        down = project / "down" / run_id
        assert ((down / "notes.txt").read_text(), (down / "outputs" / "weights.bin").read_bytes()) == ("hello", b"w")
    program = (
        "from himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('a', 1)\nRUN_CONTEXT.flush()\n"
        "RUN_CONTEXT.fail('so what')\nRUN_CONTEXT.log('a', 2)\n"
    )
    write_files(project, {"train.py": program})
    run_id = (
        himl.ok("submit", "train.py", "-q", "--env_var", "MLFLOW_TRACKING_URI=http://127.0.0.1:9")
        .stdout.strip()
        .splitlines()[-1]
    )
    document = show(himl, run_id)
    assert (document["status"], values(document)) == ("Completed", {"a": 2.0})
    assert "lost" not in himl.ok("runs", "logs", "--run", run_id).stdout


@pytest.mark.large("imports MLflow in a job")
def test_ranks_and_mlflow_write_to_the_same_run(project: Path, himl: Himl) -> None:
    program = """
import os
from himl_cli import RUN_CONTEXT
rank = os.environ["RANK"]
for n in range(50):
    RUN_CONTEXT.log("rank" + rank, n, step=n)
    RUN_CONTEXT.log_row("t", rank=int(rank), n=n)
"""
    write_files(project, {"train.py": program})
    run_id = himl.ok("submit", "train.py", "--processes_per_node", "3", "-q").stdout.strip().splitlines()[-1]
    counts = {metric["name"]: metric["count"] for metric in show(himl, run_id)["metrics"]}
    assert counts == {"rank0": 50, "rank1": 50, "rank2": 50, "t/rank": 150, "t/n": 150}
    program = """
import mlflow
from himl_cli import RUN_CONTEXT
mlflow.log_metric("theirs", 1.0)
client = mlflow.MlflowClient()
read = lambda: client.get_run(RUN_CONTEXT.id).data.metrics
assert read() == {"theirs": 1.0}, read()
for value in (0.5, 0.25):
    RUN_CONTEXT.log("ours", value)
    RUN_CONTEXT.flush()
    assert read() == {"theirs": 1.0, "ours": value}, read()
mlflow.log_metric("ours", 0.125, step=1)
assert read()["ours"] == 0.125
"""
    write_files(project, {"train.py": program})
    done = himl("submit", "train.py", "-q")
    assert done.code == 0, done.stdout + done.stderr


def in_job(azure: StagedWorkspace, project: Path, program: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a job on Azure ML that has only the run's token."""
    run = azure.state.runs.get("train_1_aa") or azure.add_run("train_1_aa", "train", status="Running")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env={**environment, **azure.job_environment(run), **more}, cwd=project, capture_output=True, text=True
    )


def test_a_job_on_azure_logs_to_its_run_with_the_run_token(
    azure_environment: StagedWorkspace, project: Path, himl: Himl
) -> None:
    azure = azure_environment
    done = in_job(azure, project, LOGGING)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["train_1_aa", "train", "Running", LOGGED, True, []]
    assert azure.requests(r"management\.azure\.com") == []
    azure.write_config(project)
    document = show(himl, "train_1_aa")
    assert (document["status"], document["tags"]["by"], document["display_name"]) == (
        "Running",
        "script",
        "named by script",
    )
    assert values(document) == {"loss": 0.5, "row/a": 1.0, "row/b": 2.5, "last": 3.0}
    assert azure.get_blob("workspaceartifactstore", "ExperimentRun/dcid.train_1_aa/outputs/weights.bin") == b"w"


OUTSIDE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
import himl_cli
from himl_cli import RUN_CONTEXT
heavy = ("azure", "himl_cli.workspaces.azure", "himl_cli.workspaces.local", "filelock", "pycurl")
assert [name for name in sys.modules if name.startswith(heavy)] == []
RUN_CONTEXT.log("loss", 0.5)
RUN_CONTEXT.log("loss", 0.25, step=1)
RUN_CONTEXT.log_table("t", {"a": [1, 2], "b": ["x", "y"]})
RUN_CONTEXT.log_text("hello", "a.txt")
RUN_CONTEXT.tag("a", "b")
RUN_CONTEXT.flush()
with RUN_CONTEXT as run:
    pass
RUN_CONTEXT.display_name = RUN_CONTEXT.description = "mine"
assert (run.display_name, run.description, run.tags, run.get_tags()) == ("mine", "mine", {"a": "b"}, {"a": "b"})
for name in ("tags", "dispaly_name", "parent"):
    try:
        setattr(RUN_CONTEXT, name, {})
    except AttributeError as err:
        print(err)
assert RUN_CONTEXT.get_metrics() == {"loss": [0.5, 0.25], "t": {"a": [1, 2], "b": ["x", "y"]}}
assert not hasattr(RUN_CONTEXT, "experiment") and RUN_CONTEXT.id.startswith("OfflineRun_")
assert not himl_cli.is_running_in_azure_ml(RUN_CONTEXT)
try:
    himl_cli.Run.get_context(allow_offline=False)
except himl_cli.HimlError as err:
    print(err)
"""


def test_outside_of_a_job_the_log_is_told_and_nothing_is_written(project: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OUTSIDE], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not in a job" in done.stdout
    refused = [
        "'tags' of a run cannot be set. Use run.set_tags({...}).",
        *(f"'{name}' of a run cannot be set. You can" for name in ("dispaly_name", "parent")),
    ]
    assert [
        line for line, start in zip(done.stdout.splitlines(), refused, strict=False) if not line.startswith(start)
    ] == []
    assert "No run to log to: scalar 'loss' 0.5" in done.stderr
    assert [*project.iterdir()] == []
