"""A pipeline that is ready but for a look at the workspace it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.core.clusters import ClusterSpec
from himl_cli.core.containers import ContainerSpec
from himl_cli.core.jobs import SnapshotReport
from himl_cli.core.pipelines import PipelineSpec

INPUT = "input_data"
"""The key of a step's input: with dashes before it the argument that its script gets."""


@dataclass(frozen=True)
class DataInput:
    """The input of a step that is no other's output: the field of the file that names it, and that name.

    `is_folder`: it is a folder of a datastore, which may be called by one of `datastores`, the likeliest first; else a
    dataset.
    """

    field: str
    name: str
    is_folder: bool = False
    datastores: Sequence[str] = ()


@dataclass(frozen=True)
class PreparedPipeline:
    """The pipeline, the snapshots that are sent with it, and what the user should know beforehand, a sentence each.

    `data` are the inputs that are yet to be found, by the keys of their steps; folders are looked for in `container`
    where that is known. `cluster` is the cluster to make where there is none of that name; None: it has to exist.
    `shown` is what messages call the file.
    """

    shown: str
    spec: PipelineSpec
    reports: Sequence[SnapshotReport]
    remarks: Sequence[str] = ()
    data: Mapping[str, DataInput] = field(default_factory=dict)
    container: ContainerSpec | None = None
    cluster: ClusterSpec | None = None
