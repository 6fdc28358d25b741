"""A script that could submit itself, inside a job: of Azure ML, and of himl here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.scripts import run_script, said, write_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

HEAVY = ("azure", "azureml", "yaml", "pycurl", "requests", "msgspec", "rich", "typer", "mlflow", "msal", "pathspec")
CALL = 'compute_cluster_name="gpu", input_datasets=["a", DatasetConfig("b", local_folder="here")], output_datasets=["c"], submit_to_azureml=True'
ALL = """
say(
    inputs=info.input_datasets, outputs=info.output_datasets, azure=info.is_running_in_azure_ml, out=info.output_folder, logs=info.logs_folder,
    has_run=info.run is not None, heavy=sorted({name.split(".")[0] for name in sys.modules} & set(HEAVY)), cwd=Path.cwd(), made=Path("outputs").is_dir(),
)
""".replace("HEAVY", repr(HEAVY))


@pytest.fixture
def job(azure: StagedWorkspace) -> dict[str, str]:
    """The variables of a job in Azure ML with two inputs and an output."""
    run = azure.add_run("train_1_aa", "train", status="Running")
    data = {"AZURE_ML_INPUT_INPUT_0": "/data/a", "AZURE_ML_INPUT_INPUT_1": "/data/b", "AZURE_ML_OUTPUT_OUTPUT_0": "/data/c"}
    return azure.job_environment(run) | data


def test_a_job_gets_its_own_paths_at_no_cost(azure: StagedWorkspace, job: dict[str, str], project: Path) -> None:
    found = said(write_script(project, "train.py", CALL, ALL), env=job, is_started=True)
    assert found == {
        "inputs": ["/data/a", "/data/b"],
        "outputs": ["/data/c"],
        "azure": True,
        "out": "outputs",
        "logs": "logs",
        "has_run": True,
        "heavy": [],
        "cwd": str(project),
        "made": True,
    }
    assert azure.requests() == []


@pytest.mark.parametrize("name", ["AZUREML_DATAREFERENCE_INPUT_0", "INPUT_0"])
def test_jobs_of_the_older_sdk_are_understood(job: dict[str, str], project: Path, name: str) -> None:
    variables = {**job, "AZURE_ML_INPUT_INPUT_0": "", name: "/v1/a"}
    assert said(write_script(project, "train.py", CALL, ALL), env=variables)["inputs"] == ["/v1/a", "/data/b"]


def test_datasets_are_found_by_all_service_variable_names(job: dict[str, str], project: Path) -> None:
    """The exact key first, then the key in upper case, then the older SDK's; no variable that is somebody else's."""
    (project / "look.py").write_text(
        "import json\nfrom himl_cli.job import inputs, outputs\n"
        "found = [str(inputs().get(key)) for key in ('seen', 'Mixed', 'referred', 'old', 'older', 'HOME', 'LANG')]\n"
        "print(json.dumps({'found': found, 'inputs': list(inputs()), 'outputs': {key: str(path) for key, path in outputs().items()}}))\n"
    )
    variables = {
        "AZURE_ML_INPUT_seen": "/exact",
        "AZURE_ML_INPUT_SEEN": "/upper",
        "AZURE_ML_INPUT_MIXED": "/mixed",
        "AZUREML_DATAREFERENCE_referred": "/referred",
        "AZUREML_DATASET_ENVIRONMENT_VARS": "old:mount,older:download",
        "old": "/old",
        "older": "/older",
        "LANG": "C",
        "AZUREML_DATASET_FILE_OUTPUTS": "made;more/",
        "made": "/made",
        "more": "/more",
    }
    found = said(project / "look.py", env=job | variables)
    assert found["found"] == ["/exact", "/mixed", "/referred", "/old", "/older", "None", "None"]
    assert found["inputs"] == ["INPUT_0", "INPUT_1", "MIXED", "old", "older", "seen"]
    assert found["outputs"] == {"OUTPUT_0": "/data/c", "made": "/made", "more": "/more"}


def test_dataset_missing_from_submission_has_no_path(job: dict[str, str], project: Path) -> None:
    script = write_script(project, "train.py", 'input_datasets=["a", "b", "extra"]', "say(inputs=info.input_datasets)")
    done = run_script(script, env=job)
    assert json.loads(done.stdout)["inputs"] == ["/data/a", "/data/b", None]
    assert "submitted without the input dataset 'extra'" in done.stderr


def test_several_nodes_get_the_variables_of_pytorch(job: dict[str, str], project: Path) -> None:
    after = "import os\nsay(**{name: os.environ.get(name) for name in ('MASTER_ADDR', 'MASTER_PORT', 'NODE_RANK')})"
    script = write_script(project, "train.py", "num_nodes=2", after)
    found = said(script, env={**job, "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000", "OMPI_COMM_WORLD_RANK": "1"})
    assert found == {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6000", "NODE_RANK": "1"}


def test_a_job_here_gets_the_paths_that_it_was_submitted_with(himl: Himl, project: Path) -> None:
    write_files(project, {"data/a/x": "1"})
    write_script(project, "train.py", CALL.replace(", submit_to_azureml=True", ""), ALL)
    out = himl.ok("submit", "train.py", "--input", "a,local=data/a", "--output", f"c,local={project / 'made'}").stdout
    found = json.loads(out.splitlines()[-1])
    assert found["inputs"] == [str(project / "data" / "a"), None]
    assert (found["outputs"], found["azure"], found["has_run"], found["heavy"]) == ([str(project / "made")], False, True, [])
    assert (found["out"], found["logs"], found["made"]) == ("outputs", "logs", True)


def test_a_job_here_does_not_send_itself(himl: Himl, project: Path) -> None:
    write_script(project, "train.py", 'compute_cluster_name="gpu"', "say(azure=info.is_running_in_azure_ml)")
    out = himl.ok("submit", "train.py", "--", "--azureml").stdout
    assert "The script runs in a job of himl already, and is not sent to Azure ML." in out
    assert json.loads(out.splitlines()[-1]) == {"azure": False}


PARSED = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
say(epochs=parser.parse_args().epochs, arguments=sys.argv[1:])
"""


def test_the_flag_is_taken_out_of_what_the_script_sees_here(himl: Himl, project: Path) -> None:
    """hi-ml: nobody's parser has to know it."""
    write_script(project, "train.py", 'compute_cluster_name="gpu"', PARSED)
    out = himl.ok("submit", "train.py", "--", "--epochs", "3", "--azureml").stdout
    assert json.loads(out.splitlines()[-1]) == {"epochs": 3, "arguments": ["--epochs", "3"]}


def test_the_flag_is_taken_out_of_what_the_script_sees_in_azure(job: dict[str, str], project: Path) -> None:
    script = write_script(project, "train.py", "", PARSED)
    assert said(script, "--azureml", "--epochs", "3", env=job) == {"epochs": 3, "arguments": ["--epochs", "3"]}


def test_a_job_of_himl_within_a_job_of_azure_is_none_of_azure(himl: Himl, job: dict[str, str], project: Path) -> None:
    (project / "look.py").write_text("import himl_cli; print(himl_cli.is_running_in_azure_ml())")
    assert himl.ok("submit", "look.py", "--workspace", "local", env=job).stdout == "False\n"


def test_what_is_written_to_the_folders_is_kept_with_the_run(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_script(project, "train.py", "", "(info.output_folder / 'model.txt').write_text('m')\n(info.logs_folder / 'log.txt').write_text('l')")
    run_id = himl.ok("submit", "train.py", "-q").stdout.strip()
    himl.ok("download", run_id, "--flat", "--output_dir", tmp_path / "got")
    assert (tmp_path / "got" / "outputs" / "model.txt").read_text() == "m"
    assert (tmp_path / "got" / "logs" / "log.txt").read_text() == "l"


def test_data_by_its_keys(himl: Himl, project: Path) -> None:
    write_files(project, {"data/x": "1"})
    (project / "look.py").write_text(
        "from himl_cli.job import inputs, outputs\n"
        "print(sorted(inputs()), sorted(outputs()), len(inputs()), 'b' in inputs(), (inputs()['a'] / 'x').read_text(), outputs().get('d'))\n"
        "(outputs()['c'] / 'y').write_text('2')\n"
        "inputs()['b']\n"
    )
    done = himl("submit", "look.py", "--input", "a=n,local=data", "--output", f"c=n,local={project / 'made'}")
    assert "['a'] ['c'] 1 False 1 None" in done.stdout
    assert "NoSuchData: No input 'b'; there are: a." in done.stdout
    assert (project / "made" / "y").read_text() == "2"
