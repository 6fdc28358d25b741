"""Tests of the messages about an environment before it is submitted: MLflow and azureml-mlflow, services, and Python
versions.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.services.submission.environment_checks import GOOD_FOR_MODELS, GOOD_PAIR, environment_remarks
from tests.support.running import write_files

OWN_IMAGE = "mcr.microsoft.com/azureml/openmpi"
GOOD = f"Use mlflow=={GOOD_PAIR[0]} and azureml-mlflow=={GOOD_PAIR[1]}."
LOGS_MODELS = "import mlflow\nmlflow.sklearn.log_model(model, name='model')\n"


def environment(*pip: str, conda: tuple[str, ...] = ("python=3.11",), image: str = OWN_IMAGE) -> EnvironmentSpec:
    return EnvironmentSpec(image=image, conda=yaml.safe_dump({"dependencies": [*conda, "pip", {"pip": [*pip]}]}))


@pytest.mark.parametrize(("mlflow", "plugin", "problem"), [
    ("mlflow", "azureml-mlflow", "log_artifact will fail"),  # pip installs 3.17.2 with 1.60.0
    ("mlflow==3.17.2", "azureml-mlflow>=1.57", "log_artifact will fail"),
    ("mlflow-skinny==3.2.0", "azureml-mlflow==1.60.0", "log_artifact will fail"),
    (f"mlflow==3.17.2 --hash=sha256:{'0' * 64}", f"azureml_mlflow==1.60.0 --hash=sha256:{'0' * 64}",
        "log_artifact will fail"),
    ("mlflow>=3.16", "azureml-mlflow>=1.61,<2", "the image cannot be built"),
    ("mlflow==3.9.0", "azureml-mlflow==1.61.0", "the image cannot be built"),
    ("mlflow>=3", "azureml-mlflow==1.60.0.post1", "the image cannot be built"),
    ("mlflow==3.15.0", "azureml-mlflow==1.62.0.post6", ""),
    ("mlflow==3.15.0", "azureml-mlflow", ""),
    # pip chooses the newest MLflow that is compatible.
    ("mlflow", "azureml-mlflow>=1.61", ""),
    ("mlflow==3.1.1", "azureml-mlflow==1.60.0", ""),
    ("mlflow<3", "azureml-mlflow", ""),
    ("mlflow==9.0", "azureml-mlflow==9.0", ""),  # future versions are not checked
    ("mlflow; sys_platform == 'win32'", "azureml-mlflow", ""),
    ("mlflow @ https://files.example/mlflow.zip", "azureml-mlflow", ""),
    ("tqdm", "azureml-mlflow", ""),
    ("mlflow", "tqdm", ""),
])  # fmt: skip
def test_pairs_of_mlflow_and_azureml_mlflow_that_fail_are_named(mlflow: str, plugin: str, problem: str) -> None:
    said = environment_remarks(environment(mlflow, plugin), None)
    assert [problem in text and text.startswith("warning: ") and text.endswith(GOOD) for text in said] == [True] * bool(
        problem
    )
    said = (
        environment_remarks(environment(plugin, conda=(mlflow.split(" --")[0].replace("==", "="),)), None)
        if "3.17.2" in mlflow
        else said
    )
    assert bool(said) == bool(problem), "a package of conda is one, too"


def test_models_of_mlflow_3_are_not_for_azure_ml(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    for lines, code, is_said in (
        ((f"mlflow=={GOOD_PAIR[0]}", "azureml-mlflow"), LOGS_MODELS, True),
        (("azureml-mlflow",), LOGS_MODELS, True),
        ((f"mlflow=={GOOD_FOR_MODELS}", "azureml-mlflow"), LOGS_MODELS, False),
        ((f"mlflow=={GOOD_PAIR[0]}", "azureml-mlflow"), "mlflow.log_metric('loss', 1)\n", False),
        (("mlflow",), LOGS_MODELS, False),
    ):
        script.write_text(code)
        said = environment_remarks(environment(*lines), script)
        assert [text.endswith(f"mlflow=={GOOD_FOR_MODELS} and azureml-mlflow=={GOOD_PAIR[1]}.") for text in said] == [
            True
        ] * is_said, lines


def test_services_need_packages() -> None:
    def said(services: list[str], spec: EnvironmentSpec) -> str:
        return " ".join(environment_remarks(spec, None, (), services))

    assert "--vscode and --jupyter needs ipykernel~=6.0, but its environment has none" in said(
        ["vscode", "jupyter"], environment("tqdm")
    )
    assert "needs ipykernel~=6.0, but its environment has 7.1.0" in said(["jupyter"], environment("ipykernel==7.1.0"))
    assert not said([], environment("tqdm"))
    assert not said(["ssh_key"], environment("tqdm"))
    undecided = "needs ipykernel~=6.0, but its environment has none"
    assert undecided in said(["jupyter"], environment("ipykernel; platform_version ~= '1'"))
    for lines in ("ipykernel", "ipykernel==6.29.5", "jupyterlab>=4"):
        assert not said(["vscode", "jupyter"], environment(lines))
    assert not said(["vscode"], environment(conda=("python=3.11", "conda-forge::ipykernel=6")))
    missing = "--ssh_key needs openssh-server in its image. Without it in 'nvcr.io/x', you cannot connect."
    assert missing in said(["ssh_key"], EnvironmentSpec(image="nvcr.io/x"))
    assert not said(["ssh_key", "vscode"], EnvironmentSpec(image=OWN_IMAGE))
    assert not said(["ssh_key", "vscode"], EnvironmentSpec(name="registered"))


@pytest.mark.parametrize(("spec", "pyproject", "pinned", "words"), [
    (environment(), ">=3.12", "",
        "Python is 3.11, but 'pyproject.toml' requires >=3.12. The code may fail in the job. Write python=3.12"),
    (environment(conda=("python==3.9.18",)), ">=3.10,<3.13", "", "Python is 3.9, but 'pyproject.toml' requires"),
    (environment(), "", "3.12.4\n", "Python is 3.11, but '.python-version' requires ==3.12.*"),
    (EnvironmentSpec(name="AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu"), ">=3.9", "",
        "Python is 3.8 according to the name 'AzureML-ACPT"),
    (EnvironmentSpec(image="python:3.11.4-slim"), ">=3.12", "", "Use one with Python 3.12, or a conda file"),
    (environment(), ">=3.11", "3.11.2", ""),
    (environment(), ">=3.11.4", "", ""),
    (environment(conda=("python>=3.9",)), ">=3.12", "", ""),
    (EnvironmentSpec(name="sklearn-1.5"), ">=3.12", "3.12", ""),
    (EnvironmentSpec(image="pytorch/pytorch:2.8.0-cuda12.8"), ">=3.12", "3.12", ""),
    (environment(), "what", "pypy", ""),
])  # fmt: skip
def test_python_of_another_version_than_the_projects_is_said(
    tmp_path: Path, spec: EnvironmentSpec, pyproject: str, pinned: str, words: str
) -> None:
    write_files(
        tmp_path,
        {
            "pyproject.toml": f'[project]\nname = "x"\nrequires-python = "{pyproject}"\n',
            ".python-version": pinned,
            "src/pyproject.toml": "[",
        },
    )
    said = environment_remarks(spec, None, [tmp_path / "src", tmp_path])
    assert [words in text and text.startswith("warning: ") for text in said] == [True] * bool(words)
