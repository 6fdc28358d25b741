"""A requirements file as an environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.environment import choose_environment
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def dependencies(project: Path, env: dict[str, str] | None = None, script_folder: Path | None = None) -> Any:
    spec = choose_environment(SubmitRequest(cwd=project, requirements="requirements.txt"), script_folder or project, project, env or {})[0]
    content = yaml.safe_load(spec.conda)
    assert content["channels"] == ["conda-forge"]
    return content["dependencies"]


def refused(project: Path) -> str:
    with pytest.raises(BadUsage) as caught:
        dependencies(project)
    return str(caught.value)


def test_comments_continued_lines_options_and_included_files(project: Path) -> None:
    write_files(
        project,
        {
            "requirements.txt": "# all\n-r more/base.txt\ntorch==2.0  # pinned\n\nnumpy \\\n  >=1.26\n--extra-index-url=https://a.example/simple\n",
            "more/base.txt": "-r../last.txt\ntqdm\n",
            "last.txt": "rich#no-comment\n",
        },
    )
    pip = ["--extra-index-url https://a.example/simple", "numpy >=1.26", "rich#no-comment", "torch==2.0", "tqdm"]
    assert dependencies(project) == ["pip", f"python={OWN}", {"pip": pip}]


def test_the_python_version_is_the_project_s(project: Path, tmp_path: Path) -> None:
    write_files(project, {"requirements.txt": "torch", "a/train.py": ""})
    write_files(tmp_path, {"venv/pyvenv.cfg": "home = /usr\nversion = 3.12.1\n", "conda/conda-meta/python-3.10.4-h1.json": "{}"})
    assert dependencies(project, {"CONDA_PREFIX": str(tmp_path / "conda")})[1] == "python=3.10"
    assert dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "venv"), "CONDA_PREFIX": str(tmp_path / "conda")})[1] == "python=3.12"
    write_files(project, {".python-version": "3.13.2\n"})
    assert dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "venv")}, project / "a")[1] == "python=3.13"


def test_environments_without_a_version_are_passed_over(project: Path, tmp_path: Path) -> None:
    write_files(project, {"requirements.txt": "torch", ".python-version": "pypy\n"})
    assert dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "gone")})[1] == f"python={OWN}"


def test_files_that_include_each_other(project: Path) -> None:
    write_files(project, {"requirements.txt": "-r a.txt", "a.txt": "-r requirements.txt"})
    assert "which includes it" in refused(project)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("-c constraints.txt", "'-c constraints.txt' cannot be sent"),
        ("--constraint=constraints.txt", "cannot be sent"),
        ("-e .", "path on this machine"),
        ("./local", "path on this machine"),
        ("mine-1-py3-none-any.whl", "path on this machine"),
        ("mine @ file:///home/me", "path on this machine"),
        ("--find-links wheels", "path on this machine"),
        ("-r nowhere.txt", "there is no file"),
    ],
)
def test_what_cannot_be_used_elsewhere_is_named_with_its_line(project: Path, line: str, complaint: str) -> None:
    write_files(project, {"requirements.txt": f"torch\n{line}\n"})
    message = refused(project)
    assert "line 2" in message
    assert complaint in message


def test_a_file_that_is_not_there(project: Path) -> None:
    assert "--requirements: there is no file" in refused(project)


def test_a_file_of_powershell(project: Path) -> None:
    (project / "requirements.txt").write_text("torch\n", encoding="utf-16")
    assert dependencies(project)[-1] == {"pip": ["torch"]}
