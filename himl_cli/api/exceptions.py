"""Errors that are himl's and also the built-in ones that hi-ml's users catch."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, WorkspaceNotFound


class NoWorkspace(WorkspaceNotFound, ValueError):
    """No workspace was given, and none is configured (hi-ml: ValueError)."""


class ConfigNotFound(WorkspaceNotFound, FileNotFoundError):
    """The config file that was given is not there (hi-ml: FileNotFoundError)."""


class NotThere(NotFound, FileNotFoundError):
    """The files that are meant, or the datastore or folder that should hold them, are not there (hi-ml:
    FileNotFoundError)."""


class NoRecoveryId(BadUsage, ValueError):
    """The text is no recovery id of a run (hi-ml: ValueError)."""


class NoChildren(BadUsage, ValueError):
    """A run that has children is meant, and this one has none, or none is given (hi-ml: ValueError)."""


class PackageMissing(BadUsage, ImportError):
    """A package that himl does not bring along is not installed; the hint says how to."""


_WORDS = re.compile(r"--(select|metric|goal|expiry_days|overwrite)\b")


@contextmanager
def naming_checkpoint_arguments() -> Iterator[None]:
    """Within it, or in what it decorates, errors of himl name Python's arguments of checkpoints where they name the
    commands' options."""
    try:
        yield
    except HimlError as err:
        err.args = (_WORDS.sub(r"\1", str(err)),)
        err.hint = _WORDS.sub(r"\1", err.hint)
        raise


@contextmanager
def raising(ours: type[NotFound | BadUsage], both: type[NotFound | BadUsage]) -> Iterator[None]:
    """Within it, errors of exactly the kind *ours* (by their code) are raised as *both*, with the same words."""
    try:
        yield
    except ours as err:
        if err.code != ours.code:
            raise
        raise both(str(err), hint=err.hint) from err


@contextmanager
def one_line_if_uncaught() -> Iterator[None]:
    """Within it, errors of himl are raised as they are; one that nothing catches ends the program in one line and a
    hint, with its exit code.

    Debuggers and notebooks, which show exceptions themselves, show its traceback as before.
    """
    try:
        yield
    except HimlError as err:
        error, before = err, sys.excepthook

        def hook(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
            if failure is not error:
                before(kind, failure, trace)
                return
            from himl_cli.render.output import print_error  # hardly ever needed

            print_error(error, as_json=False)
            if not (sys.flags.inspect or hasattr(sys, "ps1")):  # Python's prompt goes on
                sys.exit(error.exit_code)

        sys.excepthook = hook
        raise


ARGUMENTS = {
    "cluster": "compute_cluster_name",
    "snapshot_root": "snapshot_root_directory",
    "conda_env": "conda_environment_file",
    "environment": "aml_environment_name",
    "docker_image": "docker_base_image",
    "shm_size": "docker_shm_size",
    "env_var": "environment_variables",
    "private_wheel": "private_pip_wheel_path",
    "processes_per_node": "pytorch_processes_per_node_v2",
    "experiment": "experiment_name",
    "tag": "tags",
    "input": "input_datasets",
    "output": "output_datasets",
    "config_file": "workspace_config_file",
    "command": "entry_command",
    "ssh_key": "ssh_key",
    "jupyter": "jupyter",
    "vscode": "vscode",
    "tensorboard_logs": "tensorboard_logs",
    "instance_type": "instance_type",
    "resources_properties": "resources_properties",
    "build_context": "build_context",
    "dockerfile": "build_context's dockerfile_path",
    "identity": "identity_based_auth",
    "pip_extra_index_url": "pip_extra_index_url",
    "num_nodes": "num_nodes",
    "max_run_duration": "max_run_duration",
    "display_name": "display_name",
    "ignored_folders": "ignored_folders",
    "default_datastore": "default_datastore",
    "sweep": "hyperparameter",
    "sampling": "sampling_algorithm",
    "max_trials": "max_total_trials",
    "max_concurrent": "max_concurrent_trials",
    "early_stop": "early_termination",
    "primary_metric": "primary_metric",
    "goal": "goal",
}
"""Options of `himl submit`, and what the same thing is called in `submit_to_azure_if_needed`."""


class WrongArgument(BadUsage, ValueError):
    """An argument cannot be used (hi-ml: ValueError)."""


class NotCompleted(JobFailed, ValueError):
    """The run was waited for and did not complete (hi-ml: ValueError)."""


@contextmanager
def naming_submit_arguments() -> Iterator[None]:
    """Within it, errors speak of arguments, wrong ones are ValueErrors too, and a traceback shows the hint (from Python
    3.11 on)."""

    def translate(text: str) -> str:
        return re.sub(r"--(\w+)", lambda found: ARGUMENTS.get(found[1], found[0]), text)

    try:
        yield
    except HimlError as err:
        error, hint = err, translate(err.hint)
        if isinstance(err, BadUsage):
            error = WrongArgument(translate(str(err)), hint=hint)
        elif isinstance(err, JobFailed):
            error = NotCompleted(str(err), hint=err.hint)
        else:
            err.hint = hint
        if error.hint and hasattr(error, "add_note"):
            error.add_note(error.hint)
        if error is err:
            raise
        raise error from err.__cause__
