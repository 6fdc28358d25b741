"""What himl's services say of options, said of arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from himl_cli.core.errors import BadUsage, HimlError, JobFailed

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
def in_words_of_arguments() -> Iterator[None]:
    """Within it, errors speak of arguments, wrong ones are ValueErrors too, and a traceback shows the hint (from Python
    3.11 on)."""
    try:
        yield
    except BadUsage as err:
        raise _with_hint(WrongArgument(_said(str(err)), hint=_said(err.hint))) from err.__cause__
    except JobFailed as err:
        raise _with_hint(NotCompleted(str(err), hint=err.hint)) from err.__cause__
    except HimlError as err:
        err.hint = _said(err.hint)
        _with_hint(err)
        raise


def _said(text: str) -> str:
    return re.sub(r"--(\w+)", lambda found: ARGUMENTS.get(found[1], found[0]), text)


def _with_hint(err: HimlError) -> HimlError:
    if err.hint and hasattr(err, "add_note"):
        err.add_note(err.hint)
    return err
