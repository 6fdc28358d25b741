"""A checkpoint for a job on a cluster: an input that holds it, and where its files go when the job starts."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.services.checkpoints.bringing import bring_found
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint
from himl_cli.services.transfer.disk import md5_of
from himl_cli.services.transfer.requests import UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.abilities import JoinsWorkspaces, NamesPlaces
from himl_cli.workspaces.base import Workspace

KEY = "himl_checkpoint"
UPLOADED = "himl_checkpoints"


@dataclass(frozen=True)
class Referred:
    """`brought` names files of the input by their place in the job's working folder."""

    item: DataSpec
    brought: Mapping[str, str]


def refer_to_checkpoint(source: str, runs: Workspace, cluster: Workspace, spec: JobSpec, cwd: Path, notify: Notify) -> JobSpec:
    """*spec* with the checkpoint that *source* means, among *runs* or a file here.

    What lies in the workspace of the cluster is read where it lies; all else is uploaded first to the default datastore, below `himl_checkpoints/`, once.
    Raises NotFound naming what there is, and what moving the files raises.
    """
    if any(item.key == KEY for item in spec.inputs):
        raise BadUsage(f"An input is called '{KEY}', which is that of --checkpoint.", hint="Choose another key.")
    found = find_checkpoint(source, runs, cwd)
    referred = _where_it_lies(found, runs, cluster) or _uploaded(found, runs, cluster, spec.default_datastore, notify)
    notify(Notice(f"Checkpoint '{source}' is {', '.join(sorted(referred.brought)[:3])} when the job starts."))
    return replace(spec, inputs=[*spec.inputs, referred.item], brought=referred.brought)


def _where_it_lies(found: Checkpoint, runs: Workspace, cluster: Workspace) -> Referred | None:
    """None for what is not in the cluster's workspace."""
    if found.run is None:
        return None
    home = runs.home_of(found.run.id) if isinstance(runs, JoinsWorkspaces) else runs
    if not isinstance(home, NamesPlaces) or home.label != cluster.label:
        return None
    datastore, folder = home.place_of(found.run.id)
    inside = found.folder.rstrip("/") or posixpath.dirname(found.names[0])
    brought = {place: f"${{{{inputs.{KEY}}}}}/{posixpath.relpath(name, inside or '.')}" for place, name in found.by_place.items()}
    return Referred(DataSpec(KEY, f"{folder}/{inside}", datastore=datastore, mode="mount"), brought)


def _uploaded(found: Checkpoint, runs: Workspace, cluster: Workspace, default_datastore: str | None, notify: Notify) -> Referred:
    """The files in a folder that is named after their content."""
    files = {place: Path(path) for place, path in bring_found(found, runs, notify).items()}
    digest = hashlib.sha256("".join(f"{place} {md5_of(str(path)).hex()} " for place, path in sorted(files.items())).encode()).hexdigest()[:16]
    store, folder = cluster.datastore(default_datastore), f"{UPLOADED}/{digest}"
    brought = {}
    for number, (place, path) in enumerate(sorted(files.items())):
        problem = upload(store, UploadRequest(path, f"{folder}/{number}"), notify).problem()
        if problem is not None:
            raise problem
        brought[place] = f"${{{{inputs.{KEY}}}}}/{number}/{path.name}"
    return Referred(DataSpec(KEY, folder, mode="mount"), brought)
