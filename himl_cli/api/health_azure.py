"""Functions of hi-ml's `health_azure`: submission in three steps, objects as YAML, and logging levels. They stay
together because scripts of hi-ml import them from one module of this name."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from himl_cli.api.exceptions import WrongArgument, naming_submit_arguments
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.submit_if_needed import DEFAULT_ENVIRONMENT_VARIABLES, DEFAULT_SHM_SIZE, Datasets, as_configs
from himl_cli.api.transfer import PathLike, log_notice
from himl_cli.api.workspace import Run, Workspace
from himl_cli.core.jobs import DataSpec
from himl_cli.core.records import dataclass
from himl_cli.core.runs import hi_ml_experiment
from himl_cli.core.text import parse_duration
from himl_cli.services.submission.request import SubmitRequest

log = logging.getLogger(__name__)

TALKATIVE = {
    **dict.fromkeys(("azure", "azureml", "msal", "msrest", "urllib3", "requests_oauthlib"), logging.WARNING),
    **dict.fromkeys(("adal-python", "azure.identity", "azure.storage"), logging.WARNING),
    **dict.fromkeys(("matplotlib", "numba", "PIL"), logging.INFO),
}
"""Loggers that print much at DEBUG, and their lowest useful level."""


@dataclass(slots=True)
class MpiConfiguration:
    """Numbers of nodes, and of processes on each."""

    node_count: int = 1
    process_count_per_node: int = 1


@dataclass(slots=True)
class DockerConfiguration:
    """The shared memory of the container, with the unit of `docker_shm_size`."""

    shm_size: str = DEFAULT_SHM_SIZE


@dataclass(slots=True)
class RunConfiguration:
    """The cluster, environment and data of a job, with names of azureml-core's class. No other attributes can be set.

    `environment` has himl's options. `data` and `output_data` have the datasets by key. The job uses MPI if
    `communicator` is not `None`, the text.
    """

    target: str
    environment: Mapping[str, Any]
    environment_variables: dict[str, str]
    node_count: int = 1
    max_run_duration_seconds: float | None = None
    framework: str = "Python"
    communicator: str = "None"
    docker: DockerConfiguration = field(default_factory=DockerConfiguration)
    mpi: MpiConfiguration = field(default_factory=MpiConfiguration)
    data: dict[str, DataSpec] = field(default_factory=dict)
    output_data: dict[str, DataSpec] = field(default_factory=dict)


def create_run_configuration(
    workspace: Any,
    compute_cluster_name: str,
    conda_environment_file: PathLike | None = None,
    docker_build_context: Any = None,
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
    use_mpi_run_for_single_node_jobs: bool = False,
) -> RunConfiguration:
    """The cluster, environment and data of a job, for `run_config` of `create_script_run`'s result. Arguments are those
    of `submit_to_azure_if_needed`. As in hi-ml, the job also gets the variables of DEFAULT_ENVIRONMENT_VARIABLES. It
    ignores *workspace*, as `submit_run` has its own.

    Sends no request. Raises BadUsage (also a ValueError) unless exactly one of *conda_environment_file*,
    *docker_build_context* and *aml_environment_name* is given, and BadUsage, TypeError and ValueError like
    `submit_to_azure_if_needed`.
    """
    from himl_cli.api import submission

    given = (conda_environment_file, docker_build_context, aml_environment_name)
    if sum(each not in (None, "") for each in given) != 1:
        names = "conda_environment_file, docker_build_context and aml_environment_name"
        raise WrongArgument(f"Pass exactly one of {names}.")
    inputs, outputs = as_configs(input_datasets), as_configs(output_datasets)
    with naming_submit_arguments():
        environment = submission.environment_of(
            aml_environment_name,
            docker_build_context,
            conda_environment_file,
            docker_base_image,
            False,
            pip_extra_index_url,
            private_pip_wheel_path,
        )
        seconds = parse_duration(max_run_duration, "--max_run_duration") if max_run_duration else None
    own = {key: str(value) for key, value in (environment_variables or {}).items()}
    return RunConfiguration(
        compute_cluster_name,
        environment,
        {**DEFAULT_ENVIRONMENT_VARIABLES, **own},
        num_nodes,
        seconds,
        communicator="IntelMpi" if num_nodes > 1 or use_mpi_run_for_single_node_jobs else "None",
        docker=DockerConfiguration(docker_shm_size or DEFAULT_SHM_SIZE),
        mpi=MpiConfiguration(num_nodes),
        data={spec.key: spec for spec in (config.to_input(index) for index, config in enumerate(inputs))},
        output_data={spec.key: spec for spec in (config.to_output(index) for index, config in enumerate(outputs))},
    )


@dataclass(slots=True)
class ScriptRunConfig:
    """A program for `submit_run`, with names of azureml-core's class: `command`, or a `script` and its `arguments`, in
    the folder `source_directory`. Set `run_config` to the result of `create_run_configuration`."""

    source_directory: str
    script: str | None = None
    arguments: Sequence[str] | None = None
    command: Sequence[str] | str | None = None
    run_config: Any = None


def create_script_run(
    script_params: Sequence[str],
    snapshot_root_directory: PathLike | None = None,
    entry_script: PathLike | None = None,
    entry_command: PathLike | None = None,
    python_executable: str = "python",
) -> ScriptRunConfig:
    """The code of a job: the script *entry_script* relative to *snapshot_root_directory* or else the current folder
    (default: the running script), with *script_params*, started by *python_executable*. *entry_command* replaces script
    and interpreter. Set `run_config` of the result before `submit_run`.

    Raises BadUsage (also a ValueError) for a script outside of *snapshot_root_directory*.
    """
    from himl_cli.api import submission

    root, words = Path(os.path.abspath(snapshot_root_directory or "")), [str(word) for word in script_params]
    if entry_command is not None:
        return ScriptRunConfig(str(root), command=[str(entry_command), *words])
    script = entry_script
    if script is None:
        running = submission.entry_of(None, None, root, Path.cwd(), checks_root=False)
        script = Path.cwd() / running["target"] if running["target"] else f"-m {running['module']}"
    name = Path(script)
    if name.is_absolute() and not name.is_relative_to(root):
        raise WrongArgument(f"entry_script '{name}' must be in snapshot_root_directory, '{root}'.")
    relative = name.relative_to(root) if name.is_absolute() else name
    return ScriptRunConfig(str(root), command=[python_executable, relative.as_posix(), *words])


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

    *script_run_config* is the result of `create_script_run` with its `run_config`, or azureml-core's ScriptRunConfig.
    For a sweep, it is the result of `create_crossval_hyperdrive_config`, or azureml's `HyperDriveConfig`, with
    `_run_config` set to that. If *tags* is None, the run gets the tag `commandline_args`. With *wait_for_completion*,
    the function waits for the end. With *wait_for_completion_show_output*, it also prints the log to stdout. Other
    arguments and errors are those of `submit_to_azure_if_needed`.
    """
    from himl_cli.api import submission

    sweep, script = None, script_run_config
    if not hasattr(script, "source_directory"):
        script, sweep = getattr(script, "_run_config", None), submission.sweep_of(script, None)
    if getattr(script, "run_config", None) is None:
        raise WrongArgument(
            "script_run_config has no run_config.",
            hint="Set it: script_run_config.run_config = create_run_configuration(...)",
        )
    opened = resolve_workspace(workspace)
    with naming_submit_arguments(), TemporaryDirectory(prefix="himl-conda-") as folder:
        request = SubmitRequest(
            cwd=Path.cwd(),
            **_program(script),
            **_compute(script.run_config),
            **_environment(script.run_config.environment, Path(folder)),
            snapshot_root=str(script.source_directory),
            experiment=hi_ml_experiment(experiment_name),
            display_name=display_name or "",
            ready_sweep=sweep,
        )
        follows = wait_for_completion and wait_for_completion_show_output
        tagged = submission.with_tags(request, tags)
        record = submission.run_job(tagged, opened, waits=wait_for_completion, follows=follows)
    return Run(Workspace.of(opened), record)


def _program(script: Any) -> dict[str, Any]:
    """The options for the program of himl's or azureml-core's ScriptRunConfig."""
    from himl_cli.api import submission

    root, cwd, command = Path(script.source_directory), Path.cwd(), script.command
    entry, interpreter, arguments = script.script, "python", script.arguments or []
    if isinstance(command, str):
        entry, arguments = None, []
    elif command:
        program, *words = command
        is_script = any(str(word).endswith(".py") or str(word).startswith("-m ") for word in words[:1])
        entry, interpreter, arguments = (words[0], program, words[1:]) if is_script else (None, "python", words)
        command = None if is_script else program
    arguments = shlex.split(arguments) if isinstance(arguments, str) else arguments
    for word in arguments:
        if not isinstance(word, (str, int, float, os.PathLike)):
            kind = type(word).__qualname__
            raise WrongArgument(
                f"An argument must be text, not {kind}.", hint="For data, use create_run_configuration."
            )
    found = submission.entry_of(entry, command or None, root, cwd, checks_root=False)
    return {**found, "arguments": [str(word) for word in arguments], "python_executable": interpreter}


def _compute(config: Any) -> dict[str, Any]:
    """The options for cluster, nodes and data of himl's or azureml-core's RunConfiguration."""
    if str(config.target or "local") == "local":
        raise WrongArgument("run_config has no cluster.", hint="Use create_run_configuration, or set its target.")
    data = [*config.data.values(), *config.output_data.values()]
    if not all(isinstance(each, DataSpec) for each in data):
        raise WrongArgument("himl does not support azureml-core's datasets.", hint="Use create_run_configuration.")
    is_torch, is_mpi = config.framework.lower() == "pytorch", str(config.communicator) != "None"
    processes = config.pytorch.process_count // config.node_count if is_torch and config.pytorch.process_count else None
    seconds = config.max_run_duration_seconds
    return {
        "cluster": str(config.target),
        "env_vars": {key: str(value) for key, value in config.environment_variables.items()},
        "num_nodes": config.node_count,
        "processes_per_node": processes or (config.mpi.process_count_per_node if is_mpi else None),
        "distribution": "pytorch" if is_torch else "mpi" if is_mpi else None,
        "no_mpi_single_node": not is_mpi,
        "shm_size": config.docker.shm_size or DEFAULT_SHM_SIZE,
        "max_run_duration": f"{seconds}s" if seconds else None,
        "inputs": [*config.data.values()],
        "outputs": [*config.output_data.values()],
    }


def _environment(environment: Any, folder: Path) -> dict[str, Any]:
    """The options of `create_run_configuration`, or those for azureml-core's Environment: the registered one, or else
    its image and packages, which go to a file in *folder*."""
    if isinstance(environment, Mapping):
        return dict(environment)
    if environment.version:
        return {"environment": f"{environment.name}:{environment.version}"}
    if environment.docker.base_dockerfile or not environment.docker.base_image:
        raise WrongArgument(
            f"Environment '{environment.name}' is not registered, and has no base image.",
            hint="Use docker_build_context of create_run_configuration.",
        )
    file = folder / "conda.yml"
    file.write_text(environment.python.conda_dependencies.serialize_to_string(), encoding="utf-8")
    conda = () if environment.python.user_managed_dependencies else (str(file),)
    return {"conda_env": conda, "docker_image": environment.docker.base_image}


def register_environment(workspace: Any, environment: Any) -> Any:
    """The azure-ai-ml environment in *workspace* with the name and version of *environment* (default: version 1),
    registered if it does not exist. Raises errors of azure-ai-ml, TypeError for other objects."""
    from himl_cli.services.submission.snapshot import list_upload
    from himl_cli.workspaces.azure.workspace import azure_only

    found = azure_only(resolve_workspace(workspace), "Environments exist in Azure ML workspaces only.")
    return found.register_environment(environment, list_upload, notify=log_notice)


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
