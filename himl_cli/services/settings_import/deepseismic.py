"""DeepSeismic's `.env`: a workspace, a cluster, a storage account."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.workspaces import LeftOut, TakenSettings
from himl_cli.services.settings_import.dotenv import parse_dotenv
from himl_cli.services.text_files import read_text

WORKSPACE = {
    "SUBSCRIPTION_ID": "subscription_id",
    "RESOURCE_GROUP": "resource_group",
    "WORKSPACE_NAME": "workspace_name",
}
CLUSTER = "AML_COMPUTE_CLUSTER_NAME"
BY_STORAGE = (
    "pipelines read it from .env; for other jobs register the storage account as a datastore in Azure ML and "
    "name that with --default_datastore"
)
BY_CREATION = "--create_cluster of a pipeline reads it from .env; other jobs take a cluster that exists"


def read_deepseismic(path: Path) -> TakenSettings:
    """What the file says. Raises BadUsage for what is no such file."""
    values = {name: value for name, value in parse_dotenv(read_text(path, "--from"), path).items() if value}
    return TakenSettings(
        workspace={key: values[name] for name, key in WORKSPACE.items() if name in values},
        public={"submit": {"cluster": values[CLUSTER]}} if CLUSTER in values else {},
        left_out=[LeftOut(name, _why(name)) for name in values if name not in (*WORKSPACE, CLUSTER)],
        read=[path],
    )


def _why(name: str) -> str:
    if name.startswith("BLOB_"):
        return BY_STORAGE
    if name.startswith("AML_COMPUTE_"):
        return BY_CREATION
    return "himl reads it from the environment" if name.startswith("HIML_") else "himl has no such setting"
