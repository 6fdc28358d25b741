"""Set up a folder for an Azure ML workspace or a local one, with the settings of InnerEye or DeepSeismic."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.files import expand_home, write_atomic
from himl_cli.core.redaction import may_be_signed, redact
from himl_cli.core.settings import FILE, PRIVATE_FILE, find_settings
from himl_cli.core.text import non_blank
from himl_cli.core.workspaces import LeftOut, PreparedFile, Section, SetUp, TakenSettings
from himl_cli.services.secret_files import YAML_ENDINGS, is_dotenv_name
from himl_cli.services.submission.request import MOST_NODES, check_size, count_problem, parse_duration
from himl_cli.services.text_files import read_text

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#")
_QUOTED = re.compile(r"(?P<quote>['\"])(?P<inside>.*)(?P=quote)\s*(?:#.*)?")


def parse_dotenv(text: str, path: Path) -> dict[str, str]:
    """The variables in *text*, which was read from *path*; the last of two lines counts. Raises BadUsage naming a line
    that is none, not its content."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise BadUsage(
                f"'{path}', line {number}: no NAME=value.", hint="A value stands on one line; comments begin with '#'."
            )
        quoted = _QUOTED.fullmatch(found["value"])
        values[found["name"]] = quoted["inside"] if quoted else _COMMENT.split(found["value"], maxsplit=1)[0].strip()
    return values


DEEPSEISMIC_WORKSPACE = {
    "SUBSCRIPTION_ID": "subscription_id",
    "RESOURCE_GROUP": "resource_group",
    "WORKSPACE_NAME": "workspace_name",
}
CLUSTER = "AML_COMPUTE_CLUSTER_NAME"
DEEPSEISMIC_REASONS = {
    "BLOB_": "pipelines read it from .env; for other jobs register the storage account as a datastore in Azure ML and "
    "name that with --default_datastore",
    "AML_COMPUTE_": "--create_cluster of a pipeline reads it from .env; other jobs take a cluster that exists",
    "HIML_": "himl reads it from the environment",
    "": "himl has no such setting",
}
"""Why a variable is not taken over, by how its name begins."""


def read_deepseismic(path: Path) -> TakenSettings:
    """What the file says. Raises BadUsage for what is no such file."""
    values = {name: value for name, value in parse_dotenv(read_text(path, "--from"), path).items() if value}
    return TakenSettings(
        workspace={key: values[name] for name, key in DEEPSEISMIC_WORKSPACE.items() if name in values},
        public={"submit": {"cluster": values[CLUSTER]}} if CLUSTER in values else {},
        left_out=[
            LeftOut(name, next(why for start, why in DEEPSEISMIC_REASONS.items() if name.startswith(start)))
            for name in values
            if name not in (*DEEPSEISMIC_WORKSPACE, CLUSTER)
        ],
        read=[path],
    )


PRIVATE_FILES = ("InnerEyePrivateSettings.yml", "settings_private.yml", "InnerEyeTestVariables.txt")
INNEREYE_WORKSPACE = ("subscription_id", "resource_group", "workspace_name")
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
TAKEN = (*INNEREYE_WORKSPACE, *SUBMIT, "tenant_id")
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
    beside = [next(filter(Path.is_file, (path.parent / name, folder / name)), path) for name in PRIVATE_FILES]
    private = [file for file in beside if file != path]
    entries = [entry for file in (path, *private) for entry in _variables(file).items()]
    values = {name: value for name, value in entries if isinstance(value, (str, bool, int, float))}
    composite = dict.fromkeys(name for name, value in entries if not isinstance(value, (str, bool, int, float)))
    submit = _submit(values)
    azure = _azure(values)
    secret = {
        key: value for key, value in submit.items() if redact(str(value)) != str(value) or may_be_signed(str(value))
    }
    public = {key: value for key, value in submit.items() if key not in secret}
    return TakenSettings(
        workspace={key: str(values[key]) for key in INNEREYE_WORKSPACE if key in values},
        public={"submit": public} if public else {},
        private={name: section for name, section in (("azure", azure), ("submit", secret)) if section},
        left_out=[
            *_left_out(values, azure),
            *(
                LeftOut(name, NO_VALUE if name in TAKEN else _innereye_reason(name))
                for name in composite
                if name not in values
            ),
        ],
        read=[path, *private],
    )


def _variables(path: Path) -> dict[str, Any]:
    """The filled entries of `variables:`, names in lower case."""
    from himl_cli.services.yaml_files import parse_mapping

    entries = parse_mapping(read_text(path, "--from"), path).get("variables")
    if not isinstance(entries, Mapping):
        raise BadUsage(
            f"'{path}' has no 'variables:' with settings below it, as InnerEye's settings have.",
            hint="See 'himl init --help' for the files that it reads.",
        )
    stripped = {
        str(name).lower(): value.strip() if isinstance(value, str) else value for name, value in entries.items()
    }
    return {  # `$(…)` is a place-holder that a build pipeline fills in
        name: value
        for name, value in stripped.items()
        if value is not None and value not in ("", [], {}) and not (isinstance(value, str) and value.startswith("$("))
    }


def _submit(values: Mapping[str, Any]) -> dict[str, Any]:
    submit: dict[str, Any] = {}
    for name, option in SUBMIT.items():
        value = values.get(name)
        if value is None:
            continue
        if option in NUMBERS and (problem := count_problem(value, MOST_NODES)):
            raise BadUsage(f"'{name}' of InnerEye's settings {problem}")
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
            yield LeftOut(name, _innereye_reason(name))


def _innereye_reason(name: str) -> str:
    return WHY.get(
        name, f"it belongs to one run: --{name}" if name.startswith("build_") else "himl has no such setting"
    )


MOVE = "Move it away and try again."


@dataclass(frozen=True)
class NewFile:
    """A file that is to say `content` (by `text`)."""

    path: Path
    text: str
    content: Mapping[str, Any]
    is_private: bool = False
    said_by: Callable[[Path], Mapping[str, Any]] | None = None
    """What such a file says, for one that is not himl's alone and has other forms too. Raises HimlError for what is no
    such file."""


def settings_file(folder: Path, sections: Mapping[str, Section], *, is_private: bool) -> NewFile:
    """A settings file of himl's with *sections*."""
    lines = [
        line
        for name, section in sections.items()
        for line in ("", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items()))
    ]
    return NewFile(folder / (PRIVATE_FILE if is_private else FILE), "\n".join(lines[1:]) + "\n", sections, is_private)


def write_all(files: Sequence[NewFile]) -> list[PreparedFile]:
    """Write those that are not there yet. Raises BadUsage, with nothing written, where one exists and says something
    else; DiskFailed."""
    missing = [file for file in files if not _is_there(file)]
    made: list[Path] = []
    try:
        for file in missing:
            write_atomic(file.path, file.text, is_private=file.is_private)
            made.append(file.path)
    except OSError as err:
        for path in made:
            path.unlink(missing_ok=True)
        raise DiskFailed(f"Cannot write '{missing[len(made)].path}': {err.strerror}. Nothing was written.") from err
    return [PreparedFile(file.path, file in missing, list(_leaves(file.content)), file.is_private) for file in files]


def _is_there(file: NewFile) -> bool:
    """Whether the file exists and says all that it is to say. Raises BadUsage where it says something else, or one
    would take another's place."""
    existing = _existing_settings(file) if file.said_by is None else _existing_config(file, file.said_by)
    if existing is None:
        return False
    wrong = [key for key, value in _leaves(file.content).items() if _leaves(existing).get(key) != value]
    if wrong:
        hint = f"It has to say: {', '.join(wrong)}. Change it by hand, or move it away and try again."
        raise BadUsage(
            f"'{file.path}' exists and says something else of {wrong[0]}, or nothing. Nothing was written.", hint=hint
        )
    return True


def _existing_config(file: NewFile, said_by: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What a config.json here says; one in `.azureml/` counts too, since a new one would take its place."""
    for path in (file.path, file.path.parent / ".azureml" / file.path.name):
        if os.path.lexists(path):
            try:
                content = said_by(path)
            except HimlError as err:
                raise BadUsage(
                    f"'{path}' exists and is no config of a workspace: {err} Nothing was written.", hint=MOVE
                ) from err
            if content != file.content:
                raise BadUsage(f"'{path}' exists and names something else. Nothing was written.", hint=MOVE)
            return content
    return None


def _existing_settings(file: NewFile) -> Mapping[str, Any] | None:
    for found in find_settings(file.path.parent):
        if found.path == file.path:
            return found.content
        if (found.path.name == PRIVATE_FILE) == file.is_private:
            raise BadUsage(
                f"'{found.path}' holds settings, and a new '{file.path.name}' here would take its place. Nothing was "
                "written.",
                hint=f"Say there by hand: {', '.join(_leaves(file.content))}.",
            )
    if os.path.lexists(file.path):
        raise BadUsage(f"'{file.path}' exists and is no file of settings. Nothing was written.")
    return None


def _leaves(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _toml(value: Any) -> str:
    """A plain value as TOML writes it; JSON's texts are TOML's, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


KINDS = "InnerEye's settings (.yml), DeepSeismic's .env, or a config.json of the Azure portal"


def read_settings(path: Path, folder: Path, read_config: Callable[[Path], Mapping[str, str]]) -> TakenSettings:
    """What the file says; *read_config* reads a `config.json`, *folder* is where the user is. Raises BadUsage for any
    other kind of file.

    Those of them that hold secrets are never part of a snapshot; hence no `.env.example`, which is.
    """
    if path.is_dir():
        raise BadUsage(f"--from: '{path}' is a folder.", hint=f"Name the file in it. It takes {KINDS}.")
    if not path.is_file():
        raise BadUsage(f"--from: there is no file '{path}'.", hint=f"It takes {KINDS}.")
    if path.suffix == ".json":
        return TakenSettings(workspace=read_config(path), read=[path])
    if path.suffix.lower() in YAML_ENDINGS or path.name in PRIVATE_FILES:
        return read_innereye(path, folder)
    if is_dotenv_name(path.name):
        return read_deepseismic(path)
    raise BadUsage(f"--from '{path.name}': himl does not know this kind of file.", hint=f"It takes {KINDS}.")


class Workspaces(Protocol):
    """What is asked of those who know how workspaces are written down."""

    def azure_ids_in(self, path: Path) -> Mapping[str, str]:
        """The keys of the Azure ML workspace that a config file names. Raises HimlError."""

    def azure_ids_set(self) -> Mapping[str, str]:
        """Those keys that environment variables set."""

    def azure_config_text(self, ids: Mapping[str, str], where: str) -> str:
        """A config.json. Raises BadUsage, beginning with *where*, for keys that are missing or wrong."""

    def azure_config_at(self, folder: Path) -> Path | None:
        """The config file that names an Azure ML workspace for those who are in *folder*. Raises HimlError."""

    def make_local(self, folder: Path) -> tuple[Path, bool]:
        """A local workspace in *folder*: its folder, and whether it is new. Raises HimlError."""


@dataclass(frozen=True)
class SetUpRequest:
    """What was asked for, as typed: `source` is a file of settings, `ids` keys of the workspace; nothing: what the
    environment says, else a local one."""

    folder: Path
    source: str | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    local: bool = False


def set_up(request: SetUpRequest, workspaces: Workspaces) -> SetUp:
    """Write what is missing; a file that says something else is left alone. Raises BadUsage then, with nothing written,
    or DiskFailed."""
    source = non_blank("--from", request.source)
    for key, value in request.ids.items():
        non_blank(f"--{key}", value)
    if request.local and (source or request.ids):
        raise BadUsage("--local and the keys of an Azure ML workspace were both given.", hint="Give one of them.")
    if source:
        taken = read_settings(request.folder / expand_home(source), request.folder, workspaces.azure_ids_in)
        return _write(request.folder, taken, {**taken.workspace, **request.ids}, f"'{source}'", workspaces)
    ids = {} if request.local else {**workspaces.azure_ids_set(), **request.ids}
    if ids:
        return _write(request.folder, TakenSettings(), ids, "The workspace", workspaces)
    config = None if request.local else workspaces.azure_config_at(request.folder)
    if config is not None:
        return SetUp([PreparedFile(config, is_new=False)])
    path, is_new = workspaces.make_local(request.folder)
    return SetUp([PreparedFile(path, is_new)])


def _write(folder: Path, taken: TakenSettings, ids: Mapping[str, str], where: str, workspaces: Workspaces) -> SetUp:
    files: list[NewFile] = []
    if ids:
        text = workspaces.azure_config_text(ids, where)
        files.append(NewFile(folder / "config.json", text, json.loads(text), said_by=workspaces.azure_ids_in))
    if taken.public:
        files.append(settings_file(folder, taken.public, is_private=False))
    if taken.private:
        files.append(settings_file(folder, taken.private, is_private=True))
    if not files:
        raise BadUsage(
            f"{where} says nothing that himl could take over.",
            hint="A workspace is named by subscription_id, resource_group and workspace_name.",
        )
    return SetUp(write_all(files), taken.read, taken.left_out)
