"""InnerEye's settings: a YAML file with `variables:`, and private files of the same form beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import may_be_signed, redact
from himl_cli.core.workspaces import LeftOut, TakenSettings
from himl_cli.services.submission.request import MOST_NODES, check_size, count_wanted, parse_duration, whole_number
from himl_cli.services.text_files import read_text

PRIVATE_FILES = ("InnerEyePrivateSettings.yml", "settings_private.yml", "InnerEyeTestVariables.txt")
WORKSPACE = ("subscription_id", "resource_group", "workspace_name")
SUBMIT = {
    "cluster": "cluster",
    "docker_shm_size": "shm_size",
    "azureml_datastore": "default_datastore",
    "pip_extra_index_url": "pip_extra_index_url",
    "max_run_duration": "max_run_duration",
    "node_count": "num_nodes",
    "num_nodes": "num_nodes",
    "experiment_name": "experiment",
    "wait_for_completion": "wait",
}
"""InnerEye's names, and the options of `himl submit` that mean the same; of two for one option the later counts."""
TAKEN = (*WORKSPACE, *SUBMIT, "tenant_id")
NUMBERS, SWITCHES = ("num_nodes",), ("wait",)
CHECKS: Mapping[str, Callable[[str, str], object]] = {
    "shm_size": check_size,
    "max_run_duration": lambda what, text: parse_duration(text, what),
}
"""Of values that have a form. They raise BadUsage, which begins with their first argument."""
KEY_NAMES = ("application_key", "service_principal_key")
NO_KEY = (
    "the application's key is not in these files; without it you sign in yourself, or set the "
    "HIML_SERVICE_PRINCIPAL_* variables"
)
NO_VALUE = "it is no single value"
BY_STORAGE = (
    "register the storage account as a datastore in Azure ML, which then gives access to it; name that with "
    "--default_datastore"
)
WHY = {
    "datasets_storage_account": BY_STORAGE,
    "datasets_container": BY_STORAGE,
    "datasets_account_key": BY_STORAGE,
    "workers_per_node": "say --processes_per_node for scripts that want several",
    "use_dataset_mount": "say it for each input: --input NAME,mode=mount",
    "tag": "it belongs to one run: --tag KEY=VALUE",
    **dict.fromkeys(
        ("model", "train", "only_register_model", "pytest_mark", "log_level"), "arguments of a script stand after '--'"
    ),
    **dict.fromkeys(("extra_code_directory", "project_root"), "say which folder is sent: --snapshot_root FOLDER"),
    "run_recovery_id": "it belongs to one run: --checkpoint RUN, or --resume RUN",
    "hyperdrive": "say what is searched: --sweep NAME=SPEC, or --crossval N",
    "tensorboard": "himl tb shows the curves of runs",
    "azureml": "a cluster decides: --cluster NAME, or 'local'",
}


def read_innereye(path: Path, folder: Path) -> TakenSettings:
    """What *path* and the private files beside it, or in *folder*, say; the private ones win, as in InnerEye.

    Raises BadUsage for a file that is not of that form.
    """
    private = [found for name in PRIVATE_FILES for found in _first(path.parent / name, folder / name) if found != path]
    entries = [entry for file in (path, *private) for entry in _variables(file).items()]
    values = {name: value for name, value in entries if _is_plain(value)}
    composite = {name: value for name, value in entries if not _is_plain(value)}
    submit = _submit(values)
    azure = _azure(values)
    secret = {
        key: value for key, value in submit.items() if redact(str(value)) != str(value) or may_be_signed(str(value))
    }
    public = {key: value for key, value in submit.items() if key not in secret}
    return TakenSettings(
        workspace={key: str(values[key]) for key in WORKSPACE if key in values},
        public={"submit": public} if public else {},
        private={name: section for name, section in (("azure", azure), ("submit", secret)) if section},
        left_out=[
            *_left_out(values, azure),
            *(LeftOut(name, NO_VALUE if name in TAKEN else _why(name)) for name in composite if name not in values),
        ],
        read=[path, *private],
    )


def _first(*paths: Path) -> list[Path]:
    return [path for path in paths if path.is_file()][:1]


def _variables(path: Path) -> dict[str, Any]:
    """The filled entries of `variables:`, names in lower case."""
    from himl_cli.services.yaml_files import parse_mapping

    entries = parse_mapping(read_text(path, "--from"), path).get("variables")
    if not isinstance(entries, Mapping):
        raise BadUsage(
            f"'{path}' has no 'variables:' with settings below it, as InnerEye's settings have.",
            hint="See 'himl init --help' for the files that it reads.",
        )
    return {
        str(name).lower(): value.strip() if isinstance(value, str) else value
        for name, value in entries.items()
        if _is_filled(value)
    }


def _is_filled(value: Any) -> bool:
    """Whether there is a value: not an empty one, nor a place-holder that a build pipeline fills in."""
    if isinstance(value, str):
        return bool(value.strip()) and not value.strip().startswith("$(")
    return value is not None and value not in ([], {})


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, bool, int, float))


def _submit(values: Mapping[str, Any]) -> dict[str, Any]:
    submit: dict[str, Any] = {}
    for name, option in SUBMIT.items():
        value = values.get(name)
        if value is None:
            continue
        if option in NUMBERS and whole_number(value, MOST_NODES) is None:
            raise BadUsage(f"'{name}' of InnerEye's settings {count_wanted(value, MOST_NODES)}")
        if option in SWITCHES and not isinstance(value, bool):
            raise BadUsage(f"'{name}' of InnerEye's settings is neither true nor false: {value!r}.")
        if option in CHECKS:
            CHECKS[option](f"'{name}' of InnerEye's settings", str(value))
        if value is True or value not in (1, False):  # those are what himl does anyway
            submit[option] = value if option in (*NUMBERS, *SWITCHES) else str(value)
    return submit


def _azure(values: Mapping[str, Any]) -> dict[str, str]:
    """Who signs in. An application without its key would only be in the way: himl refuses half a service principal."""
    azure = {"tenant_id": str(values["tenant_id"])} if "tenant_id" in values else {}
    key = next((str(values[name]) for name in KEY_NAMES if name in values), None)
    if key is not None and "application_id" in values and azure:
        azure |= {"service_principal_id": str(values["application_id"]), "service_principal_password": key}
    return azure


def _left_out(values: Mapping[str, Any], azure: Mapping[str, str]) -> Iterator[LeftOut]:
    for name in values:
        if name in ("application_id", *KEY_NAMES):
            if "service_principal_id" not in azure:
                yield LeftOut(
                    name,
                    NO_KEY if name == "application_id" else "a key is of use with application_id and tenant_id only",
                )
        elif name not in TAKEN:
            yield LeftOut(name, _why(name))


def _why(name: str) -> str:
    return WHY.get(
        name, f"it belongs to one run: --{name}" if name.startswith("build_") else "himl has no such setting"
    )
