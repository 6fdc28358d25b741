"""Options of `submit` from settings files and variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.running import Himl, write_files


@pytest.fixture(autouse=True)
def script(project: Path) -> None:
    write_files(project, {"train.py": "import sys; print(sys.argv[1:])"})


def experiment_of(himl: Himl, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The experiment under which a run that is submitted so is recorded."""
    himl.ok("submit", *arguments, env=env)
    experiment: str = himl.ok("runs", "list", "--json").json()[0]["experiment"]
    return experiment


def test_flag_beats_variable_beats_private_beats_shared_settings(himl: Himl, project: Path) -> None:
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
        ("[submit]\nnum_nodes = 'two'\n", "line 2: 'num_nodes' must be a number, not 'two'."),
        ("[submit]\ndocker_args = [{a = 1}]\n", "line 2: 'docker_args' must hold plain values, not {'a': 1}."),
        ("[submit]\nno_mpi_single_node = 1\n", "line 2: 'no_mpi_single_node' must be true or false, not 1."),
        ("[submit]\nexperiment = 3\n", "line 2: 'experiment' must be text, not 3."),
        ("[submit]\nmax_run_duration = 30\n", "line 2: 'max_run_duration' must be text, not 30."),
        ("[azure]\ntenant = 'x'\n", "line 2: 'tenant' is not known."),
        ("[azure]\ntenant_id = 3\n", "line 2: 'tenant_id' must be text."),
        ("[azure]\nservice_principal_password = 'x'\n", "line 2: 'service_principal_password' is a secret"),
    ],
)
def test_a_wrong_setting_is_named_with_file_line_and_key(himl: Himl, project: Path, content: str, said: str) -> None:
    write_files(project, {"himl.toml": content})
    outcome = himl("submit", "train.py")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr.splitlines()[0]
    assert str(project / "himl.toml") in outcome.stderr.splitlines()[0]
    assert not (project / ".himl").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("tag = 'x'", "--tag takes KEY=VALUE"),
        ("max_run_duration = '30'", "--max_run_duration '30' is no duration."),
        ("num_nodes = 0", "--num_nodes 0: at least 1 is needed."),
        ("processes_per_node = 1025", "--processes_per_node can be 1,024 at most, not 1,025."),
    ],
)
def test_invalid_setting_of_right_type_is_reported_with_source(himl: Himl, project: Path, content: str, complaint: str) -> None:
    write_files(project, {"himl.toml": f"[submit]\n{content}\n"})
    outcome = himl("submit", "train.py")
    said = outcome.stderr.splitlines()[0]
    assert (outcome.code, complaint in said, said.endswith(f"is set by {project / 'himl.toml'}:2.")) == (2, True, True)
    name = content.partition(" ")[0]
    outcome = himl("submit", "train.py", env={f"HIML_SUBMIT_{name.upper()}": content.partition("= ")[2].strip("'")})
    assert outcome.stderr.splitlines()[0].endswith(f"is set by HIML_SUBMIT_{name.upper()}.")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("NUM_NODES", "abc", "not a valid int"), ("WAIT", "maybe", "must be true or false"), ("IN_PLACE", "2", "must be true or false")],
)
def test_a_variable_of_a_wrong_type_is_named(himl: Himl, name: str, value: str, complaint: str) -> None:
    outcome = himl("submit", "train.py", env={f"HIML_SUBMIT_{name}": value})
    said = outcome.stderr.splitlines()[0]
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said.startswith(f"error: The variable HIML_SUBMIT_{name} cannot be '{value}': ")
    assert complaint in said


@pytest.mark.parametrize("content", ["tenant = 'x'", "cloud = 'Mars'"])
def test_the_settings_of_azure_are_checked_by_a_dry_run_too(himl: Himl, project: Path, content: str) -> None:
    write_files(project, {"himl.toml": f"[azure]\n{content}\n", "environment.yml": "name: x\ndependencies:\n- python=3.11\n"})
    outcome = himl("submit", "train.py", "--cluster", "gpu", "--dry_run")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"'{project / 'himl.toml'}', line 2: " in outcome.stderr


def test_script_arguments_pass_untouched(himl: Himl) -> None:
    odd = ["--epochs", "5", "two words", 'quo"te', "--", "--experiment", "x", "", "--json"]
    assert himl.ok("submit", "train.py", "--", *odd).stdout == f"{odd!r}\n"


def test_every_option_can_be_set_in_a_file_and_by_a_variable(himl: Himl, project: Path) -> None:
    """Whatever `--show_settings` lists, but for what is about the command line itself."""
    shown = himl.ok("submit", "--show_settings", "--json").json()
    options = {row["option"] for row in shown if not row["option"].startswith("azure.")} - {"json", "quiet", "module", "show_settings"}
    switches = {row["option"] for row in shown if row["value"] == "false"} | {"wait"}
    numbers = {"num_nodes", "processes_per_node", "max_trials", "max_concurrent", "crossval", "different_seeds"}
    pairs = {"tag", "env_var"}
    known = {"format": "json", "workspace": None, "config_file": None}
    assert {"cluster", "identity", "conda_env", "docker_args", "private_wheel", "sdk", "dry_run", "record_in", "build_number"} <= options
    values: dict[str, str] = {}
    for name in sorted(options):
        value = known.get(name, "a=b" if name in pairs else "x")
        if value is not None:
            values[name] = "true" if name in switches else "3" if name in numbers else value
    lines = [f"{name} = {value if name in switches | numbers else repr(value)}" for name, value in values.items()]
    write_files(project, {"himl.toml": "\n".join(["[submit]", *lines])})
    rows = {row["option"]: row for row in himl.ok("submit", "--show_settings").json()}
    assert {name: rows[name]["value"] for name in values} == values
    assert {rows[name]["source"].rpartition(":")[0] for name in values} == {str(project / "himl.toml")}
    env = {f"HIML_SUBMIT_{name.upper()}": value for name, value in values.items()}
    rows = {row["option"]: row for row in himl.ok("submit", "--show_settings", env=env).json()}
    assert {name: rows[name]["source"] for name in values} == {name: f"HIML_SUBMIT_{name.upper()}" for name in values}


@pytest.mark.parametrize(("file", "code"), [("himl.toml", 2), ("himl.private.toml", 0)])
def test_a_link_that_may_be_signed_belongs_in_the_private_file(himl: Himl, project: Path, file: str, code: int) -> None:
    write_files(project, {file: '[submit]\ncheckpoint = "https://example.org/a.ckpt?sig=hush"\n'})
    outcome = himl("submit", "train.py", "--show_settings")
    assert (outcome.code, "It belongs in himl.private.toml" in outcome.stderr, "hush" in outcome.stderr + outcome.stdout) == (code, code == 2, False)


def test_a_variable_of_no_option_is_refused_with_the_nearest(himl: Himl) -> None:
    outcome = himl("submit", "train.py", env={"HIML_SUBMIT_CLUSTR": "gpu"})
    assert (outcome.code, outcome.stderr.splitlines()) == (
        2,
        ["error: The variable HIML_SUBMIT_CLUSTR sets no option of 'himl submit'.", "hint: Did you mean HIML_SUBMIT_CLUSTER?"],
    )
    assert "Did you mean HIML_SUBMIT_EXPERIMENT?" in himl("submit", "train.py", env={"HIML_SUBMIT_EXPERIMENT_NAME": "x"}).stderr
    assert himl.ok("submit", "train.py", env={"HIML_SUBMIT_CLUSTR": ""}).stdout == "[]\n"


def test_a_variable_holds_one_value_a_line(himl: Himl) -> None:
    himl.ok("submit", "train.py", env={"HIML_SUBMIT_TAG": "note=two words\nteam=blue\n"})
    tags = himl.ok("runs", "list", "--json").json()[0]["tags"]
    assert (tags["note"], tags["team"]) == ("two words", "blue")


def test_the_settings_of_azure_are_shown_and_secrets_are_masked(himl: Himl, project: Path) -> None:
    config = {"subscription_id": "12345678-1234-1234-1234-123456789abc", "resource_group": "group", "workspace_name": "lab"}
    private = "[azure]\ntenant_id = 'from-file'\nservice_principal_password = 'marked-secret'\n"
    write_files(project, {"config.json": json.dumps(config), "himl.private.toml": private})
    index = "https://ada:marked-secret@pypi.example.org/simple"
    env = {"HIML_TENANT_ID": "from-variable", "HIML_EXPERIMENT_NAME": "exp"}
    options = ("--pip_extra_index_url", index, "--env_var", "DB_PASSWORD=marked-secret", "--docker_args", "-e TOKEN=marked-secret")
    outcome = himl.ok("submit", "--show_settings", "--json", *options, env=env)
    assert "marked-secret" not in outcome.stdout
    rows = {row["option"]: (row["value"], row["source"]) for row in outcome.json()}
    assert rows["azure.workspace_name"] == ("lab", str(project / "config.json"))
    assert rows["azure.tenant_id"] == ("from-variable", "HIML_TENANT_ID")
    assert rows["azure.service_principal_password"] == ("***", f"{project / 'himl.private.toml'}:3")
    assert rows["azure.service_principal_id"] == ("", "default")
    assert rows["experiment"] == ("exp", "HIML_EXPERIMENT_NAME")
    assert rows["pip_extra_index_url"] == ("https://***@pypi.example.org/simple", "command line")


def test_secrets_in_docker_args_are_masked_and_rest_is_shown(himl: Himl, project: Path) -> None:
    write_files(project, {"environment.yml": "name: x\ndependencies:\n- python=3.11\n"})
    options = ("--docker_args", "-e STORAGE_KEY=hunter2 --password hunter8 --gpus all", "--env_var", "STORAGE_KEY=hunter2")
    rows = {row["option"]: row["value"] for row in himl.ok("submit", "--show_settings", "--json", *options).json()}
    assert (rows["docker_args"], rows["env_var"]) == ("-e STORAGE_KEY=*** --password *** --gpus all", "STORAGE_KEY=***")
    dry = himl.ok("submit", "train.py", "--cluster", "gpu", "--dry_run", *options, "--", "--wandb-key", "hunter9")
    assert "-e STORAGE_KEY=*** --password *** --gpus all" in dry.stdout
    assert "hunter" not in dry.stdout + dry.stderr


def test_of_follow_and_no_wait_the_one_that_is_typed_counts(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\nwait = false\n"})
    assert himl.ok("submit", "train.py", "--follow").stdout == "[]\n"
    write_files(project, {"himl.toml": "[submit]\nfollow = true\n"})
    run_id = himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip()
    assert himl.ok("runs", "logs", "--follow", run_id).stdout == "[]\n"
    write_files(project, {"himl.toml": "[submit]\nfollow = true\nwait = false\n"})
    assert "--follow and --no_wait exclude each other" in himl("submit", "train.py").stderr
