"""What `himl_cli` hands out, and that it costs nothing before it is asked for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import himl_cli

ROOT = Path(himl_cli.__file__).parent
HEAVY = ["azure.ai", "azureml", "mlflow", "torch", "rich", "typer"]
HI_MLS = [
    *("get_workspace", "fetch_run", "get_most_recent_run", "split_recovery_id", "download_files_from_run_id", "download_checkpoints_from_run_id"),
    *("download_from_datastore", "upload_to_datastore", "is_running_in_azure_ml", "is_local_rank_zero", "torch_barrier"),
    *("set_environment_variables_for_multi_node", "Workspace", "Run"),
]


def python(program: str) -> object:
    """What *program* prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_import_brings_nothing_else_along() -> None:
    brought = python("import sys; before = {*sys.modules}; import himl_cli, json; print(json.dumps([m for m in sys.modules if m not in before]))")
    assert isinstance(brought, list)
    assert [name for name in brought if name.startswith("himl_cli") or "azure" in name] == ["himl_cli"]


def test_names_and_their_types_are_the_same() -> None:
    """`__init__.pyi` is what type checkers read, `__init__.py` what runs."""
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    imported = {(alias.name, f"{node.module}.{alias.asname}") for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    values = {name: getattr(himl_cli, name) for name in himl_cli.__all__ if name != "__version__"}
    assert {name for name, _ in imported} == {*values}
    defined = {(name, f"{value.__module__}.{name}") for name, value in values.items() if hasattr(value, "__module__")}  # a constant does not tell
    assert defined <= imported
    assert all(getattr(import_module(home.rpartition(".")[0]), name) is values[name] for name, home in imported)


@pytest.mark.parametrize("name", HI_MLS)
def test_hi_mls_names_are_there(name: str) -> None:
    assert name in dir(himl_cli)
    assert name in himl_cli.__all__
    assert getattr(himl_cli, name).__doc__


def test_all_names_come_without_a_heavy_import() -> None:
    loaded = python(f"from himl_cli import *; import json, sys; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))")
    assert loaded == []


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'himl_cli' has no attribute 'submit_run'"):
        himl_cli.submit_run  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from himl_cli import nothing_of_that_name  # type: ignore[attr-defined]  # noqa: F401


def test_every_name_is_described() -> None:
    described = (ROOT.parent / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in himl_cli.__all__ if name not in described and name != "__version__"] == []
