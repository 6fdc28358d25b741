"""Send the script that calls `submit_to_azure_if_needed` to Azure ML."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himl_cli.api.datasets import Asked, DatasetConfig, meant_workspace
from himl_cli.api.errors import in_words_of_arguments
from himl_cli.api.hyperdrive import sweep_of_args, sweep_of_config, trial_seconds_of
from himl_cli.api.transfer import PathLike
from himl_cli.core.errors import BadUsage, Interrupted
from himl_cli.core.jobs import HERE
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SEARCH_SPACE, SweepSpec
from himl_cli.core.workspaces import HOW_TO_CONFIGURE
from himl_cli.render.jobs import print_ended, print_prepared, print_sent
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
from himl_cli.services.naming import hi_ml_experiment
from himl_cli.services.runs.details import sweep_outcome
from himl_cli.services.runs.logs import watching
from himl_cli.services.submission.entry import check_root
from himl_cli.services.submission.environment import CONDA_NAMES
from himl_cli.services.submission.prepare import prepare_job, submit_job
from himl_cli.services.submission.request import PreparedJob, SubmitRequest, parse_duration
from himl_cli.services.submission.wait import (
    follow_to_end,
    last_lines_of_failed_rank,
    last_lines_of_failure,
    raise_unless_completed,
    wait_for_end,
)
from himl_cli.services.transfer.ranks import local_rank
from himl_cli.workspaces.base import JobRunner, Workspace
from himl_cli.workspaces.resolve import require_sdk_v1, sdk_run, sdk_view

log = logging.getLogger(__name__)

EXPERIMENT_VARIABLE = "HIML_EXPERIMENT_NAME"


def request_of(
    asked: Asked, inputs: Sequence[DatasetConfig], outputs: Sequence[DatasetConfig], flag: str, default_image: str
) -> SubmitRequest:
    """What is to be submitted; *flag* is left out of the script's arguments, *default_image* is the image that nobody
    asked for.

    Raises BadUsage for a search for hyperparameters that cannot be sent, and for a cluster that is not named.
    """
    _check(asked)
    cwd = Path.cwd()
    root = _absolute(cwd, asked.snapshot_root_directory) or cwd
    command = str(asked.entry_command) if asked.entry_command is not None else None
    target, module = (None, None) if command else _entry(asked.entry_script, root, cwd)
    if asked.snapshot_root_directory is None:
        check_root(root, cwd / target if target else None)
    sweep = _sweep(asked)
    return SubmitRequest(
        cwd=cwd,
        target=target,
        module=module,
        command=command,
        arguments=(*_arguments(asked, flag), *_values(asked, sweep)),
        cluster=asked.compute_cluster_name,
        python_executable=asked.python_executable,
        instance_type=asked.instance_type or "",
        resource_properties=asked.resources_properties or {},
        vscode=asked.vscode
        and sweep is None
        and not asked.strictly_aml_v1,  # wanted where it can be had, since it is the default
        jupyter=asked.jupyter,
        ssh_key=asked.ssh_key,
        tensorboard_logs=None if asked.tensorboard_logs is None else Path(asked.tensorboard_logs).as_posix(),
        num_nodes=asked.num_nodes,
        processes_per_node=asked.pytorch_processes_per_node_v2,
        no_mpi_single_node=not asked.use_mpi_run_for_single_node_jobs,
        shm_size=asked.docker_shm_size,
        identity="user" if asked.identity_based_auth else None,
        max_run_duration=_longest(asked),
        snapshot_root=str(root),
        ignored_folders=[str(folder) for folder in asked.ignored_folders or ()],
        env_vars={name: str(value) for name, value in (asked.environment_variables or {}).items()},
        experiment=_experiment(asked),
        display_name=asked.display_name or "",
        tags={name: str(value) for name, value in (asked.tags or {}).items()},
        inputs=[config.to_input(index) for index, config in enumerate(inputs)],
        outputs=[config.to_output(index) for index, config in enumerate(outputs)],
        default_datastore=asked.default_datastore or None,
        sdk="v1" if asked.strictly_aml_v1 else "v2",
        ready_sweep=sweep,
        **_environment(asked, cwd, default_image),
    )


def _check(asked: Asked) -> None:
    if asked.hyperdrive_config is not None and asked.hyperparam_args is not None:
        raise BadUsage(
            "hyperdrive_config and hyperparam_args were both given.",
            hint="They say the same in two forms: leave one of them out.",
        )
    if asked.compute_cluster_name in ("", HERE):
        raise BadUsage(
            "compute_cluster_name does not name a cluster of Azure ML.",
            hint="To run the script here, leave --azureml out.",
        )


def _experiment(asked: Asked) -> str | None:
    """The variable goes before the argument, as in hi-ml."""
    name = os.environ.get(EXPERIMENT_VARIABLE) or asked.experiment_name
    return hi_ml_experiment(name) if name else None


def _sweep(asked: Asked) -> SweepSpec | None:
    if asked.hyperdrive_config is not None:
        return sweep_of_config(asked.hyperdrive_config)
    return sweep_of_args(asked.hyperparam_args) if asked.hyperparam_args is not None else None


def _arguments(asked: Asked, flag: str) -> Sequence[str]:
    return (
        [*map(str, asked.script_params)]
        if asked.script_params is not None
        else [word for word in sys.argv[1:] if word != flag]
    )


def _values(asked: Asked, sweep: SweepSpec | None) -> Sequence[str]:
    """The arguments by which a trial gets its values, where they do not begin with `--` as himl has them."""
    if sweep is None or asked.hyperparam_args is None or asked.hyperdrive_argument_prefix == "--":
        return ()
    return [f"{asked.hyperdrive_argument_prefix}{name}=${{{{{SEARCH_SPACE}.{name}}}}}" for name in sweep.space]


def _longest(asked: Asked) -> str | None:
    """How long the job, or each trial, may take."""
    seconds = trial_seconds_of(asked.hyperparam_args) if asked.hyperparam_args is not None else None
    if seconds is None:
        return asked.max_run_duration or None
    if asked.max_run_duration and parse_duration(asked.max_run_duration, "--max_run_duration") != seconds:
        raise BadUsage(
            "max_run_duration and hyperparam_args' trial_timeout are two limits of each trial.",
            hint="Leave one of them out.",
        )
    return f"{seconds}s"


def _entry(given: PathLike | None, root: Path, cwd: Path) -> tuple[str | None, str | None]:
    """The script, or the module (`-m NAME`, or the one that `python -m` runs from the snapshot's root); one of them is
    None."""
    if given is not None and str(given).startswith("-m "):
        return None, str(given)[3:].strip()
    if given is not None:
        path = root / given
        return _seen_from(cwd, path if path.exists() else cwd / given), None
    running = sys.modules["__main__"]
    file, spec = getattr(running, "__file__", None), getattr(running, "__spec__", None)
    if file is None:
        raise BadUsage("No script is running that could be submitted.", hint="Name one with entry_script.")
    if spec is not None and Path(sys.argv[0]).absolute() == Path(file).absolute():
        module = spec.name.removesuffix(".__main__")
        if Path(file).resolve() in _files_of(module, root.resolve()):
            return None, module
    return _seen_from(cwd, Path(file).absolute()), None


def _seen_from(cwd: Path, path: Path) -> str:
    """*path* as a person in *cwd* would write it; it becomes a tag of the run."""
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def _files_of(module: str, root: Path) -> tuple[Path, Path]:
    place = root.joinpath(*module.split("."))
    return place.with_name(f"{place.name}.py"), place / "__main__.py"


def _environment(asked: Asked, cwd: Path, default_image: str) -> dict[str, Any]:
    """A registered environment counts alone, as in hi-ml; else one is made from files."""
    if asked.aml_environment_name:
        return {"environment": asked.aml_environment_name}
    if asked.build_context is not None:
        return _built(asked, cwd)
    found = _absolute(cwd, asked.conda_environment_file) or _nearest_conda_file(cwd)
    has_own_image = asked.docker_base_image not in ("", default_image)
    return {
        "conda_env": (str(found),) if found else (),
        "docker_image": asked.docker_base_image if (found and asked.docker_base_image) or has_own_image else None,
        "pip_extra_index_url": asked.pip_extra_index_url or None,
        "private_wheel": str(asked.private_pip_wheel_path) if asked.private_pip_wheel_path else None,
    }


def _built(asked: Asked, cwd: Path) -> dict[str, Any]:
    """What an image is built from: the objects of both SDKs have the same in other words."""
    if asked.conda_environment_file:
        raise BadUsage("build_context and conda_environment_file were both given.", hint="Leave one of them out.")
    given = asked.build_context
    place = getattr(given, "path", None) or getattr(given, "location", None) or given
    if not isinstance(place, (str, os.PathLike)):
        raise BadUsage(f"build_context is neither a folder nor a BuildContext, but of type {type(given).__qualname__}.")
    return {"build_context": str(place), "dockerfile": getattr(given, "dockerfile_path", None)}


def _nearest_conda_file(cwd: Path) -> Path | None:
    """hi-ml looks in the current folder and above, wherever the script lies."""
    candidates = (folder / name for folder in (cwd, *cwd.parents) for name in CONDA_NAMES)
    return next((path for path in candidates if path.is_file()), None)


def _absolute(cwd: Path, given: PathLike | None) -> Path | None:
    return cwd / given if given else None


def submit(
    asked: Asked, inputs: Sequence[DatasetConfig], outputs: Sequence[DatasetConfig], flag: str, default_image: str
) -> Any:
    """Submit what was asked for, say where it is, wait where that is wanted, and end the process with code 0, or give
    the SDK's job or run.

    Raises HimlError where that fails; nothing is sent then, or the message says what was.
    """
    me = local_rank(os.environ)
    if me is not None and me.rank > 0:
        sys.exit(0)  # a launcher started the script several times; its first rank submits it
    output = Output()
    with in_words_of_arguments():
        request = request_of(asked, inputs, outputs, flag, default_image)
        if asked.strictly_aml_v1:
            require_sdk_v1()
        workspace = meant_workspace(asked)
        if workspace is None:
            raise BadUsage(
                "No Azure ML workspace is given, and none is configured.",
                hint=f"{HOW_TO_CONFIGURE} Or pass workspace_config_file.",
            )
        try:
            run = _submit(asked, workspace, prepare_job(request), output)
            if not asked.exit_on_completion:
                return sdk_run(workspace, run.id) if asked.strictly_aml_v1 else sdk_view(workspace, run.id)[0]
        except Interrupted as err:
            output.notice(f"{err} {err.hint}".strip())
            sys.exit(err.exit_code)
        finally:
            if asked.exit_on_completion:  # else a run of azureml-core goes on using it
                workspace.close()
    sys.exit(0)


def _submit(asked: Asked, workspace: Workspace, job: PreparedJob, output: Output) -> Run:
    if not isinstance(workspace, JobRunner):
        raise BadUsage(f"{workspace.label} runs no jobs.")
    print_prepared(output, job.remarks, job.report)
    follows = asked.wait_for_completion and asked.wait_for_completion_show_output
    with observing(output) as notify:
        run = submit_job(workspace, job, Path.cwd(), notify)
    with watching(run.id):
        print_sent(output, run, waits=asked.wait_for_completion, follows=follows)
        _call_after_submission(asked, workspace, run)
        if asked.wait_for_completion:
            _wait(workspace, run, output, follows=follows, trials=job.spec.sweep.max_trials if job.spec.sweep else 0)
    return run


def _call_after_submission(asked: Asked, workspace: Workspace, run: Run) -> None:
    """Give the user's function what the SDK that was chosen has for the run."""
    if asked.after_submission is None:
        return
    if asked.strictly_aml_v1:
        asked.after_submission(sdk_run(workspace, run.id))
    else:
        job, client = sdk_view(workspace, run.id)
        asked.after_submission(job, asked.ml_client if asked.ml_client is not None else client)


def _wait(workspace: Workspace, run: Run, output: Output, *, follows: bool, trials: int) -> None:
    """Wait until the run has ended, its log shown as it grows, or where it failed its last lines, and of a sweep the
    best *trials*. Raises JobFailed."""
    with observing(output) as notify:
        ended = (
            follow_to_end(workspace, run.id, output.stream, notify)
            if follows
            else wait_for_end(workspace, run.id, notify, trials)
        )
    output.end_line()
    unseen = last_lines_of_failed_rank if follows else last_lines_of_failure
    sweep = sweep_outcome(workspace, ended)
    print_ended(output, ended, unseen(workspace, ended), sweep)
    raise_unless_completed(ended, sweep=sweep)
