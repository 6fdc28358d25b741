"""Options and settings of `himl submit` for a job that runs here: where it goes, what they set, and what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.support.running import Himl, write_files
from tests.support.runs import latest
from tests.support.terminals import Terminal


def test_an_empty_target_is_nothing_to_run(himl: Himl) -> None:
    outcome = himl("submit", "")
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: Nothing to run.")


def test_options_that_do_nothing_are_said(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl.ok("submit", "train.py", "--in_place", "--ignored_folders", "data", "--distribution", "mpi")
    assert "nothing is copied: --ignored_folders." in outcome.stderr
    assert "one plain process: --distribution." in outcome.stderr


@pytest.mark.parametrize("argument", ["${{inputs.a-b}}", "x${{ outputs.data }}", "${{inputs.ä}}"])
def test_placeholder_of_unknown_data_is_refused_for_any_name(himl: Himl, project: Path, argument: str) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl("submit", "train.py", "--", argument)
    assert (outcome.code, "names no" in outcome.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothere.py"], "There is no script 'nothere.py'"),
        (["lib"], "'lib' is a folder"),
        (["train.py", "--tag", "novalue"], "--tag takes KEY=VALUE"),
        (["train.py", "--env_var", "=x"], "--env_var takes KEY=VALUE"),
        (["train.py", "--input", "1x=y"], "cannot be a key"),
        ([], "Nothing to run"),
        (["train.py", "-m", "lib"], "both given"),
    ],
)
def test_bad_input_is_one_line_a_hint_and_nothing_made(himl: Himl, project: Path, arguments: list[str], message: str) -> None:
    write_files(project, {"train.py": "", "lib/net.py": ""})
    outcome = himl("submit", *arguments)
    lines = outcome.stderr.strip().splitlines()
    assert (outcome.code, message in lines[0], len(lines)) == (2, True, 2), outcome.stderr
    assert sorted(path.name for path in project.iterdir()) == ["lib", "train.py"]


def test_what_holds_on_azure_only_is_said(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "data/x.txt": "1"})
    talk = himl.ok("submit", "train.py", "--input", "a=mnist:3,target=/data,local=data").stderr
    assert "target=/data" in talk
    assert str(project / "data") in talk


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--input", "nowhere"], "no folder 'nowhere'", 3),
        (["--input", "x,local=nowhere"], "'nowhere' does not exist", 3),
        (["--output", "x,local=full,overwrite=false"], "overwrite=false", 2),
        (["--output", "a/../../x"], "leaves the datastore", 2),
        (["--default_datastore", "nope"], "No datastore 'nope'", 3),
        (["--", "${{inputs.train}}"], "names no input", 2),
    ],
)
def test_data_that_cannot_be_had_is_named_and_nothing_is_made(himl: Himl, project: Path, arguments: list[str], message: str, code: int) -> None:
    write_files(project, {"train.py": "", "full/x": ""})
    outcome = himl("submit", "train.py", *arguments)
    assert (outcome.code, message in outcome.stderr) == (code, True), outcome.stderr
    assert sorted(path.name for path in project.iterdir()) == ["full", "train.py"]


def test_a_cluster_without_azure_makes_nothing(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl("submit", "train.py", "--cluster", "gpu")
    assert outcome.code == 2
    assert len(outcome.stderr.strip().splitlines()) == 2
    assert "config.json" in outcome.stderr
    assert "Without --cluster jobs run here" in outcome.stderr
    assert [path.name for path in project.iterdir()] == ["train.py"]


def test_cluster_local_runs_here_whatever_the_settings_say(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('here')", "himl.toml": '[submit]\ncluster = "gpu"\n'})
    assert himl("submit", "train.py").code == 2
    assert himl.ok("submit", "train.py", "--cluster", "local").stdout == "here\n"


def test_the_workspace_stands_beside_an_azure_config(himl: Himl, project: Path) -> None:
    keys = dict.fromkeys(["subscription_id", "resource_group", "workspace_name"], "x")
    write_files(project, {"config.json": json.dumps(keys), "deep/er/train.py": "", "deep/config.json": "{}"})
    himl.ok("submit", "train.py", cwd=project / "deep" / "er")
    assert (project / ".himl" / "workspace.db").is_file()


def test_a_workspace_can_be_named(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py", "--workspace", tmp_path / "lab")
    assert (tmp_path / "lab" / ".himl" / "workspace.db").is_file()
    assert not (project / ".himl").exists()


@pytest.mark.parametrize("option", ["--snapshot-root", "--snapshot_root"])
def test_hyphens_and_underscores_are_alike(himl: Himl, project: Path, option: str) -> None:
    write_files(project, {"a/train.py": "import os; print(sorted(os.listdir()))", "pyproject.toml": ""})
    assert himl.ok("submit", "a/train.py", option, "a").stdout == "['logs', 'outputs', 'train.py']\n"


def test_settings_set_options_and_flags_win(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "himl.toml": '[submit]\nexperiment = "from_file"\ndisplay_name = "file"\n'})
    himl.ok("submit", "train.py", "--display_name", "flag", env={"HIML_SUBMIT_DESCRIPTION": "variable"})
    run = latest(himl)
    assert (run["experiment"], run["display_name"], run["description"]) == ("from_file", "flag", "variable")


def test_hi_ml_s_variable_names_the_experiment(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py", env={"HIML_EXPERIMENT_NAME": "from variable"})
    assert latest(himl)["experiment"] == "from_variable"


@pytest.mark.skipif(os.name == "nt", reason="terminals are another matter on Windows")
def test_a_narrow_terminal_shows_settings_in_full(himl: Himl, project: Path) -> None:
    text = "".join(f"word-{number}-" for number in range(30))
    terminal = Terminal([str(himl.program), "submit", "--show_settings", "--description", text], cwd=project, columns=70)
    assert terminal.finish() == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.screen)
    row = shown[shown.index("\ndescription") : shown.index("\ndifferent_seeds")].strip()
    assert "".join(line.removeprefix("description").strip().split("  ")[0] for line in row.splitlines()) == text
    assert "…" not in shown


def test_show_settings_prints_sources_and_masks_secrets(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": '# lab\n[submit]\nexperiment = "from_file"\n'})
    outcome = himl.ok("submit", "--show_settings", "--json", "--env_var", "API_TOKEN=marked", "--env_var", "N=1", env={"HIML_SUBMIT_DESCRIPTION": "words"})
    shown = {row["option"]: (row["value"], row["source"]) for row in outcome.json()}
    assert shown["experiment"] == ("from_file", f"{project / 'himl.toml'}:3")
    assert shown["description"] == ("words", "HIML_SUBMIT_DESCRIPTION")
    assert shown["env_var"] == ("API_TOKEN=***, N=1", "command line")
    assert shown["num_nodes"] == ("1", "default")
    assert [path.name for path in project.iterdir()] == ["himl.toml"]
