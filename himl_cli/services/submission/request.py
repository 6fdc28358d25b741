"""A job as the user asked for it, and as it is ready to be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import HERE, DataSpec, JobSpec, SnapshotReport
from himl_cli.core.sweeps import SweepSpec
from himl_cli.services.sweeps.asked import SweepRequest

AZURE = "azure"
"""The place to record a job in, beside the local workspace, that is an Azure ML workspace."""


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(SweepRequest):
    """The options of `himl submit`, as typed; `cwd` is where the user is, `build` the `--build_*` options by tag name.

    `typed` names the options that stood on the command line: what a settings file says for all jobs is passed over
    where it does not fit one, what was typed is an error there. None: all that differs from the default counts as
    typed. `ready_sweep` is a sweep that no options have to be read for. `python_executable` (the words before the
    script on a cluster), `resource_properties` and `tensorboard_logs` are arguments of `submit_to_azure_if_needed`
    only.
    """

    cwd: Path
    target: str | None = None
    module: str | None = None
    command: str | None = None
    arguments: Sequence[str] = ()
    cluster: str | None = None
    record_in: str | None = None
    python: str | None = None
    python_executable: str = "python"
    in_place: bool = False
    num_nodes: int = 1
    processes_per_node: int | None = None
    distribution: str | None = None
    no_mpi_single_node: bool = False
    instance_type: str | None = None
    resource_properties: Mapping[str, Any] | None = None
    shm_size: str = "100g"
    docker_args: Sequence[str] = ()
    identity: str | None = None
    max_run_duration: str | None = None
    vscode: bool = False
    jupyter: bool = False
    ssh_key: str | None = None
    tensorboard_logs: str | None = None
    snapshot_root: str | None = None
    ignored_folders: Sequence[str] = ()
    include_secret: Sequence[str] = ()
    conda_env: Sequence[str] = ()
    requirements: str | None = None
    environment: str | None = None
    docker_image: str | None = None
    build_context: str | None = None
    dockerfile: str | None = None
    pip_extra_index_url: str | None = None
    private_wheel: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None
    experiment_from_branch: bool = False
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[str | DataSpec] = ()
    outputs: Sequence[str | DataSpec] = ()
    default_datastore: str | None = None
    checkpoint: str | None = None
    sdk: str = "v2"
    crossval_count_arg: str | None = None
    ready_sweep: SweepSpec | None = None
    typed: frozenset[str] | None = None

    @property
    def on_cluster(self) -> str:
        """The cluster that the job runs on; empty where it runs here."""
        return "" if self.cluster in (None, HERE) else str(self.cluster)

    @property
    def is_told_to_azure(self) -> bool:
        """Whether the job runs here and is recorded in an Azure ML workspace too."""
        return self.record_in == AZURE and not self.on_cluster

    def is_set(self, name: str) -> bool:
        """Whether the option says something else than its default."""
        default = next(each.default for each in fields(self) if each.name == name)
        value = getattr(self, name)
        return (
            bool(value)
            if isinstance(value, Sequence) and not isinstance(value, str)
            else value is not None and value != default
        )

    def is_typed(self, name: str) -> bool:
        """Whether the user said so for this very job."""
        return self.is_set(name) and (self.typed is None or name in self.typed)


@dataclass(frozen=True)
class PreparedJob:
    """The job, what is sent with it (None in place: nothing is), and what the user should know beforehand, a sentence
    each.

    `checkpoint` is the SOURCE that it starts from, which is yet to be looked for.
    """

    spec: JobSpec
    report: SnapshotReport | None
    remarks: Sequence[str] = ()
    checkpoint: str | None = None
