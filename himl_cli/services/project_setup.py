"""Setup of a folder for an Azure ML workspace or a local one, with settings from InnerEye or DeepSeismic."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.files import expand_home, write_atomic
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import may_be_signed, redact
from himl_cli.core.settings import PRIVATE_FILE, SETTINGS_FILE, find_settings
from himl_cli.core.text import YAML_ENDINGS, non_blank, parse_dotenv, parse_duration, read_text
from himl_cli.core.workspaces import LeftOut, PreparedFile, SetUp
from himl_cli.services.submission.request import MOST_NODES, check_size, count_problem

CONFIG_FILE = "config.json"
IMPORTABLE = "InnerEye's settings (.yml), DeepSeismic's .env, or a config.json of the Azure portal"
MOVE = "Move the file and try again."
WORKSPACE_KEYS = ("subscription_id", "resource_group", "workspace_name")
NO_SETTING = "himl has no such setting"
OF_ONE_RUN = "set it for each run: "

DEEPSEISMIC_CLUSTER = "AML_COMPUTE_CLUSTER_NAME"
# The reason why a variable is not imported, by the prefix of its name
DEEPSEISMIC_REASONS = {
    "BLOB_": "pipelines read it from .env. For other jobs, register the storage account as a datastore in Azure ML and "
    "name that with --default_datastore",
    "AML_COMPUTE_": "--create_cluster of a pipeline reads it from .env. Other jobs use an existing cluster",
    "HIML_": "himl reads it from the environment",
    "": NO_SETTING,
}

INNEREYE_PRIVATE_FILES = ("InnerEyePrivateSettings.yml", "settings_private.yml", "InnerEyeTestVariables.txt")
# InnerEye's names and the corresponding options of `himl submit`. If two set one option, the later takes precedence.
INNEREYE_OPTIONS = {
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
TAKEN = (*WORKSPACE_KEYS, *INNEREYE_OPTIONS, "tenant_id")
KEY_NAMES = ("application_key", "service_principal_key")
NO_KEY = (
    "the application's key is not in these files. Sign in as a user, or set the HIML_SERVICE_PRINCIPAL_* "
    "environment variables"
)
INNEREYE_REASONS = {
    **dict.fromkeys(
        ("datasets_storage_account", "datasets_container", "datasets_account_key"),
        "register the storage account as a datastore in Azure ML, which provides access to it, and name that with "
        "--default_datastore",
    ),
    "workers_per_node": "use --processes_per_node for scripts that need several",
    "use_dataset_mount": "set it for each input: --input NAME,mode=mount",
    "tag": f"{OF_ONE_RUN}--tag KEY=VALUE",
    **dict.fromkeys(
        ("model", "train", "only_register_model", "pytest_mark", "log_level"),
        "write arguments of a script after '--'",
    ),
    **dict.fromkeys(("extra_code_directory", "project_root"), "name the folder to run from: --snapshot_root FOLDER"),
    "run_recovery_id": f"{OF_ONE_RUN}--checkpoint RUN, or --resume RUN",
    "hyperdrive": "use --sweep NAME=SPEC, or --crossval N",
    "tensorboard": "himl tb shows the curves of runs",
    "azureml": "choose a compute target: --cluster NAME, or 'local'",
}

Section = Mapping[str, Any]
# Returns the keys of the workspace in a config.json. Raises HimlError.
ReadConfig = Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True)
class TakenSettings:
    """The settings of another tool, converted for himl.

    `workspace` has some or all keys of a `config.json`. `public` and `private` are sections of `himl.toml` and
    `himl.private.toml`. `read` are the source files.
    """

    workspace: Mapping[str, str] = field(default_factory=dict)
    public: Mapping[str, Section] = field(default_factory=dict)
    private: Mapping[str, Section] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    read: Sequence[Path] = ()


def set_up(
    folder: Path,
    source: str | None,
    ids: Mapping[str, str],
    *,
    local: bool,
    default_ids: Mapping[str, str],
    read_config: ReadConfig,
    config_text: Callable[[Mapping[str, str], str], str],
) -> SetUp | None:
    """Write the missing files in *folder* for the workspace of *ids* and the settings in *source*. Returns None if both
    are empty, and also *default_ids*, which apply without *source* and *local*.

    *config_text* returns the text of a config.json for keys. It raises BadUsage, with its second argument first, for
    missing or invalid keys. himl never changes an existing file. Raises BadUsage, before anything is written, and
    DiskFailed.
    """
    source = non_blank("--from", source)
    for key, value in ids.items():
        non_blank(f"--{key}", value)
    if local and (source or ids):
        raise BadUsage("--local and the keys of an Azure ML workspace cannot be combined.", hint="Omit one of them.")
    taken, where = TakenSettings(workspace={} if local else default_ids), "The workspace"
    if source:
        taken, where = read_settings(folder / expand_home(source), folder, read_config), f"'{source}'"
    ids = {**taken.workspace, **ids}
    if not source and not ids:
        return None
    files: dict[Path, tuple[str, Mapping[str, Any]]] = {}
    if ids:
        text = config_text(ids, where)
        files[folder / CONFIG_FILE] = text, json.loads(text)
    for name, sections in ((SETTINGS_FILE, taken.public), (PRIVATE_FILE, taken.private)):
        if sections:
            files[folder / name] = _toml(sections), sections
    if not files:
        raise BadUsage(
            f"{where} has no settings that himl can import.",
            hint="A workspace needs subscription_id, resource_group and workspace_name.",
        )
    missing = [path for path, (_, content) in files.items() if not _is_there(path, content, read_config)]
    made: list[Path] = []
    try:
        for path in missing:
            write_atomic(path, files[path][0], is_private=path.name == PRIVATE_FILE)
            made.append(path)
    except OSError as err:
        for path in made:
            path.unlink(missing_ok=True)
        raise DiskFailed(f"Cannot write '{missing[len(made)]}': {err.strerror}. Nothing was written.") from err
    prepared = [
        PreparedFile(path, path in missing, list(_leaves(content)), path.name == PRIVATE_FILE)
        for path, (_, content) in files.items()
    ]
    return SetUp(prepared, taken.read, taken.left_out)


def _is_there(path: Path, content: Mapping[str, Any], read_config: ReadConfig) -> bool:
    """Whether the file exists and contains *content*. Raises BadUsage if it contains something else, or if a new file
    would override another one."""
    if path.name == CONFIG_FILE:
        # A new file in one place would override the file in the other
        for found in (path, path.parent / ".azureml" / path.name):
            if os.path.lexists(found):
                try:
                    existing = read_config(found)
                except HimlError as err:
                    wrong = f"'{found}' exists and is not a workspace config: {err} Nothing was written."
                    raise BadUsage(wrong, hint=MOVE) from err
                if existing != content:
                    raise BadUsage(f"'{found}' names another workspace. Nothing was written.", hint=MOVE)
                return True
        return False
    wanted = _leaves(content)
    for settings in find_settings(path.parent):
        if settings.path == path:
            said = _leaves(settings.content)
            differing = [key for key, value in wanted.items() if said.get(key) != value]
            if not differing:
                return True
            raise BadUsage(
                f"'{path}' exists without these values: {', '.join(differing)}. Nothing was written.",
                hint="Add or correct them in the file, or move the file and try again.",
            )
        if (settings.path.name == PRIVATE_FILE) == (path.name == PRIVATE_FILE):
            raise BadUsage(
                f"'{settings.path}' has settings, and a new '{path.name}' would override it. Nothing was written.",
                hint=f"Set in that file: {', '.join(wanted)}.",
            )
    if os.path.lexists(path):
        raise BadUsage(f"'{path}' exists and is not a settings file. Nothing was written.")
    return False


def _leaves(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _toml(sections: Mapping[str, Section]) -> str:
    """Plain values as TOML. Strings are the same as in JSON except for one control character."""
    lines: list[str] = []
    for name, section in sections.items():
        values = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in section.items())
        lines += ["", f"[{name}]", *values]
    return ("\n".join(lines[1:]) + "\n").replace("\x7f", "\\u007f")


def read_settings(path: Path, folder: Path, read_config: ReadConfig) -> TakenSettings:
    """The settings in the file. *folder* is the user's current folder. Raises BadUsage for other kinds of files.

    A file with secrets must be of a kind that no snapshot includes. So `.env.example`, which snapshots include, is not
    accepted.
    """
    if path.is_dir():
        raise BadUsage(f"--from: '{path}' is a folder.", hint=f"Name a file: {IMPORTABLE}.")
    if not path.is_file():
        raise BadUsage(f"--from: there is no file '{path}'.", hint=f"Use {IMPORTABLE}.")
    if path.suffix == ".json":
        return TakenSettings(workspace=read_config(path), read=[path])
    if path.suffix.lower() in YAML_ENDINGS or path.name in INNEREYE_PRIVATE_FILES:
        return read_innereye(path, folder)
    from himl_cli.services.submission.secret_files import is_dotenv_name

    if is_dotenv_name(path.name):
        return read_deepseismic(path)
    raise BadUsage(f"--from '{path.name}' is not a supported kind of file.", hint=f"Use {IMPORTABLE}.")


def read_deepseismic(path: Path) -> TakenSettings:
    """The settings in DeepSeismic's `.env`. Raises BadUsage for an invalid file."""
    values = {name: value for name, value in parse_dotenv(read_text(path, "--from"), path).items() if value}
    cluster = values.pop(DEEPSEISMIC_CLUSTER, "")
    workspace = {key: values.pop(key.upper()) for key in WORKSPACE_KEYS if key.upper() in values}
    left_out = [
        LeftOut(name, next(why for start, why in DEEPSEISMIC_REASONS.items() if name.startswith(start)))
        for name in values
    ]
    return TakenSettings(workspace, {"submit": {"cluster": cluster}} if cluster else {}, {}, left_out, [path])


def read_innereye(path: Path, folder: Path) -> TakenSettings:
    """The settings in InnerEye's file *path* and in the private files beside it or in *folder*. Private files take
    precedence, as in InnerEye.

    Raises BadUsage for an invalid file.
    """
    beside = [next(filter(Path.is_file, (path.parent / name, folder / name)), path) for name in INNEREYE_PRIVATE_FILES]
    files = [path, *(file for file in beside if file != path)]
    entries = [entry for file in files for entry in _variables(file).items()]
    values = {name: value for name, value in entries if isinstance(value, (str, bool, int, float))}
    submit: dict[str, Any] = {}
    for name, option in INNEREYE_OPTIONS.items():
        if name in values:
            value = _option_value(name, option, values[name])
            # 1 and False are himl's defaults
            if values[name] is True or values[name] not in (1, False):
                submit[option] = value
    azure = {"tenant_id": str(values["tenant_id"])} if "tenant_id" in values else {}
    key = next((str(values[name]) for name in KEY_NAMES if name in values), None)
    left_out: dict[str, str] = {}
    if key is not None and "application_id" in values and azure:
        azure |= {"service_principal_id": str(values["application_id"]), "service_principal_password": key}
    else:
        # An application without its key is omitted, because himl rejects an incomplete service principal
        useless = dict.fromkeys(KEY_NAMES, "a key needs application_id and tenant_id")
        left_out = {name: why for name, why in {"application_id": NO_KEY, **useless}.items() if name in values}
    for name, _ in entries:
        if name in TAKEN and name not in values:
            left_out[name] = "it is not a single value"
        elif name not in TAKEN and not (name in values and name in ("application_id", *KEY_NAMES)):
            unknown = f"{OF_ONE_RUN}--{name}" if name.startswith("build_") else NO_SETTING
            left_out[name] = INNEREYE_REASONS.get(name, unknown)
    texts = {name: str(value) for name, value in submit.items()}
    secret = {name: submit[name] for name, text in texts.items() if redact(text) != text or may_be_signed(text)}
    public = {name: value for name, value in submit.items() if name not in secret}
    return TakenSettings(
        workspace={key: str(values[key]) for key in WORKSPACE_KEYS if key in values},
        public={"submit": public} if public else {},
        private={name: section for name, section in (("azure", azure), ("submit", secret)) if section},
        left_out=[LeftOut(name, why) for name, why in left_out.items()],
        read=files,
    )


def _option_value(name: str, option: str, value: Any) -> Any:
    """InnerEye's *value* of *name*, converted for the option. Raises BadUsage."""
    what = f"'{name}' of InnerEye's settings"
    if option == "num_nodes" and (problem := count_problem(value, MOST_NODES)):
        raise BadUsage(f"{what} {problem}")
    if option == "wait" and not isinstance(value, bool):
        raise BadUsage(f"{what} must be true or false, not {value!r}.")
    if option == "shm_size":
        check_size(what, str(value))
    if option == "max_run_duration":
        parse_duration(str(value), what)
    return value if option in ("num_nodes", "wait") else str(value)


def _variables(path: Path) -> dict[str, Any]:
    """The entries of `variables:` that have a value, with names in lower case."""
    from himl_cli.services.yaml_files import parse_mapping

    entries = parse_mapping(read_text(path, "--from"), path).get("variables")
    if not isinstance(entries, Mapping):
        raise BadUsage(
            f"'{path}' is not a settings file of InnerEye: it has no 'variables:' with settings below it.",
            hint="See the supported files: himl init --help",
        )
    found: dict[str, Any] = {}
    for name, value in entries.items():
        value = value.strip() if isinstance(value, str) else value
        # `$(…)` is a placeholder that a build pipeline fills in
        if value not in (None, "", [], {}) and not (isinstance(value, str) and value.startswith("$(")):
            found[str(name).lower()] = value
    return found
