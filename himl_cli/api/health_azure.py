"""Functions of hi-ml's `health_azure`: submission in three steps, objects as YAML, and logging levels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from himl_cli.api.exceptions import WrongArgument, naming_submit_arguments
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.submit_if_needed import DEFAULT_SHM_SIZE, Datasets, as_configs
from himl_cli.api.transfer import PathLike
from himl_cli.api.workspace import Run, Workspace
from himl_cli.core.records import dataclass
from himl_cli.core.runs import hi_ml_experiment
from himl_cli.services.submission.request import SubmitRequest

log = logging.getLogger(__name__)

TALKATIVE = {
    **dict.fromkeys(("azure", "azureml", "msal", "msrest", "urllib3", "requests_oauthlib"), logging.WARNING),
    **dict.fromkeys(("adal-python", "azure.identity", "azure.storage"), logging.WARNING),
    **dict.fromkeys(("matplotlib", "numba", "PIL"), logging.INFO),
}
"""Loggers that print much at DEBUG, and their lowest useful level."""


def create_run_configuration(
    workspace: Any,
    compute_cluster_name: str,
    conda_environment_file: PathLike | None = None,
    aml_environment_name: str = "",
    environment_variables: Mapping[str, str] | None = None,
    pip_extra_index_url: str = "",
    private_pip_wheel_path: PathLike | None = None,
    docker_base_image: str = "",
    docker_shm_size: str = "",
    num_nodes: int = 1,
    max_run_duration: str = "",
    input_datasets: Datasets | None = None,
    output_datasets: Datasets | None = None,
) -> SubmitRequest:
    """The cluster, environment and data of a job, for `run_config` of `create_script_run`'s result. Arguments are those
    of `submit_to_azure_if_needed`. It ignores *workspace*, as `submit_run` has its own.

    Sends no request. Raises BadUsage, TypeError and ValueError like `submit_to_azure_if_needed`.
    """
    from himl_cli.api import submission

    inputs, outputs = as_configs(input_datasets), as_configs(output_datasets)
    with naming_submit_arguments():
        environment = submission.environment_of(
            aml_environment_name,
            None,
            conda_environment_file,
            docker_base_image,
            has_default_image=False,
            pip_extra_index_url=pip_extra_index_url or None,
            private_wheel=str(private_pip_wheel_path) if private_pip_wheel_path else None,
        )
        return SubmitRequest(
            cwd=Path.cwd(),
            cluster=compute_cluster_name,
            shm_size=docker_shm_size or DEFAULT_SHM_SIZE,
            env_vars={key: str(value) for key, value in (environment_variables or {}).items()},
            num_nodes=num_nodes,
            max_run_duration=max_run_duration or None,
            inputs=[config.to_input(index) for index, config in enumerate(inputs)],
            outputs=[config.to_output(index) for index, config in enumerate(outputs)],
            no_mpi_single_node=True,
            **environment,
        )


@dataclass()
class ScriptRun:
    """A script for `submit_run`: its path (default: the running script) in a folder (default: the current one). Set
    `run_config` to the result of `create_run_configuration`."""

    script_params: Sequence[str]
    snapshot_root_directory: Path = field(default_factory=Path.cwd)
    entry_script: PathLike | None = None
    run_config: SubmitRequest | None = None


def create_script_run(
    script_params: Sequence[str],
    snapshot_root_directory: PathLike | None = None,
    entry_script: PathLike | None = None,
) -> ScriptRun:
    """The code of a job: the script *entry_script* relative to *snapshot_root_directory* or else the current folder
    (default: the running script), with *script_params*. Set its `run_config` before `submit_run`."""
    root = Path.cwd() / (snapshot_root_directory or "")
    return ScriptRun([str(word) for word in script_params], root, entry_script)


def submit_run(
    workspace: Any,
    experiment_name: str,
    script_run_config: Any,
    tags: Mapping[str, str] | None = None,
    wait_for_completion: bool = False,
    wait_for_completion_show_output: bool = False,
    display_name: str | None = None,
) -> Run:
    """Submit the job to *workspace*, which is himl's, azureml-core's or azure-ai-ml's client, and return its run.

    *script_run_config* is the result of `create_script_run` with its `run_config`. For a sweep, it is the result of
    `create_crossval_hyperdrive_config`, or azureml's `HyperDriveConfig`, with `_run_config` set to that. With
    *wait_for_completion*, the function waits for the end. With *wait_for_completion_show_output*, it also prints the
    log to stdout. Other arguments and errors are those of `submit_to_azure_if_needed`.
    """
    from himl_cli.api import submission

    sweep, script = None, script_run_config
    if not isinstance(script, ScriptRun):
        script, sweep = getattr(script, "_run_config", None), submission.sweep_of(script, None)
    if not isinstance(script, ScriptRun) or script.run_config is None:
        raise WrongArgument(
            "script_run_config has no run_config.",
            hint="Set it: script_run_config.run_config = create_run_configuration(...)",
        )
    opened = resolve_workspace(workspace)
    with naming_submit_arguments():
        root = script.snapshot_root_directory
        what = submission.entry_of(script.entry_script, None, root, Path.cwd(), is_root_given=True)
        request = replace(
            script.run_config,
            **what,
            arguments=script.script_params,
            snapshot_root=str(root),
            experiment=hi_ml_experiment(experiment_name),
            tags={key: str(value) for key, value in (tags or {}).items()},
            display_name=display_name or "",
            ready_sweep=sweep,
        )
        follows = wait_for_completion and wait_for_completion_show_output
        record = submission.run_job(request, opened, waits=wait_for_completion, follows=follows)
    return Run(Workspace.of(opened), record)


def register_environment(workspace: Any, environment: Any) -> Any:
    """The azure-ai-ml environment in *workspace* with the name and version of *environment* (default: version 1),
    registered if it does not exist. Raises errors of azure-ai-ml, TypeError for other objects."""
    from himl_cli.workspaces.resolve import register_environment as register

    return register(resolve_workspace(workspace), environment)


def object_to_yaml(o: Any) -> str:
    """The public attributes of *o* as YAML: text, numbers, None, lists and mappings unchanged, enumerations by name,
    paths as text, other objects as mappings of their attributes. Raises ValueError for an unsupported value."""
    from himl_cli.services.yaml_files import dump_mapping

    return dump_mapping({name: _plain(name, value) for name, value in _attributes(o).items()})


def write_yaml_to_object(o: Any, yaml_string: str, strict: bool = False) -> None:
    """Set the attributes of *o* from the result of `object_to_yaml`, converted to their current types. Logs a warning
    for an unknown name or a value of another type. With *strict*, raises ValueError instead, after setting the others.
    Raises BadUsage (also a ValueError) for a text that is not a YAML mapping."""
    from himl_cli.core.errors import BadUsage
    from himl_cli.services.yaml_files import parse_mapping

    try:
        found = parse_mapping(yaml_string, Path("yaml_string"))
    except BadUsage as err:
        raise WrongArgument(str(err), hint=err.hint) from err
    problems = _write(o, found, "")
    for problem in problems if not strict else ():
        log.warning("%s", problem)
    if problems and strict:
        raise ValueError(" ".join(problems))


def _attributes(o: Any) -> dict[str, Any]:
    """The attributes of *o* with their values: the parameters of `param` except for its name, or else the attributes of
    the object."""
    if hasattr(o, "param") and hasattr(o.param, "values"):
        return {name: value for name, value in o.param.values().items() if name != "name"}
    return {name: value for name, value in vars(o).items() if not name.startswith("_")}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(name, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(name, each) for each in value]
    if not hasattr(value, "__dict__"):
        raise ValueError(f"Attribute '{name}' has type {type(value).__qualname__}, which YAML does not support.")
    return {name: _plain(name, each) for name, each in _attributes(value).items()}


def _write(o: Any, values: Mapping[str, Any], above: str) -> list[str]:
    """Set the attributes of *o*, and return a sentence for each problem."""
    problems, known = [], _attributes(o)
    for name, value in values.items():
        where, now = f"{above}{name}", known.get(name)
        if name not in known:
            problems.append(f"'{where}' is not an attribute of {type(o).__qualname__}.")
        elif isinstance(now, Enum):
            if value in type(now).__members__:
                setattr(o, name, type(now)[value])
            else:
                problems.append(f"'{where}' cannot be '{value}'. Values: {', '.join(type(now).__members__)}.")
        elif isinstance(value, Mapping) and hasattr(now, "__dict__"):
            problems += _write(now, value, f"{where}.")
        elif now is None or value is None:
            setattr(o, name, value)
        else:
            kinds = (type(now), int) if isinstance(now, float) else (type(now),)
            text = isinstance(now, Path) and isinstance(value, str)
            sequence = isinstance(now, tuple) and isinstance(value, list)
            if text or sequence or isinstance(value, kinds):
                setattr(o, name, type(now)(value))
            else:
                kind = type(now).__qualname__
                problems.append(f"'{where}' must have type {kind}, but {value!r} has type {type(value).__qualname__}.")
    return problems


def set_logging_levels(levels: Mapping[str, int]) -> None:
    """Set the level of each logger by name: `{"azure": logging.INFO}`."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def health_azure_package_setup() -> None:
    """Reduce the logging of packages that himl and hi-ml's scripts use, whose lines at DEBUG would hide the
    script's."""
    set_logging_levels(TALKATIVE)
