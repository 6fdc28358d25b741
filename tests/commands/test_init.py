"""`himl init`: files for a workspace, written where there are none."""

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

IDS = {"subscription_id": "0a1b2c3d-0000-4000-8000-000000000001", "resource_group": "team", "workspace_name": "lab"}
FLAGS = [part for key, value in IDS.items() for part in (f"--{key}", value)]
VARIABLES = {f"HIML_{key.upper()}": value for key, value in IDS.items()}
SETTINGS = (
    "variables:\n  tenant_id: 'ten-ant'\n" + "".join(f"  {key}: '{value}'\n" for key, value in IDS.items()) + "  cluster: 'gpu'\n  docker_shm_size: '440g'\n"
)
PRIVATE = "variables:\n  application_id: 'app-1'\n  application_key: 'hunter2'\n  cluster: 'mine'\n"


def config(project: Path) -> object:
    return json.loads((project / "config.json").read_text())


def test_without_a_word_a_local_workspace_is_made(himl: Himl, project: Path) -> None:
    assert "Wrote .himl" in himl.ok("init").stdout
    assert (project / ".himl" / ".gitignore").read_text() == "*\n"
    assert "Already there: .himl" in himl.ok("init", "--local").stdout
    assert himl.ok("runs", "list", "--json").json() == []


@pytest.mark.parametrize("way", ["flags", "environment", "both", "hyphens"])
def test_a_workspace_by_flags_and_variables(himl: Himl, project: Path, way: str) -> None:
    flags = {"flags": FLAGS, "environment": [], "both": FLAGS[-2:], "hyphens": [part.replace("_", "-", 2) for part in FLAGS]}[way]
    env = {"environment": VARIABLES, "both": {**VARIABLES, "HIML_WORKSPACE_NAME": "other"}}.get(way, {})
    outcome = himl.ok("init", *flags, env=env)
    assert config(project) == IDS
    assert not (project / ".himl").exists()
    assert outcome.stdout == "Wrote config.json: subscription_id, resource_group, workspace_name\n"
    assert "himl doctor" in outcome.stderr


def test_where_a_config_names_a_workspace_no_other_is_made(himl: Himl, project: Path) -> None:
    write_files(project, {"config.json": json.dumps(IDS), "src/train.py": ""})
    outcome = himl.ok("init")
    assert (outcome.stdout, (project / ".himl").exists()) == ("Already there: config.json\n", False)
    outcome = himl.ok("init", cwd=project / "src")
    assert (outcome.stdout, (project / "src" / ".himl").exists()) == (f"Already there: {project / 'config.json'}\n", False)
    assert himl.ok("init", "--local").stdout == "Wrote .himl\n"


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
@pytest.mark.parametrize("arguments", [("init",), ("submit", "train.py")], ids=" ".join)
def test_a_link_that_leads_nowhere_is_no_workspace(himl: Himl, project: Path, arguments: tuple[str, ...]) -> None:
    write_files(project, {"train.py": ""})
    (project / ".himl").symlink_to("elsewhere")
    outcome = himl(*arguments)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "is a link that leads to no folder" in outcome.stderr
    assert not (project / "elsewhere").exists()


def test_hint_for_missing_workspace_gives_working_init_command(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    hint = himl("submit", "train.py", "--cluster", "gpu").stderr.splitlines()[1]
    found = re.search(r"himl (init [-\w ]+)", hint)
    assert found is not None
    values = {"ID": IDS["subscription_id"], "RG": IDS["resource_group"], "WS": IDS["workspace_name"]}
    himl.ok(*(values.get(word, word) for word in found[1].split()))
    assert config(project) == IDS
    assert "config.json" not in himl("submit", "train.py", "--cluster", "gpu", "--dry_run").stderr


def test_local_counts_whatever_the_environment_says(himl: Himl, project: Path) -> None:
    himl.ok("init", "--local", env=VARIABLES)
    assert sorted(path.name for path in project.iterdir()) == [".himl"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (FLAGS[:4], "does not say workspace_name"),
        (["--subscription_id", "x", *FLAGS[2:]], "no subscription id"),
        (["--local", *FLAGS], "--local"),
        (["--local", "--from", "settings.yml"], "--local"),
        (["--from", "nowhere.yml"], "no file"),
        (["--from", "notes.txt"], "notes.txt"),
        (["--from", "."], "is a folder"),
        (["--from", ""], "--from got an empty value"),
        (["--workspace_name", " "], "--workspace_name got an empty value"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(himl: Himl, project: Path, arguments: list[str], complaint: str) -> None:
    write_files(project, {"notes.txt": "", "settings.yml": SETTINGS})
    outcome = himl("init", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert complaint in outcome.stderr.splitlines()[0]
    assert len(outcome.stderr.splitlines()) <= 2
    assert sorted(path.name for path in project.iterdir()) == ["notes.txt", "settings.yml"]


def test_innereye_s_settings_are_taken_over(himl: Himl, project: Path) -> None:
    write_files(project, {"InnerEye/settings.yml": SETTINGS + "  datasets_container: 'data'\n", "InnerEyePrivateSettings.yml": PRIVATE})
    outcome = himl.ok("init", "--from", "InnerEye/settings.yml")
    assert config(project) == IDS
    assert (project / "himl.toml").read_text() == '[submit]\ncluster = "mine"\nshm_size = "440g"\n'
    private = project / "himl.private.toml"
    assert private.read_text() == '[azure]\ntenant_id = "ten-ant"\nservice_principal_id = "app-1"\nservice_principal_password = "hunter2"\n'
    assert sys.platform == "win32" or stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "Read InnerEye/settings.yml, InnerEyePrivateSettings.yml".replace("/", os.sep) in outcome.stdout
    assert "datasets_container: register the storage account" in outcome.stdout
    assert "hunter2" not in outcome.stdout + outcome.stderr


def test_what_was_written_is_what_the_other_commands_read(himl: Himl, project: Path) -> None:
    write_files(project, {"settings.yml": SETTINGS, "settings_private.yml": PRIVATE, "train.py": "print(1)"})
    himl.ok("init", "--from", "settings.yml")
    shown = himl.ok("submit", "train.py", "--show_settings").stdout
    assert "cluster\tmine\t" in shown
    assert "hunter2" not in shown
    assert "azure.workspace_name\tlab\t" in shown
    assert "azure.service_principal_id\tapp-1\t" in shown


def test_deepseismic_s_env_is_taken_over(himl: Himl, project: Path) -> None:
    lines = [f"{key.upper()}={value}" for key, value in IDS.items()]
    write_files(
        project, {".env": "\n".join([*lines, "export AML_COMPUTE_CLUSTER_NAME='gpu'  # four", "BLOB_ACCOUNT_KEY=hunter2==", "AML_COMPUTE_CLUSTER_SKU=NC6"])}
    )
    outcome = himl.ok("init", "--from", ".env")
    assert config(project) == IDS
    assert (project / "himl.toml").read_text() == '[submit]\ncluster = "gpu"\n'
    assert not (project / "himl.private.toml").exists()
    assert "  BLOB_ACCOUNT_KEY: pipelines read it from .env; for other jobs register the storage account" in outcome.stdout
    assert "  AML_COMPUTE_CLUSTER_SKU: --create_cluster of a pipeline reads it" in outcome.stdout
    assert "hunter2" not in outcome.stdout + outcome.stderr


def test_a_config_of_the_portal_is_copied(himl: Himl, project: Path) -> None:
    write_files(project, {"down/config.json": json.dumps(IDS)})
    himl.ok("init", "--from", "down/config.json")
    assert config(project) == IDS
    assert "Already there" in himl.ok("init", "--from", "config.json").stdout


SCOPE = f"/subscriptions/{IDS['subscription_id']}/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


@pytest.mark.parametrize("content", [{"Scope": SCOPE}, {**IDS, "resource_group": " rg ", "workspace_name": "ws"}], ids=["scope", "blanks"])
def test_a_config_in_another_form_that_names_the_same_will_do(himl: Himl, project: Path, content: dict[str, str]) -> None:
    write_files(project, {"config.json": json.dumps(content)})
    ids = ("--subscription_id", IDS["subscription_id"], "--resource_group", "rg", "--workspace_name", "ws")
    for arguments in (("--from", "config.json"), ids):
        assert "Already there: config.json" in himl.ok("init", *arguments).stdout
    assert json.loads((project / "config.json").read_text()) == content


def test_settings_in_the_home_folder(himl: Himl, project: Path) -> None:
    home = project.with_name("home")
    write_files(home, {"settings.yml": SETTINGS})
    himl.ok("init", "--from", "~/settings.yml", env={"HOME": str(home), "USERPROFILE": str(home)})
    assert config(project) == IDS


def test_a_second_time_nothing_is_written(himl: Himl, project: Path) -> None:
    write_files(project, {"settings.yml": SETTINGS})
    himl.ok("init", "--from", "settings.yml")
    before = {path.name: path.stat().st_mtime_ns for path in project.iterdir()}
    assert himl.ok("init", "--from", "settings.yml", "-q").stdout == ""
    assert {path.name: path.stat().st_mtime_ns for path in project.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config.json", json.dumps({**IDS, "workspace_name": "other"}), "config.json"),
        ("config.json", "{", "config.json"),
        (".azureml/config.json", json.dumps({**IDS, "workspace_name": "other"}), "config.json"),
        ("himl.toml", '[submit]\ncluster = "other"\n', "submit.cluster"),
        ("himl.toml", "[submit]\nnum_nodes = 2\n", "submit.cluster"),
        ("himl.private.toml", '[azure]\nservice_principal_password = "hunter3"\n', "azure.tenant_id"),
        ("pyproject.toml", '[tool.himl.submit]\ncluster = "gpu"\n', "pyproject.toml"),
    ],
)
def test_init_refuses_conflicting_file_and_writes_nothing(himl: Himl, project: Path, name: str, content: str, named: str) -> None:
    write_files(project, {"settings.yml": SETTINGS, name: content})
    before = sorted(path.name for path in project.rglob("*"))
    outcome = himl("init", "--from", "settings.yml")
    assert outcome.code == 2
    assert named in outcome.stderr
    assert "Nothing was written" in outcome.stderr
    assert "hunter" not in outcome.stderr
    assert (sorted(path.name for path in project.rglob("*")), (project / name).read_text()) == (before, content)


def test_what_is_in_a_file_s_place_is_left_alone(himl: Himl, project: Path) -> None:
    (project / "config.json").mkdir()
    outcome = himl("init", *FLAGS)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "config.json' exists and is no config of a workspace" in outcome.stderr
    assert [path.name for path in project.iterdir()] == ["config.json"]


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
@pytest.mark.parametrize("name", ["config.json", "himl.toml"])
def test_a_link_in_a_file_s_place_is_left_alone(himl: Himl, project: Path, name: str) -> None:
    write_files(project, {"settings.yml": SETTINGS})
    (project / name).symlink_to("nowhere")
    outcome = himl("init", "--from", "settings.yml")
    assert (outcome.code, "Nothing was written" in outcome.stderr) == (2, True)
    assert sorted(path.name for path in project.iterdir()) == sorted([name, "settings.yml"])
    assert (project / name).is_symlink()


def test_a_file_that_says_more_will_do(himl: Himl, project: Path) -> None:
    content = '[submit]\ncluster = "gpu"\nshm_size = "440g"\ntag = ["a=b"]\n'
    write_files(project, {"settings.yml": SETTINGS, "himl.toml": content, ".azureml/config.json": json.dumps(IDS)})
    himl.ok("init", "--from", "settings.yml")
    assert (project / "himl.toml").read_text() == content
    assert not (project / "config.json").exists()


def test_flags_complete_a_file(himl: Himl, project: Path) -> None:
    write_files(project, {"settings.yml": "variables: {subscription_id: '', resource_group: team, workspace_name: lab}"})
    outcome = himl("init", "--from", "settings.yml")
    assert (outcome.code, "does not say subscription_id" in outcome.stderr, "--subscription_id" in outcome.stderr) == (2, True, True)
    himl.ok("init", "--from", "settings.yml", *FLAGS[:2])
    assert config(project) == IDS


def test_json_and_quiet(himl: Himl, project: Path) -> None:
    write_files(project, {"settings.yml": SETTINGS + "  workers_per_node: 2\n"})
    done = himl.ok("init", "--from", "settings.yml", "--json").json()
    assert [(Path(file["path"]).name, file["is_new"]) for file in done["files"]] == [("config.json", True), ("himl.toml", True), ("himl.private.toml", True)]
    assert [left["name"] for left in done["left_out"]] == ["workers_per_node"]
    (project / "config.json").unlink()
    assert himl.ok("init", "--from", "settings.yml", "-q").stdout == f"{project / 'config.json'}\n"


def test_a_folder_that_cannot_be_written_says_so(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"settings.yml": SETTINGS})
    read_only(project)
    outcome = himl("init", "--from", "settings.yml")
    assert (outcome.code, "Nothing was written" in outcome.stderr) == (1, True)
    assert himl("init").code == 1


def test_files_that_init_reads_are_never_sent(himl: Himl, project: Path) -> None:
    files = {
        "settings.yml": SETTINGS,
        "settings_private.yml": PRIVATE,
        ".env": "SUBSCRIPTION_ID=x",
        "train.py": "import os; print(sorted(set(os.listdir()) - {'logs', 'outputs'}))",
    }
    write_files(project, files)
    himl.ok("init", "--from", "settings.yml")
    assert himl.ok("submit", "train.py", "--cluster", "local").stdout.splitlines()[0] == "['config.json', 'himl.toml', 'train.py']"
