"""Tests of options of `submit` from settings files and environment variables, and of `himl init`, which writes files
that do not exist.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns
from tests.support.users import ADA, BOB, as_user


@pytest.fixture
def script(project: Path) -> None:
    write_files(project, {"train.py": "import sys; print(sys.argv[1:])"})


@pytest.mark.usefixtures("script")
def test_a_wrong_setting_is_named_with_file_line_and_key(himl: Himl, project: Path) -> None:
    for content, said in [
        ("[submit]\nexperimnt = 'x'\n", "line 2: 'experimnt' is not an option of 'himl submit'."),
        ("[submit]\n\nwait = 'yes'\n", "line 3: 'wait' must be true or false, not 'yes'."),
        ("[submit]\nprocesses_per_node = 1.5\n", "line 2: 'processes_per_node' cannot be 1.5"),
        ("[submit]\nformat = 'xml'\n", "line 2: 'format' cannot be 'xml'"),
        ("[submit]\ndocker_args = [{a = 1}]\n", "line 2: 'docker_args' must hold plain values, not {'a': 1}."),
        ("[submit]\nexperiment = 3\n", "line 2: 'experiment' must be text, not 3."),
        ("[azure]\ntenant_id = 3\n", "line 2: 'tenant_id' must be text."),
        ("[azure]\nservice_principal_password = 'x'\n", "line 2: 'service_principal_password' is a secret"),
    ]:
        write_files(project, {"himl.toml": content})
        outcome = himl("submit", "train.py")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert said in outcome.stderr.splitlines()[0]
        assert str(project / "himl.toml") in outcome.stderr.splitlines()[0]
        assert not (project / ".himl").exists()
    for content, complaint in [
        ("tag = 'x'", "--tag needs KEY=VALUE"),
        ("max_run_duration = '30'", "--max_run_duration '30' is not a duration."),
        ("processes_per_node = 1025", "--processes_per_node must be at most 1,024, not 1,025."),
    ]:
        write_files(project, {"himl.toml": f"[submit]\n{content}\n"})
        outcome = himl("submit", "train.py")
        said = outcome.stderr.splitlines()[0]
        assert (outcome.code, complaint in said, said.endswith(f"is set by {project / 'himl.toml'}:2.")) == (
            2,
            True,
            True,
        )
        name = content.partition(" ")[0]
        outcome = himl("submit", "train.py", env={f"HIML_SUBMIT_{name.upper()}": content.partition("= ")[2].strip("'")})
        assert outcome.stderr.splitlines()[0].endswith(f"is set by HIML_SUBMIT_{name.upper()}.")
    for content in ["tenant = 'x'", "cloud = 'Mars'"]:
        write_files(
            project,
            {"himl.toml": f"[azure]\n{content}\n", "environment.yml": "name: x\ndependencies:\n- python=3.11\n"},
        )
        outcome = himl("submit", "train.py", "--cluster", "gpu", "--dry_run")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert f"'{project / 'himl.toml'}', line 2: " in outcome.stderr


@pytest.mark.usefixtures("script")
def test_every_option_can_be_set_in_a_file_and_by_a_variable(himl: Himl, project: Path) -> None:
    shown = himl.ok("submit", "--show_settings", "--json").json()
    options = {row["option"] for row in shown if not row["option"].startswith("azure.")} - {
        "json",
        "quiet",
        "module",
        "show_settings",
    }
    switches = {row["option"] for row in shown if row["value"] == "false"} | {"wait"}
    numbers = {
        "num_nodes",
        "processes_per_node",
        "retries",
        "max_trials",
        "max_concurrent",
        "max_failures",
        "crossval",
        "different_seeds",
        "gpus",
    }
    pairs = {"tag", "env_var", "set"}
    known = {"format": "json", "workspace": None, "config_file": None}
    assert {
        "cluster",
        "identity",
        "conda_env",
        "docker_args",
        "private_wheel",
        "sdk",
        "dry_run",
        "record_in",
        "build_number",
    } <= options
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


@pytest.mark.usefixtures("script")
def test_the_settings_of_azure_are_shown_and_secrets_are_masked(himl: Himl, project: Path) -> None:
    config = {
        "subscription_id": "12345678-1234-1234-1234-123456789abc",
        "resource_group": "group",
        "workspace_name": "lab",
    }
    private = "[azure]\ntenant_id = 'from-file'\nservice_principal_password = 'marked-secret'\n"
    remote = '[remote.gpubox]\nsetup = ["a", "b"]\n'
    write_files(project, {"config.json": json.dumps(config), "himl.private.toml": private, "himl.toml": remote})
    index = "https://ada:marked-secret@pypi.example.org/simple"
    env = {"HIML_TENANT_ID": "from-variable", "HIML_EXPERIMENT_NAME": "exp"}
    options = (
        "--pip_extra_index_url",
        index,
        "--env_var",
        "DB_PASSWORD=marked-secret",
        "--docker_args",
        "-e TOKEN=marked-secret",
    )
    outcome = himl.ok("submit", "--show_settings", "--json", *options, env=env)
    assert "marked-secret" not in outcome.stdout
    rows = {row["option"]: (row["value"], row["source"]) for row in outcome.json()}
    assert rows["azure.workspace_name"] == ("lab", str(project / "config.json"))
    assert rows["azure.tenant_id"] == ("from-variable", "HIML_TENANT_ID")
    assert rows["azure.service_principal_password"] == ("***", f"{project / 'himl.private.toml'}:3")
    assert rows["azure.service_principal_id"] == ("", "default")
    assert rows["remote.gpubox.setup"] == ("a\nb", f"{project / 'himl.toml'}:1")
    assert rows["experiment"] == ("exp", "HIML_EXPERIMENT_NAME")
    assert rows["pip_extra_index_url"] == ("https://***@pypi.example.org/simple", "command line")


@pytest.mark.usefixtures("script")
def test_tags_and_variables_of_all_sources_join_by_key(himl: Himl, project: Path) -> None:
    write_files(project, {
        "himl.toml": "[submit]\ntag = {team = 'blue', x = 'toml'}\nenv_var = ['A=toml', 'B=toml', 'C=toml']\n",
        "himl.private.toml": "[submit]\nenv_var.B = 'private'\n",
        "train.py": "import os\nprint([os.environ.get(name) for name in 'ABCDE'])\n",
    })  # fmt: skip
    env = {"HIML_SUBMIT_ENV_VAR": "C=variable\nD=variable"}
    assert himl.ok(
        "submit", "train.py", "--env_var", "D=typed", "--env_var", "E=a=b", "--tag", "x=typed", env=env
    ).stdout == ("['toml', 'private', 'variable', 'typed', 'a=b']\n")
    assert himl.ok("runs", "show", "latest", "--json").json()["tags"].items() >= {"team": "blue", "x": "typed"}.items()
    rows = {
        row["option"]: row["value"]
        for row in himl.ok("submit", "train.py", "--tag", "y=1", "--show_settings", "--json").json()
    }
    assert (rows["tag"], rows["env_var"]) == ("team=blue, x=toml, y=1", "A=toml, B=private, C=toml")


@pytest.mark.usefixtures("script")
def test_of_follow_and_no_wait_the_one_that_is_typed_counts(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\nwait = false\n"})
    assert himl.ok("submit", "train.py", "--follow").stdout == "[]\n"
    write_files(project, {"himl.toml": "[submit]\nfollow = true\n"})
    run_id = himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip()
    assert himl.ok("runs", "logs", "--follow", run_id).stdout == "[]\n"
    write_files(project, {"himl.toml": "[submit]\nfollow = true\nwait = false\n"})
    assert "--follow and --no_wait cannot be combined" in himl("submit", "train.py").stderr


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("script")
def test_flag_beats_variable_beats_settings(himl: Himl, project: Path) -> None:
    def experiment(*options: str, env: dict[str, str] | None = None) -> tuple[str, str]:
        rows = {
            row["option"]: row
            for row in himl.ok("submit", "train.py", "--show_settings", "--json", *options, env=env).json()
        }
        return rows["experiment"]["value"], rows["experiment"]["source"].removeprefix(str(project / "x")[:-1])

    assert experiment()[1] == "default"
    write_files(project, {"himl.toml": "[submit]\nexperiment_name = 'toml'\n[submit.tag]\nyear = 2026\n"})
    assert experiment() == ("toml", "himl.toml:2")
    variables = {"HIML_SUBMIT_EXPERIMENT": "variable", "HIML_SUBMIT_TAG": "note=two words\nteam=red\n"}
    assert experiment(env=variables) == ("variable", "HIML_SUBMIT_EXPERIMENT")
    assert experiment("--experiment", "flag", env=variables) == ("flag", "command line")
    himl.ok("submit", "train.py", env={"HIML_SUBMIT_TAG": variables["HIML_SUBMIT_TAG"]})
    run = himl.ok("runs", "list", "--json").json()[0]
    assert (run["experiment"], run["tags"]["note"], run["tags"]["team"]) == ("toml", "two words", "red")


@pytest.mark.usefixtures("script")
def test_shared_link_and_variable_of_no_option_are_refused(himl: Himl, project: Path) -> None:
    for file, code in [("himl.toml", 2), ("himl.private.toml", 0)]:
        write_files(project, {file: '[submit]\ncheckpoint = "https://example.org/a.ckpt?sig=hush"\n'})
        outcome = himl("submit", "train.py", "--show_settings")
        (project / file).unlink()
        assert (
            outcome.code,
            "Move it to himl.private.toml" in outcome.stderr,
            "hush" in outcome.stderr + outcome.stdout,
        ) == (code, code == 2, False)
    outcome = himl("submit", "train.py", env={"HIML_SUBMIT_CLUSTR": "gpu"})
    told = [
        "error: The variable HIML_SUBMIT_CLUSTR sets no option of 'himl submit'.",
        "hint: Did you mean HIML_SUBMIT_CLUSTER?",
    ]
    assert (outcome.code, outcome.stderr.splitlines()) == (2, told)
    assert (
        "Did you mean HIML_SUBMIT_EXPERIMENT?"
        in himl("submit", "train.py", env={"HIML_SUBMIT_EXPERIMENT_NAME": "x"}).stderr
    )
    assert himl.ok("submit", "train.py", env={"HIML_SUBMIT_CLUSTR": ""}).stdout == "[]\n"


IDS = {"subscription_id": "0a1b2c3d-0000-4000-8000-000000000001", "resource_group": "team", "workspace_name": "lab"}
FLAGS = [part for key, value in IDS.items() for part in (f"--{key}", value)]
VARIABLES = {f"HIML_{key.upper()}": value for key, value in IDS.items()}
SETTINGS = (
    "variables:\n  tenant_id: 'ten-ant'\n"
    + "".join(f"  {key}: '{value}'\n" for key, value in IDS.items())
    + "  cluster: 'gpu'\n  docker_shm_size: '440g'\n"
)
PRIVATE = "variables:\n  application_id: 'app-1'\n  application_key: 'hunter2'\n  cluster: 'mine'\n"
SCOPE = (
    f"/subscriptions/{IDS['subscription_id']}/resourceGroups/team/providers/Microsoft.MachineLearningServices/"
    "workspaces/lab"
)


def config(project: Path) -> object:
    return json.loads((project / "config.json").read_text())


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
def test_links_that_lead_nowhere_are_left_alone(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "settings.yml": SETTINGS})
    (project / ".himl").symlink_to("elsewhere")
    for arguments in (("init",), ("submit", "train.py")):
        outcome = himl(*arguments)
        assert (outcome.code, outcome.stdout, "is a link to a folder that does not exist" in outcome.stderr) == (
            1,
            "",
            True,
        )
    (project / "himl.toml").symlink_to("nowhere")
    outcome = himl("init", "--from", "settings.yml")
    assert (outcome.code, "Nothing was written" in outcome.stderr) == (2, True)
    assert sorted(path.name for path in project.iterdir()) == [".himl", "himl.toml", "settings.yml", "train.py"]


def test_flags_complete_a_file_and_one_that_says_more_will_do(himl: Himl, project: Path) -> None:
    content = '[submit]\ncluster = "gpu"\nshm_size = "440g"\ntag = ["a=b"]\n'
    write_files(project, {"settings.yml": SETTINGS, "himl.toml": content, ".azureml/config.json": json.dumps(IDS)})
    himl.ok("init", "--from", "settings.yml")
    assert ((project / "himl.toml").read_text(), (project / "config.json").exists()) == (content, False)
    write_files(
        project, {"part/settings.yml": "variables: {subscription_id: '', resource_group: team, workspace_name: lab}"}
    )
    outcome = himl("init", "--from", "settings.yml", cwd=project / "part")
    assert (outcome.code, "lacks subscription_id" in outcome.stderr, "--subscription_id" in outcome.stderr) == (
        2,
        True,
        True,
    )
    himl.ok("init", "--from", "settings.yml", *FLAGS[:2], cwd=project / "part")
    assert config(project / "part") == IDS


def test_a_workspace_by_flags_variables_and_the_hint(himl: Himl, project: Path) -> None:
    other = {**VARIABLES, "HIML_WORKSPACE_NAME": "other"}
    for flags, env in (([], VARIABLES), (FLAGS[-2:], other), ([part.replace("_", "-", 2) for part in FLAGS], {})):
        outcome = himl.ok("init", *flags, env=env)
        assert config(project) == IDS
        assert not (project / ".himl").exists()
        assert outcome.stdout == "Wrote config.json: subscription_id, resource_group, workspace_name\n"
        assert "himl doctor" in outcome.stderr
        (project / "config.json").unlink()
    write_files(project, {"train.py": ""})
    hint = himl("submit", "train.py", "--cluster", "gpu").stderr.splitlines()[1]
    found = re.search(r"himl (init [-\w ]+)", hint)
    assert found is not None
    values = {"ID": IDS["subscription_id"], "RG": IDS["resource_group"], "WS": IDS["workspace_name"]}
    himl.ok(*(values.get(word, word) for word in found[1].split()))
    assert config(project) == IDS
    assert "config.json" not in himl("submit", "train.py", "--cluster", "gpu", "--dry_run").stderr


def test_what_cannot_be_done_is_one_line_and_writes_nothing(himl: Himl, project: Path) -> None:
    write_files(project, {"notes.txt": "", "settings.yml": SETTINGS})
    for arguments, complaint in [
        (FLAGS[:4], "lacks workspace_name"),
        (["--local", *FLAGS], "--local"),
        (["--from", "nowhere.yml"], "no file"),
        (["--from", "."], "is a folder"),
        (["--from", ""], "--from got an empty value"),
        (["--workspace_name", " "], "--workspace_name got an empty value"),
    ]:
        outcome = himl("init", *arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert complaint in outcome.stderr.splitlines()[0]
        assert len(outcome.stderr.splitlines()) <= 2
        assert sorted(path.name for path in project.iterdir()) == ["notes.txt", "settings.yml"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config.json", json.dumps({**IDS, "workspace_name": "other"}), "config.json"),
        (".azureml/config.json", json.dumps({**IDS, "workspace_name": "other"}), "config.json"),
        ("himl.toml", '[submit]\ncluster = "other"\n', "submit.cluster"),
        ("himl.private.toml", '[azure]\nservice_principal_password = "hunter3"\n', "azure.tenant_id"),
        ("pyproject.toml", '[tool.himl.submit]\ncluster = "gpu"\n', "pyproject.toml"),
    ],
)
def test_init_refuses_conflicting_file_and_writes_nothing(
    himl: Himl, project: Path, name: str, content: str, named: str
) -> None:
    write_files(project, {"settings.yml": SETTINGS, name: content})
    before = sorted(path.name for path in project.rglob("*"))
    outcome = himl("init", "--from", "settings.yml")
    assert outcome.code == 2
    assert named in outcome.stderr
    assert "Nothing was written" in outcome.stderr
    assert "hunter" not in outcome.stderr
    assert (sorted(path.name for path in project.rglob("*")), (project / name).read_text()) == (before, content)


def test_a_folder_that_cannot_be_written_says_so(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"settings.yml": SETTINGS})
    read_only(project)
    outcome = himl("init", "--from", "settings.yml")
    assert (outcome.code, "Nothing was written" in outcome.stderr) == (1, True)
    assert himl("init").code == 1


def test_innereye_settings_are_taken_over(himl: Himl, project: Path) -> None:
    settings = SETTINGS + "  datasets_container: 'data'\n"
    script = "import os; print(sorted(set(os.listdir()) - {'logs', 'outputs'}))"
    write_files(
        project,
        {
            "InnerEye/settings.yml": settings,
            "InnerEyePrivateSettings.yml": PRIVATE,
            ".env": "SUBSCRIPTION_ID=x",
            "train.py": script,
        },
    )
    outcome = himl.ok("init", "--from", "InnerEye/settings.yml")
    assert config(project) == IDS
    assert (project / "himl.toml").read_text() == '[submit]\ncluster = "mine"\nshm_size = "440g"\n'
    private = project / "himl.private.toml"
    assert (
        private.read_text()
        == '[azure]\ntenant_id = "ten-ant"\nservice_principal_id = "app-1"\nservice_principal_password = "hunter2"\n'
    )
    assert sys.platform == "win32" or stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "Read InnerEye/settings.yml, InnerEyePrivateSettings.yml".replace("/", os.sep) in outcome.stdout
    assert "datasets_container: register the storage account" in outcome.stdout
    before = {path.name: path.stat().st_mtime_ns for path in project.iterdir()}
    assert himl.ok("init", "--from", "InnerEye/settings.yml", "-q").stdout == ""
    assert {path.name: path.stat().st_mtime_ns for path in project.iterdir()} == before
    shown = himl.ok("submit", "train.py", "--show_settings").stdout
    assert all(
        f"{row}\t" in shown
        for row in ("cluster\tmine", "azure.workspace_name\tlab", "azure.service_principal_id\tapp-1")
    )
    assert "hunter2" not in outcome.stdout + outcome.stderr + shown
    assert (
        himl.ok("submit", "train.py", "--cluster", "local").stdout.splitlines()[0]
        == "['config.json', 'himl.toml', 'train.py']"
    )


def test_json_and_quiet(himl: Himl, project: Path) -> None:
    write_files(project, {"settings.yml": SETTINGS + "  workers_per_node: 2\n"})
    done = himl.ok("init", "--from", "settings.yml", "--json").json()
    assert [(Path(file["path"]).name, file["is_new"]) for file in done["files"]] == [
        ("config.json", True),
        ("himl.toml", True),
        ("himl.private.toml", True),
    ]
    assert [left["name"] for left in done["left_out"]] == ["workers_per_node"]
    (project / "config.json").unlink()
    assert himl.ok("init", "--from", "settings.yml", "-q").stdout == f"{project / 'config.json'}\n"
    (project / "config.json").unlink()
    (project / "config.json").mkdir()
    outcome = himl("init", *FLAGS)
    assert (outcome.code, outcome.stdout, "config.json' exists and is not a workspace config" in outcome.stderr) == (
        2,
        "",
        True,
    )


def test_where_a_config_names_a_workspace_no_other_is_made(himl: Himl, project: Path) -> None:
    for content in ({"Scope": SCOPE}, {**IDS, "resource_group": " team "}):
        write_files(project, {"config.json": json.dumps(content), "src/train.py": ""})
        for arguments in ((), ("--from", "config.json"), FLAGS):
            assert himl.ok("init", *arguments).stdout.splitlines()[-1].startswith("Already there: config.json")
        assert config(project) == content
    assert himl.ok("init", cwd=project / "src").stdout == f"Already there: {project / 'config.json'}\n"
    assert not (project / ".himl").exists()
    assert himl.ok("init", "--local").stdout == "Wrote .himl\n"
    assert (project / ".himl" / ".gitignore").read_text() == "*\n"
    assert "Already there: .himl" in himl.ok("init", "--local", env=VARIABLES).stdout


def test_settings_from_outside_the_project_are_named_first(himl: Himl, project: Path) -> None:
    write_files(
        project, {"himl.toml": "[submit]\nexperiment = 'ours'\n", "lab/pyproject.toml": "", "lab/src/train.py": ""}
    )
    words, where = (
        ("submit", "train.py", "--cluster", "gpu", "--environment", "x:1", "--dry_run"),
        project / "lab" / "src",
    )
    first = f"himl uses settings from outside the project '{project / 'lab'}': '{project / 'himl.toml'}'."
    assert himl.ok(*words, cwd=where).stderr.splitlines()[0] == first
    assert himl.ok(*words, "--show_settings", cwd=where).stderr.splitlines()[0] == first
    write_files(project, {"lab/himl.toml": ""})
    assert "himl uses settings" not in himl.ok(*words, cwd=where).stderr


def test_a_workspace_that_all_users_can_write_to_is_not_used(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('trained')"})
    before = os.umask(0)
    try:
        himl.ok("submit", "train.py")  # a container without a umask
    finally:
        os.umask(before)
    assert himl.ok("runs", "list", "-q").stdout.count("train_") == 1
    (project / ".himl").chmod(0o777)
    for words in (("runs", "list"), ("submit", "train.py")):
        outcome = himl(*words)
        assert (outcome.code != 0, outcome.stdout) == (True, "")
        assert (
            f"all users can write to '{project / '.himl'}'. To use it, run chmod o-w '{project / '.himl'}'."
            in outcome.stderr
        )
    assert himl.ok("runs", "list", "-q", "--workspace", ".himl").stdout.count("train_") == 1, (
        "a workspace that is named is used"
    )


def test_a_workspace_that_this_user_cannot_write_to_stops_no_submit(started_himl: Himl, shared: Path) -> None:
    for owner, said in (
        (0, "himl records this job in '{}', because '{}' belongs to user 'root'."),
        (BOB, "himl does not use '{1}'"),
    ):
        lab, project = shared / f"lab_{owner}", shared / f"lab_{owner}" / "project"
        RecordedRuns(lab)
        write_files(project, {"train.py": "print('trained')"})
        os.chown(project, ADA, ADA)
        os.chown(lab / ".himl", owner, owner)
        outcome = started_himl("submit", "train.py", cwd=project, prefix=as_user(ADA, shared))
        assert (outcome.code, outcome.stdout) == (0, "trained\n"), outcome.stderr
        assert said.format(project / ".himl", lab / ".himl") in outcome.stderr
        assert (project / ".himl" / "workspace.db").stat().st_uid == ADA


def test_settings_above_the_project_that_only_root_may_read_end_no_command(started_himl: Himl, shared: Path) -> None:
    lab, project = shared / "lab", shared / "lab" / "project"
    write_files(project, {"train.py": "print('trained')"})
    os.chown(project, ADA, ADA)
    closed = [lab / name for name in ("himl.toml", "himl.private.toml", "config.json", "most_recent_run.txt")]
    for path in closed:
        path.touch(mode=0o600)
    for words, printed in (("submit", "train.py"), "trained\n"), (("runs", "list", "-q"), "train_"):
        outcome = started_himl(*words, cwd=project, prefix=as_user(ADA, shared))
        assert (outcome.code, outcome.stdout.startswith(printed)) == (0, True), outcome.stderr
        said = [line for line in outcome.stderr.splitlines() if "because only user 'root' may read it" in line]
        assert 0 < len(said) == len(set(said)), outcome.stderr
    own = started_himl("submit", "train.py", cwd=lab, prefix=as_user(ADA, shared))
    assert (own.code, "Cannot read" in own.stderr) == (2, True), "in the project itself, its settings count"
