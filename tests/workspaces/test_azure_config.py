"""Where the workspace is written, and what is said of files and variables that do not name one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.workspaces import parse_workspace_id
from himl_cli.workspaces.azure.config import (
    CHINA,
    JOB_SOURCE,
    PUBLIC,
    US_GOVERNMENT,
    address_from_config,
    address_from_environment,
    address_of_job,
    current_cloud,
    find_config,
)

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
KEYS = {"subscription_id": SUBSCRIPTION, "resource_group": "team", "workspace_name": "lab"}
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/team/providers/Microsoft.MachineLearningServices/workspaces/lab"
VARIABLES = {"HIML_SUBSCRIPTION_ID": SUBSCRIPTION, "HIML_RESOURCE_GROUP": "team", "HIML_WORKSPACE_NAME": "lab"}
JOB = {"AZUREML_RUN_ID": "run1", "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION, "AZUREML_ARM_RESOURCEGROUP": "team", "AZUREML_ARM_WORKSPACE_NAME": "lab"}


@pytest.fixture
def write(project: Path) -> Callable[..., Path]:
    """Write a file below the project and give its path."""

    def put(content: Any, name: str = "config.json", encoding: str = "utf-8") -> Path:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
        return path

    return put


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (KEYS, "utf-8"),
        (KEYS, "utf-8-sig"),
        (KEYS | {"tenant_id": "t", "extra": 1}, "utf-8"),
        ({"Id": None, "Scope": SCOPE}, "utf-8"),
        ({name: f" {value} " for name, value in KEYS.items()}, "utf-8"),
    ],
    ids=["portal", "byte-order mark", "extra keys", "scope of old files", "spaces around"],
)
def test_every_form_of_config_names_its_workspace(write: Callable[..., Path], content: Any, encoding: str) -> None:
    path = write(content, encoding=encoding)
    address = address_from_config(path)
    assert (address.subscription_id, address.resource_group, address.name) == (SUBSCRIPTION, "team", "lab")
    assert (address.path, address.label, address.source) == (SCOPE, "workspace team/lab", str(path))
    assert find_config(path.parent) == path


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", r"config\.json', line 1: "),
        ("[1]", r"config\.json' holds no JSON object"),
        ({**KEYS, "workspace_name": ""}, r"config\.json' does not say workspace_name\."),
        ("[" * 3000 + "]" * 3000, r"config\.json': it is nested too deeply\."),
        ('{"subscription_id": ' + "9" * 5000 + "}", r"config\.json': it holds a number that is too long\."),
        ({**KEYS, "workspace_name": "lab\ud800"}, r"'workspace_name' is no name of a workspace"),
        ({"subscription_id": SUBSCRIPTION}, r"does not say resource_group and workspace_name\."),
        ({**KEYS, "resource_group": 7}, r"config\.json': 'resource_group' is no text: 7"),
        ({**KEYS, "workspace_name": "<YOUR_WORKSPACE>"}, r"'workspace_name' is still the placeholder <YOUR_WORKSPACE>"),
        ({**KEYS, "subscription_id": "my subscription"}, r"'subscription_id' is no subscription id .*: 'my subscription'"),
        ({**KEYS, "resource_group": "../other"}, r"'resource_group' is no name of a resource group: '\.\./other'"),
        ({**KEYS, "workspace_name": "lab/../other"}, r"'workspace_name' is no name of a workspace"),
    ],
)
def test_a_wrong_config_is_told_by_file_and_key(write: Callable[..., Path], content: Any, complaint: str) -> None:
    path = write(content)
    with pytest.raises(BadUsage, match=complaint) as caught:
        address_from_config(path)
    assert "config.json" in caught.value.hint


def test_a_config_that_is_not_there_is_not_found(project: Path) -> None:
    with pytest.raises(WorkspaceNotFound, match=r"There is no file '.*none\.json'"):
        address_from_config(project / "none.json")


def test_a_config_in_another_encoding_is_told_so(write: Callable[..., Path]) -> None:
    path = write(KEYS, encoding="utf-16")
    with pytest.raises(BadUsage, match="not UTF-8"):
        address_from_config(path)


def test_config_search_finds_nearest_valid_parent_config(write: Callable[..., Path], project: Path) -> None:
    deep = project / "a" / "b" / "c"
    deep.mkdir(parents=True)
    assert find_config(deep) is None
    top = write(KEYS)
    write({"model": "unet"}, "a/config.json")
    write("no json", "a/b/config.json")
    assert find_config(deep) == top
    for text in ("[" * 3000 + "]" * 3000, '{"a": ' + "9" * 5000 + "}"):
        write(text, "a/b/config.json")
        assert find_config(deep) == top
    hidden = write(KEYS, "a/.azureml/config.json")
    assert find_config(deep) == hidden
    nearer = write(KEYS, "a/b/config.json")
    assert find_config(deep) == nearer


def test_the_search_stops_at_the_last_parent_on_pythonpath(write: Callable[..., Path], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = project / "a" / "b" / "c"
    deep.mkdir(parents=True)
    top = write(KEYS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(project / "elsewhere"), str(deep), str(project / "a")]))
    assert find_config(deep) is None
    inside = write(KEYS, "a/config.json")
    assert find_config(deep) == inside
    inside.unlink()
    monkeypatch.setenv("PYTHONPATH", str(project / "elsewhere"))
    assert find_config(deep) == top


def test_the_variables_name_a_workspace_together_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_from_environment() is None
    monkeypatch.setenv("HIML_RESOURCE_GROUP", "team")
    with pytest.raises(BadUsage, match=r"HIML_RESOURCE_GROUP is set, HIML_SUBSCRIPTION_ID and HIML_WORKSPACE_NAME not\."):
        address_from_environment()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    address = address_from_environment()
    assert address is not None
    assert (address.path, address.source) == (SCOPE, "HIML_* variables")


def test_a_job_knows_its_own_workspace_and_a_local_one_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_RUN_ID", "run1")
    assert address_of_job() is None
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    address = address_of_job()
    assert address is not None
    assert address.path == SCOPE
    assert address.source == JOB_SOURCE


def test_clouds_are_chosen_by_name_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_cloud() == PUBLIC
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "azureusgovernment")
    assert current_cloud() == US_GOVERNMENT
    assert current_cloud("AzureChinaCloud") == CHINA
    assert CHINA.management_scope == "https://management.chinacloudapi.cn/.default"
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.partner.microsoftonline.cn/")
    assert current_cloud("AzureChinaCloud").authority == "https://login.partner.microsoftonline.cn"
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureUSGoverment")
    with pytest.raises(BadUsage, match="AZUREML_CURRENT_CLOUD") as caught:
        current_cloud()
    assert "AzureUSGovernment" in caught.value.hint


@pytest.mark.parametrize(
    "text", [SCOPE, f"https://ml.azure.com/runs/r?wsid=/subscriptions/{SUBSCRIPTION}/resourcegroups/team/workspaces/lab&tid=t", f"{SCOPE}/jobs/j"]
)
def test_a_workspace_is_read_from_ids_and_studio_links(text: str) -> None:
    assert parse_workspace_id(text) == (SUBSCRIPTION, "team", "lab")


def test_text_without_a_workspace_gives_none() -> None:
    assert parse_workspace_id("https://ml.azure.com/runs/r") is None


def test_finding_a_workspace_imports_nothing_heavy(write: Callable[..., Path]) -> None:
    path = write(KEYS)
    program = (
        "import sys; from pathlib import Path; from himl_cli.workspaces.azure.config import find_config, address_from_config;"
        f"address_from_config(find_config(Path({str(path.parent)!r})));"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'azure', 'requests', 'msal', 'msgspec', 'pycurl', 'platformdirs', 'urllib3'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
