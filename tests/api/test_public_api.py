"""Tests of the public API: it stays as recorded, has descriptions, and is imported only when used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import himl_cli
from himl_cli.core.errors import HimlError
from tests.api.public_api import kinds_of_errors

ROOT = Path(himl_cli.__file__).parent
CODE = re.compile(r'^    code = "(\w+)"', re.MULTILINE)
ROW = re.compile(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def test_the_documents_have_each_error_code_with_its_exit_code() -> None:
    rows = ROW.findall((ROOT.parent / "docs" / "scripts.md").read_text(encoding="utf-8"))
    told = {code: int(number) for number, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert {*told} == {code for path in ROOT.rglob("*.py") for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert {kind.code: kind.exit_code for kind in kinds_of_errors()}.items() <= told.items()
    assert told["failed"] == HimlError.exit_code


HI_MLS = {
    *(
        "get_workspace",
        "fetch_run",
        "get_most_recent_run",
        "split_recovery_id",
        "download_files_from_run_id",
        "download_checkpoints_from_run_id",
    ),
    *(
        "download_from_datastore",
        "upload_to_datastore",
        "is_running_in_azure_ml",
        "is_local_rank_zero",
        "torch_barrier",
    ),
    *("set_environment_variables_for_multi_node", "Workspace", "Run"),
}
IMPORTS = """
import json, sys
before = {*sys.modules}
import himl_cli
first = [name for name in sys.modules if name not in before and (name.startswith("himl_cli") or "azure" in name)]
from himl_cli import *
loaded = [name for name in ("azure.ai", "azureml", "mlflow", "torch", "rich", "typer") if name in sys.modules]
print(json.dumps([first, loaded]))
"""


@pytest.mark.large("takes long, and other tests run its branches")
def test_imports_bring_nothing_heavy_along() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["himl_cli"], []]


def test_names_and_their_types_are_the_same() -> None:
    """Type checkers read `__init__.pyi`, and Python runs `__init__.py`."""
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    imported = {
        (alias.name, f"{node.module}.{alias.asname}")
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    values = {name: getattr(himl_cli, name) for name in himl_cli.__all__ if name != "__version__"}
    assert {name for name, _ in imported} == {*values}
    # Constants have no module.
    defined = {(name, f"{value.__module__}.{name}") for name, value in values.items() if hasattr(value, "__module__")}
    assert defined <= imported
    assert all(getattr(import_module(home.rpartition(".")[0]), name) is values[name] for name, home in imported)


def test_every_name_of_hi_ml_is_there_and_no_other() -> None:
    assert {*himl_cli.__all__} >= HI_MLS <= {*dir(himl_cli)}
    assert [name for name in HI_MLS if not getattr(himl_cli, name).__doc__] == []
    described = (ROOT.parent / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in himl_cli.__all__ if name not in described and name != "__version__"] == []
    with pytest.raises(AttributeError, match="module 'himl_cli' has no attribute 'submit_run_v2'"):
        himl_cli.submit_run_v2  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from himl_cli import nothing_of_that_name  # type: ignore[attr-defined]  # noqa: F401
