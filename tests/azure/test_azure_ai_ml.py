"""azure-ai-ml, unmodified, reads and changes the double, submits jobs, sweeps and pipelines that run in it, and
agrees with `himl`.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from himl_cli.core.events import ignore
from himl_cli.core.jobs import Snapshot
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.workspaces.azure.jobs.assets import fingerprint
from tests.azure import lab as world
from tests.azure.conftest import Hear
from tests.azure.lab import Lab, Visits, client_python, digests, fill, inside, ready, run_pipeline, visit
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support import clients
from tests.support.azure import connected, opened
from tests.support.azure_jobs import ensured
from tests.support.running import write_files

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)
CODE: dict[str, str | bytes] = {
    "train.py": "print(1)\n",
    "README.md": "# Training\n",
    "empty.txt": b"",
    "Upper/B.py": b"\x00\x01\r\n",
    "Upper.py": "u",
    "a-b/x.py": "dash",
    "a/x.py": "slash",
    "a.py": "dot",
    "größe/überblick ü.txt": "ß",
    "日本/語.py": "# 日本語\n",
    "ZZ/İstanbul.txt": "dotted",
    "with space #1 100%.txt": "odd",
    "large.bin": bytes(range(256)) * 9000,
}
# BUILDING waits for its image, and SERVED has services.
BUILDING, SERVED = "calm_yam_building", "keen_oat_served"
BUILD_LOG = "azureml-logs/20_image_build_log.txt"
EVERYWHERE = {"nodes": {"nodesValueType": "All"}}
WITH_SERVICES = {
    "jobType": "Command",
    "command": "sleep infinity",
    "resources": {"instanceCount": 2},
    "services": {
        "code": {"jobServiceType": "VSCode"},
        "lab": {"jobServiceType": "JupyterLab", **EVERYWHERE},
        "shell": {"jobServiceType": "SSH", "properties": {"sshPublicKeys": "ssh-ed25519 AAAA ada@lab"}, **EVERYWHERE},
        "tb": {"jobServiceType": "TensorBoard", "properties": {"logDir": "tb"}},
    },
}
PIPELINE_STEPS = ("step1 makes", "step2 reads")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("code")
    write_files(folder, CODE)
    if sys.platform != "win32":
        (folder / "linked.py").symlink_to("train.py")
    return take_snapshot(folder).snapshot


@pytest.fixture(scope="module")
def visits(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory, code: Snapshot) -> Iterator[Visits]:
    shared_stage.clear()
    folder, trains = tmp_path_factory.mktemp("azure_ai_ml"), {"python": client_python(clients.AZUREML_MLFLOW)}
    with shared_stage.own_workspaces():
        labs = {name: fill(shared_stage.workspace()) for name in ("read", "act", "submit", "stream")}
        labs |= {name: ready(shared_stage.workspace(), **trains) for name in ("train", "fail", "sweep")}
        for name in ("stream", "train", "fail", "sweep"):
            labs[name].azure.state.secrets = "key"  # with a SAS, it shows no logs
        labs["pipeline"] = run_pipeline(shared_stage.workspace(), folder / "piped")
        for name in ("code after himl", "code before himl"):
            labs[name] = Lab(shared_stage.workspace(), function="send_code", arguments=(str(code.root),))
            labs[name].azure.add_environment("torch")
        uploaded = labs["code after himl"].azure
        with inside(uploaded, folder / "uploaded"), connected(uploaded, folder / "uploaded") as connection:
            assert not ensured(connection, code, ignore).is_cached
        building = labs["stream"].azure
        building.append_log(building.add_run(BUILDING, status="Preparing"), "Step 1/2 : FROM base\n", name=BUILD_LOG)
        served = building.add_run(SERVED, status="Running", job=WITH_SERVICES)
        building.start_services(served)
        served.services[0]["tb"] |= {
            "status": "Failed",
            "error": {"error": {"code": "UserError", "message": "No such folder."}},
        }
        labs["stream"] = Lab(building, {"LAB_BUILDING": BUILDING, "LAB_SERVED": SERVED})
        shared_stage.log.clear()
        given_up = threading.Event()
        job = threading.Thread(target=go_on, args=[labs["stream"].azure, given_up])
        job.start()
        try:
            yield visit(shared_stage, world.AZURE_AI_ML, labs, folder)
        finally:
            given_up.set()
            job.join()


def go_on(azure: StagedWorkspace, given_up: threading.Event) -> None:
    """Let the running job, and then the one that waits for its image, end after their client has read them."""
    for name, line in ((world.RUNNING, "epoch 1\n"), (BUILDING, "built\n")):
        while not any(
            seen.status == 200 for seen in azure.stage.log.find(f"{azure.state.name}.*/{name}/details")
        ) and not given_up.wait(0.05):
            pass
        azure.append_log(azure.state.runs[name], line, name=BUILD_LOG if name == BUILDING else "user_logs/std_log.txt")
        azure.state.runs[name].status = "Completed"


def test_it_finds_the_workspace_its_compute_and_its_datastores(hear: Hear) -> None:
    read = hear("read")
    state, said = read.azure.state, read.said
    assert said["workspace"] == {
        "id": state.path,
        "location": "eastus",
        "tracking": f"azureml://eastus.api.azureml.ms/mlflow/v1.0{state.path}",
    }
    assert said["compute"] == ["cpu-cluster", "STANDARD_DS3_V2", 4]
    assert said["datastores"] == sorted(state.datastores)
    assert said["default"] == read.json("workspace", "show")[0]["facts"]["default_datastore"]
    assert re.match(r"\?.*srt=co", said["secret"]), "it asks for a secret that expires"
    named = read.himl("datastore", "list", "--datastore", "nope", env=read.azure.environment())
    assert (named.code, [name for name in said["datastores"] if name not in named.stderr.replace("\n", "")]) == (3, [])


def test_it_lists_shows_and_downloads_what_himl_does(hear: Hear) -> None:
    read = hear("read")
    listed = read.json("runs", "list", "--num_runs", "all")
    fields = {"id": "id", "status": "status", "tags": "tags", "name": "display_name", "experiment": "experiment"}
    assert read.said["jobs"] == [{theirs: run[ours] for theirs, ours in fields.items()} for run in listed]
    assert [run["id"] for run in listed] == ["other_run", *world.ROOTS]
    ours = read.json("runs", "show", "--run", world.BEST)
    assert read.said["job"] == {theirs: ours[our] for theirs, our in fields.items()}
    assert read.said["studio"].lower() == ours["url"].lower()
    assert (
        read.said["children"]
        == sorted(child["id"] for child in read.json("runs", "show", "--run", world.SWEEP)["children"])
        == list(world.TRIALS)
    )
    files = read.downloads(world.BEST)
    assert read.said["artifacts"] == {f"artifacts/{name}": digest for name, digest in files.items()}
    assert files == digests(world.FILES)
    assert read.said["predictions"] == {
        f"named-outputs/predictions/{name}": digest for name, digest in digests(world.PREDICTIONS).items()
    }
    outputs = read.azure.state.runs[world.BEST].outputs
    weights = {"type": "CustomModel", "path": outputs["weights"].uri}
    assert read.said["inner"] == {
        "found": world.BEST,
        "failed": ["two"],
        "output": outputs["predictions"].uri,
        "weights": weights,
    }
    for key, made in (("predictions", world.PREDICTIONS), ("weights", {**world.PREDICTIONS, **world.WEIGHTS})):
        assert sorted(read.downloads(world.BEST, "--output_key", key).values()) == sorted(
            [*files.values(), *digests(made).values()]
        )


def test_himl_sees_what_it_canceled_archived_and_registered(hear: Hear) -> None:
    acted = hear("act")
    assert acted.said["canceled"] == acted.json("runs", "show", "--run", world.RUNNING)["status"] == "Canceled"
    assert (world.FAILED in acted.said["active"]) is not acted.said["is_archived"]
    assert acted.said["active"] == [run["id"] for run in acted.json("runs", "list", "--num_runs", "all")]
    assert acted.said["missing"] == "UserError"
    assert all(text in acted.said["streamed"] for text in (f"RunId: {world.BEST}", "Execution Summary"))
    state = acted.azure.state
    place = f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}"
    assert acted.said["asset"].lower() == f"{place}/datastores/workspaceblobstore/paths/scans/".lower()
    assert (acted.said["versions"], "second" in acted.said["datastores"]) == (["1", "1"], True)
    assert sorted(
        blob["name"] for blob in acted.json("datastore", "list", "scans/", "--datastore", "second")
    ) == sorted(world.DATA)


def test_himl_lists_the_jobs_that_it_submits(hear: Hear) -> None:
    sent = hear("submit")
    listed = sent.json("runs", "list", "--experiment", "sent")
    assert [(run["id"], run["tags"]) for run in listed] == [
        (run_id, {"from": "sdk"}) for run_id in reversed(sent.said["ids"])
    ]
    assert listed[0]["status"] in ("Queued", "Running")
    assert len(set(sent.said["codes"])) == 1
    assert (sent.said["environments"], sent.said["computes"], sent.said["data"]) == (
        ["torch"],
        ["cpu-cluster", "gpu-cluster"],
        [],
    )


def test_its_jobs_are_streamed_downloaded_and_shown_by_himl(hear: Hear) -> None:
    trained = hear("train")
    said, files = trained.said, trained.said["files"]
    assert said["status"] == "Completed", said["log"]
    assert [
        line
        for line in ("files a.bin b.bin local.txt", "epoch 0", "epoch 1", "Execution Summary")
        if line not in said["log"]
    ] == []
    assert (files["artifacts/outputs/model.txt"], files["artifacts/note.txt"]) == ("weights", "note")
    assert "epoch 1" in files["artifacts/user_logs/std_log.txt"]
    version, path = said["masks"]
    assert (version, path.endswith("/datastores/workspaceblobstore/paths/masks/")) == ("1", True)
    assert trained.azure.get_blob("workspaceblobstore", "masks/mask.txt") == b"mask"
    shown = trained.json("runs", "show", "--run", said["id"])
    assert (shown["status"], shown["experiment"], shown["tags"]["from"], shown["parameters"]) == (
        "Completed",
        "trained",
        "sdk",
        {"seed": "7"},
    )
    assert {metric["name"]: metric["value"] for metric in shown["metrics"]} == {"loss": 0.5}
    failed = hear("fail")
    assert failed.said["status"] == "Failed"
    assert [text for text in ("exited with status code 1", "rank 0") if text not in failed.said["log"]] == []
    assert failed.json("runs", "show", "--run", failed.said["id"])["status"] == "Failed"
    shown, built = hear("stream").said["logs"]
    assert "Streaming user_logs/std_log.txt" in shown
    assert shown.index("epoch 0\n") < shown.index("epoch 1\n") < shown.index("Execution Summary")
    assert (
        built.index(f"Streaming {BUILD_LOG}")
        < built.index("Step 1/2 : FROM base\n")
        < built.index("built\n")
        < built.index("Execution Summary")
    )


def test_it_shows_the_services_that_himl_attaches_to(hear: Hear) -> None:
    heard = hear("stream")
    said = heard.said["services"]
    assert {name: kind for name, (kind, _) in heard.said["asked"].items()} == {
        "Studio": "Studio",
        "Tracking": "Tracking",
        "code": "vs_code",
        "lab": "jupyter_lab",
        "shell": "ssh",
        "tb": "tensor_board",
    }
    for node, names in ((0, ["code", "lab", "shell", "tb"]), (1, ["lab", "shell"])):
        ours = heard.json("runs", "attach", SERVED, "--node", str(node))
        assert [each["name"] for each in ours] == sorted(said[node]) == names
        for each in ours:
            theirs = said[node][each["name"]]
            assert (each["type"], each["status"], each["port"]) == (theirs["type"], theirs["status"], theirs["port"])
            assert (each["url"] or None, each["error"] or None) == (theirs["endpoint"], theirs["error"])
            assert each["proxy"] == (theirs["properties"] or {}).get("ProxyEndpoint", "")
    assert said[0]["tb"]["error"] == "No such folder."


def test_it_runs_a_sweep_and_downloads_the_best_trial(hear: Hear) -> None:
    swept = hear("sweep")
    said, name = swept.said, swept.said["id"]
    assert (said["type"], said["status"], said["space"], said["best"]) == (
        "sweep",
        ["Running", "Completed"],
        {"lr": [0.5, 0.125, 0.25]},
        f"{name}_1",
    )
    assert said["children"] == {
        f"{name}_{index}": ["Completed", f'{{"lr": {lr}}}'] for index, lr in enumerate((0.5, 0.125, 0.25))
    }
    assert "Scheduling job" in said["log"]
    assert "0.125" in [text for file, text in said["files"].items() if file.endswith("rate.txt")]
    assert swept.json("runs", "show", "--run", name)["status"] == "Completed"


def test_pipelines_of_himl_and_of_its_own_are_read_by_both(hear: Hear, visits: Visits, tmp_path: Path) -> None:
    piped = hear("pipeline")
    said = piped.said["himl"]
    assert (said["status"], said["type"], said["jobs"], said["name"]) == (
        "Completed",
        "pipeline",
        ["step1", "step2"],
        "both",
    )
    assert said["tags"] == {"k": "v", "run_recovery_id": f"piped:{visits['pipeline'][0].variables['LAB_PIPELINE']}"}
    assert said["children"] == dict.fromkeys(PIPELINE_STEPS, "Completed")
    assert "sum 6" in said["files"]["step2 reads"]["artifacts/user_logs/std_log.txt"]
    own = piped.said["own"]
    assert own["status"] == "Completed", piped.said["log"]
    assert "Execution Summary" in piped.said["log"]
    assert piped.azure.get_blob("workspaceblobstore", f"azureml/{piped.said['id']}/all/word.txt") == b"hello"
    assert (sorted(own["children"]), "hello" in own["files"]["take"]["artifacts/user_logs/std_log.txt"]) == (
        ["make", "take"],
        True,
    )
    with inside(piped.azure, tmp_path / "in"), opened(piped.azure, tmp_path) as workspace:
        run = workspace.run(piped.said["id"])
        steps = {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run.id))}
    assert (run.status, run.experiment) == (RunStatus.completed, "of_the_sdk")
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == {"make": None, "take": "make"}


def test_it_asks_for_the_hash_of_himls_code_and_finds_it(
    hear: Hear, visits: Visits, code: Snapshot, shared_stage: Stage, tmp_path: Path
) -> None:
    """Neither uploads the code that the other has uploaded."""
    after, before = hear("code after himl"), hear("code before himl")
    name = after.azure.state.name
    (asked,) = shared_stage.log.find(rf"GET [^ ]*/{name}/codes/[^ ]*hash=")
    assert parse_qs(asked.query)["hash"] == [fingerprint(code)[0]]
    assert parse_qs(asked.query)["hashVersion"] == ["202208"]
    assert not shared_stage.log.find(f"/{name}/.*startPendingUpload")
    for number, heard in enumerate((after, before)):
        with inside(heard.azure, tmp_path / str(number)), connected(heard.azure, tmp_path / str(number)) as connection:
            seen = len(shared_stage.log.find(rf"management\.azure\.com.*/{heard.azure.state.name}/"))
            ours = ensured(connection, code, ignore)
        assert (ours.id.lower(), ours.is_cached) == (heard.said.lower(), True)
        assert len(shared_stage.log.find(rf"management\.azure\.com.*/{heard.azure.state.name}/")) - seen == 1
