"""A warning where a script imports himl_cli and its environment lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.services.submission.environment import OLDEST_PYTHON, environment_remarks

LACKS = EnvironmentSpec(image="i", conda="dependencies:\n- python=3.11\n- pip:\n  - torch\n")


def remarks(tmp_path: Path, script: str, spec: EnvironmentSpec = LACKS, name: str = "train.py") -> str:
    path = tmp_path / name
    path.write_text(script, encoding="utf-8")
    return " ".join(environment_remarks(spec, path))


@pytest.mark.parametrize(
    "script", ["import himl_cli", "from himl_cli import x", "import os, himl_cli.job as j", "def f():\n    from himl_cli.job import inputs\n"]
)
def test_an_import_anywhere_is_warned_about(tmp_path: Path, script: str) -> None:
    text = remarks(tmp_path, script)
    assert "'train.py' imports himl_cli" in text
    assert "lacks himl-cli" in text


@pytest.mark.parametrize(
    "script", ["import himl_client", "# import himl_cli", "x = 'import himl_cli'", "from .himl_cli import x", "import himl_cli (", "'\\d'"]
)
def test_no_import_no_warning(tmp_path: Path, script: str) -> None:
    assert not remarks(tmp_path, script)


@pytest.mark.parametrize("line", ["himl-cli", "himl_cli==0.1", "Himl.CLI[plot]>=1", "git+https://example.org/himl-cli.git"])
def test_an_environment_that_has_it(tmp_path: Path, line: str) -> None:
    assert not remarks(tmp_path, "import himl_cli", EnvironmentSpec(image="i", conda=f"dependencies:\n- pip:\n  - {line}\n"))
    assert not remarks(tmp_path, "import himl_cli", EnvironmentSpec(image="i", conda=LACKS.conda, wheels=(Path("himl_cli-0.1-py3-none-any.whl"),)))


@pytest.mark.parametrize(("python", "is_old"), [("=3.7.3", True), ("==3.9", True), (" = 3.9", True), ("=3.10", False), ("=3.12.1", False), (">=3.7", False)])
def test_a_python_that_himl_does_not_run_on(tmp_path: Path, python: str, is_old: bool) -> None:
    """Only where himl-cli goes into it: other scripts may run on what they like."""
    conda = f"dependencies:\n  - python{python}\n  - pip:\n    - torch\n"
    said = remarks(tmp_path, "", EnvironmentSpec(image="i", conda=f"{conda}    - himl-cli\n"))
    assert ("himl-cli needs 3.10 at least" in said) is is_old
    assert not remarks(tmp_path, "", EnvironmentSpec(image="i", conda=conda))


def test_the_oldest_python_is_the_one_that_the_project_asks_for() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={".".join(map(str, OLDEST_PYTHON))}"' in project


@pytest.mark.parametrize("spec", [EnvironmentSpec(name="registered"), EnvironmentSpec(image="alone")])
def test_of_environments_that_are_not_known_nothing_is_said(tmp_path: Path, spec: EnvironmentSpec) -> None:
    assert not remarks(tmp_path, "import himl_cli", spec)


def test_scripts_of_other_kinds(tmp_path: Path) -> None:
    assert not remarks(tmp_path, "import himl_cli", name="run.sh")
    assert not environment_remarks(LACKS, None)
    assert not environment_remarks(LACKS, tmp_path / "nowhere.py")
