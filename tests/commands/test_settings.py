"""Options of `submit` from settings files and variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import Himl, write_files


@pytest.fixture(autouse=True)
def script(project: Path) -> None:
    write_files(project, {"train.py": "import sys; print(sys.argv[1:])"})


def experiment_of(himl: Himl, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The experiment under which a run that is submitted so is recorded."""
    himl.ok("submit", *arguments, env=env)
    experiment: str = himl.ok("runs", "list", "--json").json()[0]["experiment"]
    return experiment


def test_flags_win_over_variables_over_private_over_shared_settings(himl: Himl, project: Path) -> None:
    assert experiment_of(himl, "train.py") == "train"
    write_files(project, {"pyproject.toml": "[tool.himl.submit]\nexperiment = 'from_pyproject'\n"})
    assert experiment_of(himl, "train.py") == "from_pyproject"
    write_files(project, {"himl.toml": "[submit]\nexperiment = 'from_toml'\n"})
    assert experiment_of(himl, "train.py") == "from_toml"
    write_files(project, {"himl.private.toml": "[submit]\nexperiment = 'from_private'\n"})
    assert experiment_of(himl, "train.py") == "from_private"
    variable = {"HIML_SUBMIT_EXPERIMENT": "from_variable"}
    assert experiment_of(himl, "train.py", env=variable) == "from_variable"
    assert experiment_of(himl, "train.py", "--experiment", "from_flag", env=variable) == "from_flag"


def test_keys_may_be_spelled_with_dashes_and_old_names(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\nexperiment_name = 'old'\ndisplay-name = 'shown'\n"})
    assert experiment_of(himl, "train.py") == "old"
    assert himl.ok("runs", "list", "--json").json()[0]["display_name"] == "shown"


def test_lists_and_tables_set_repeated_options(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\n[submit.tag]\nteam = 'blue'\nyear = 2026\n"})
    himl.ok("submit", "train.py")
    tags = himl.ok("runs", "list", "--json").json()[0]["tags"]
    assert (tags["team"], tags["year"]) == ("blue", "2026")


def test_settings_come_from_where_the_command_is_given(himl: Himl, project: Path) -> None:
    write_files(project, {"a/himl.toml": "[submit]\nexperiment = 'near'\n", "a/b/train.py": ""})
    himl.ok("submit", "train.py", cwd=project / "a" / "b")
    assert himl.ok("runs", "list", "--json", cwd=project / "a" / "b").json()[0]["experiment"] == "near"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[submit]\nexperimnt = 'x'\n", "line 2: 'experimnt' is no option of 'himl submit'."),
        ("[submit]\n\nwait = 'yes'\n", "line 3: 'wait' must be true or false, not 'yes'."),
        ("[submit]\nprocesses_per_node = 'two'\n", "line 2: 'processes_per_node' must be a number, not 'two'."),
        ("[submit]\nprocesses_per_node = 1.5\n", "line 2: 'processes_per_node' cannot be 1.5"),
        ("[submit]\nexperiment = ['a', 'b']\n", "line 2: 'experiment' must be one value, not ['a', 'b']."),
        ("[submit]\nexperiment = true\n", "line 2: 'experiment' must be one value, not True."),
        ("[submit]\ntag = [['a']]\n", "line 2: 'tag' must hold plain values, not ['a']."),
        ("[submit]\nformat = 'xml'\n", "line 2: 'format' cannot be 'xml'"),
        ("[submit]\ncluster = gpu\n", "line 2 (key 'cluster')"),
        ("[sumbit]\ncluster = 'gpu'\n", "line 1: 'sumbit' is not known."),
    ],
)
def test_a_wrong_setting_is_named_with_file_line_and_key(himl: Himl, project: Path, content: str, said: str) -> None:
    write_files(project, {"himl.toml": content})
    outcome = himl("submit", "train.py")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr.splitlines()[0]
    assert str(project / "himl.toml") in outcome.stderr.splitlines()[0]
    assert not (project / ".himl").exists()


def test_script_arguments_pass_untouched(himl: Himl) -> None:
    odd = ["--epochs", "5", "two words", 'quo"te', "--", "--experiment", "x", "", "--json"]
    assert himl.ok("submit", "train.py", "--", *odd).stdout == f"{odd!r}\n"
