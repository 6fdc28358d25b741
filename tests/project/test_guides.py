"""The guides to data, Azure and `himl doctor` say what is so: commands, settings, YAML for Azure's tools, and what doctor says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import himl_cli
from tests.support.documents import blocks, himl_commands, page, wrong_with
from tests.support.running import Himl, write_files

GUIDES = ("migration.md", "datasets.md", "azure-set-up.md", "service-principals.md", "mounting.md", "doctor.md")
MODULES = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(Path(himl_cli.__file__).parent.rglob("*.py"))]
TEXTS = {node.value for module in MODULES for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
"""Every text in himl's sources, those between the braces of f-strings too."""


@pytest.mark.parametrize(("name", "command"), [(name, command) for name in GUIDES for command in himl_commands(page(name))])
def test_a_command_of_the_guides_exists_with_its_options(name: str, command: str) -> None:
    assert wrong_with(command) == "", name


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert wrong_with("himl runs lst") == "there is no command 'himl runs lst'"
    assert wrong_with("himl submit train.py --clustr gpu -- --epochs 5") == "'himl submit' has no --clustr"


@pytest.mark.parametrize(("name", "block"), [(name, block) for name in GUIDES for block in blocks(page(name), "toml")])
def test_settings_of_the_guides_are_understood(himl: Himl, name: str, block: str) -> None:
    write_files(himl.folder, {"himl.private.toml" if "password" in block else "himl.toml": block})
    shown = himl.ok("submit", "--show_settings").stdout
    assert [key for key in re.findall(r"^(\w+) =", block, flags=re.MULTILINE) if key not in shown] == [], name


LOAD = """
from azure.ai.ml import load_datastore
datastore = load_datastore(source="datastore.yml")
print(datastore.type, datastore.name, datastore.account_name, datastore.container_name, datastore.credentials.%s)
"""


@pytest.mark.parametrize("secret", ["account_key", "sas_token"])
def test_the_datastore_is_one_for_azure_s_own_loader(tmp_path: Path, secret: str) -> None:
    (text,) = blocks(page("azure-set-up.md"), "yaml")
    assert f"--set credentials.{secret}=" in page("azure-set-up.md")
    write_files(tmp_path, {"datastore.yml": text.replace("account_key:", f"{secret}:")})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD % secret], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == "DatastoreType.AZURE_BLOB datasets himldata datasets the key\n", done.stderr


def test_the_names_of_the_set_up_are_those_of_its_files() -> None:
    text = page("azure-set-up.md")
    assigned = dict(re.findall(r"^(\w+)=([\w-]+)", blocks(text, "sh")[0], flags=re.MULTILINE))
    (datastore,) = (yaml.safe_load(block) for block in blocks(text, "yaml"))
    assert (datastore["account_name"], datastore["container_name"]) == (assigned["storage"], assigned["container"])
    used = {name for block in blocks(text, "sh") for name in re.findall(r"\$(\w+)", block)}
    made = {name for block in blocks(text, "sh") for name in re.findall(r"^(\w+)=", block, flags=re.MULTILINE)}
    assert used - made == set()


def test_the_mount_is_of_the_container_that_the_set_up_makes() -> None:
    (mount,) = (yaml.safe_load(block) for block in blocks(page("mounting.md"), "yaml"))
    (datastore,) = (yaml.safe_load(block) for block in blocks(page("azure-set-up.md"), "yaml"))
    assert (mount["azstorage"]["account-name"], mount["azstorage"]["container"]) == (datastore["account_name"], datastore["container_name"])
    assert mount["components"] == ["libfuse", "file_cache", "attr_cache", "azstorage"]


def names_of_checks() -> Iterator[str]:
    """The name of each check that himl's sources make."""
    for module in MODULES:
        constants = dict(_constants(module))
        for node in ast.walk(module):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="Check")), args=[ast.Name(id=name), *_]) if name in constants:
                    yield constants[name]
                case ast.Call(func=ast.Attribute(value=ast.Name(id="Check")), args=[ast.Constant(value=str(name)), *_]):
                    yield name
                case ast.Assign(targets=[ast.Name(id="CHECKS")], value=ast.Dict(keys=keys)):
                    yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _constants(module: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = statement.value.elts if isinstance(statement.value, ast.Tuple) and isinstance(target, ast.Tuple) else [statement.value]
            for name, value in zip(names, values, strict=True):
                if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield name.id, value.value


def test_the_page_of_doctor_has_every_line_of_it() -> None:
    headings = re.findall(r"^## (.*)$", page("doctor.md"), flags=re.MULTILINE)
    assert len(headings) > 8
    assert set(headings) == set(names_of_checks())


SAID = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \| ", "\n## ".join(page("doctor.md").split("\n## ")[1:]), flags=re.MULTILINE)))


@pytest.mark.parametrize("said", SAID)
def test_what_doctor_is_said_to_say_stands_in_its_sources(said: str) -> None:
    """`…` stands for what differs from time to time."""
    pieces = [piece.strip() for piece in said.split("…") if piece.strip()]
    assert pieces
    assert [piece for piece in pieces if not any(piece in text for text in TEXTS)] == []


def test_the_table_of_service_principals_quotes_himl() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \| [^`|]", page("service-principals.md").partition("## Looking")[2], flags=re.MULTILINE)
    assert len(quoted) > 5
    assert [said for said in quoted for piece in said.split("…") if piece.strip() and not any(piece.strip() in text for text in TEXTS)] == []


def test_a_montage_on_a_cluster_says_where_himl_comes_from() -> None:
    """No public index has it."""
    commands = [command for name in ("montage.md", "cli/montage.md") for command in himl_commands(page(name)) if "himl montage" in command]
    there = [command for command in commands if "--cluster" in command]
    assert len(there) > 1
    assert [command for command in there if "--private_wheel" not in command] == []
