"""Errors of himl that are also the built-in exceptions that users of hi-ml catch. Each stands alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, WorkspaceNotFound


class NoWorkspace(WorkspaceNotFound, ValueError):
    """No workspace is given or configured (hi-ml: ValueError)."""


class ConfigNotFound(WorkspaceNotFound, FileNotFoundError):
    """The given config file does not exist (hi-ml: FileNotFoundError)."""


class NotThere(NotFound, FileNotFoundError):
    """Files, or their datastore or folder, do not exist (hi-ml: FileNotFoundError)."""


class NoDatastore(NotThere, KeyError, ValueError):
    """The workspace has no such datastore (hi-ml: KeyError for transfers, ValueError for datasets)."""


class NoFolder(NotThere, TypeError):
    """The folder to upload does not exist (hi-ml: TypeError)."""


class NoRecoveryId(BadUsage, ValueError):
    """The text is not a recovery id of a run (hi-ml: ValueError)."""


class NoChildren(BadUsage, ValueError):
    """The run has no child runs, or no run is given (hi-ml: ValueError)."""


class PackageMissing(BadUsage, ImportError):
    """An optional package is not installed. The hint contains the command."""


_WORDS = re.compile(r"--(select|metric|goal|name_offset|expiry_days|overwrite)\b")


@contextmanager
def naming_checkpoint_arguments() -> Iterator[None]:
    """Replace the commands' options in himl's errors with Python's arguments for checkpoints. A context manager or
    decorator."""
    try:
        yield
    except HimlError as err:
        err.args = (_WORDS.sub(r"\1", str(err)),)
        err.hint = _WORDS.sub(r"\1", err.hint)
        raise


@contextmanager
def raising(ours: type[NotFound | BadUsage], both: type[NotFound | BadUsage]) -> Iterator[None]:
    """Convert errors of exactly the kind *ours* (by their code) to *both*, with the same message."""
    try:
        yield
    except ours as err:
        if err.code != ours.code or isinstance(err, both):
            raise
        raise both(str(err), hint=err.hint) from err


@contextmanager
def one_line_if_uncaught() -> Iterator[None]:
    """Let an uncaught error of himl end the program with one line, a hint and its exit code.

    Debuggers and notebooks, which show exceptions themselves, still show the traceback.
    """
    try:
        yield
    except HimlError as err:
        error, before = err, sys.excepthook

        def hook(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
            if failure is not error:
                before(kind, failure, trace)
                return
            from himl_cli.render.output import print_error  # rarely needed

            print_error(error, as_json=False)
            if not (sys.flags.inspect or hasattr(sys, "ps1")):  # the prompt continues
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
"""Options of `himl submit`, and their names in `submit_to_azure_if_needed`."""


class WrongArgument(BadUsage, ValueError):
    """An argument is invalid (hi-ml: ValueError)."""


class NotAFolder(WrongArgument, TypeError):
    """A file is given in place of a folder (hi-ml: TypeError)."""


class NoFile(WrongArgument, FileNotFoundError):
    """A file of the submission does not exist (hi-ml: FileNotFoundError)."""


class Unknown(NotFound, ValueError):
    """The workspace has no such cluster, environment, datastore or dataset (hi-ml: ValueError)."""


class NotCompleted(JobFailed, ValueError):
    """The run did not complete (hi-ml: ValueError)."""


@contextmanager
def naming_submit_arguments() -> Iterator[None]:
    """Replace options in himl's errors with arguments, convert those of usage and of unknown names to ValueErrors, and
    add the hint to the traceback (from Python 3.11)."""

    def translate(text: str) -> str:
        return re.sub(r"--(\w+)", lambda found: ARGUMENTS.get(found[1], found[0]), text)

    try:
        yield
    except HimlError as err:
        error, hint = err, translate(err.hint)
        if isinstance(err, BadUsage):
            kind = type(err) if isinstance(err, WrongArgument) else WrongArgument
            error = kind(translate(str(err)), hint=hint)
        elif err.code == NotFound.code:
            error = Unknown(translate(str(err)), hint=hint)
        elif isinstance(err, JobFailed):
            error = NotCompleted(str(err), hint=err.hint)
        else:
            err.hint = hint
        if error.hint and hasattr(error, "add_note"):
            error.add_note(error.hint)
        if error is err:
            raise
        raise error from err.__cause__
