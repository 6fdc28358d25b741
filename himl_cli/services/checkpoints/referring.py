"""A checkpoint for a job on a cluster: an input that holds it, and where its files go when the job starts."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from himl_cli.core.errors import BadUsage, IntegrityFailed, NotAllowed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.redaction import parts_of, shown
from himl_cli.services.checkpoints.bringing import OpenAddress, bring_found, say_why, tags_of
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint
from himl_cli.services.transfer.local_files import md5_of
from himl_cli.services.transfer.upload import upload_named
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, Workspace

KEY = "himl_checkpoint"
INPUT = f"${{{{inputs.{KEY}}}}}"
UPLOADED = "himl_checkpoints"


@dataclass(frozen=True)
class Referred:
    """`brought` names files of the input by their place in the job's working folder; a folder, and its place, end with
    a slash."""

    item: DataSpec
    brought: Mapping[str, str]


def refer_to_checkpoint(
    source: str,
    runs: Workspace,
    cluster: Workspace,
    spec: JobSpec,
    cwd: Path,
    notify: Notify,
    open_address: OpenAddress,
) -> JobSpec:
    """*spec* with the checkpoint that *source* means, among *runs*, at an address or a file here.

    What lies in the workspace of the cluster is read where it lies; all else is uploaded first to the default
    datastore, below `himl_checkpoints/`, once. Raises NotFound naming what there is, and what moving the files raises.
    """
    if any(item.key == KEY for item in spec.inputs):
        raise BadUsage(f"An input is called '{KEY}', which is that of --checkpoint.", hint="Choose another key.")
    found = find_checkpoint(source, runs, cwd)
    say_why(found, notify)
    referred = _where_it_lies(found, runs, cluster)
    if referred is None:
        referred = _uploaded(found, runs, cluster, spec.default_datastore, notify, open_address)
    elif found.run is not None and not found.run.status.is_final:
        notify(
            Notice(
                f"Run '{found.run.id}' has not ended: the job begins with '{found.inside}' as that is when the job "
                "starts."
            )
        )
    told = shown(source) if found.address else source
    notify(Notice(f"Checkpoint '{told}' is {', '.join(sorted(referred.brought)[:3])} when the job starts."))
    return replace(
        spec, inputs=[*spec.inputs, referred.item], brought=referred.brought, tags={**spec.tags, **tags_of(found)}
    )


def _where_it_lies(found: Checkpoint, runs: Workspace, cluster: Workspace) -> Referred | None:
    """None for what is not in the cluster's workspace."""
    if found.address:
        return _of_address(found, cluster)
    if found.run is None:
        return None
    home = runs.home_of(found.run.id)
    if not isinstance(home, CloudWorkspace) or home.label != cluster.label:
        return None
    if found.blobs and not any(blob.size for blob in found.blobs):
        raise IntegrityFailed(
            f"'{found.inside}' of run '{found.run.id}' is empty, and no checkpoint.",
            hint="Choose another one, or train on without it.",
        )
    datastore, folder = home.artifact_location(found.run.id)
    return _referred(found, datastore, f"{folder}/", found.folder.rstrip("/") or posixpath.dirname(found.names[0]))


def _of_address(found: Checkpoint, cluster: Workspace) -> Referred | None:
    """The file at an address in storage that a datastore of the workspace is of; the signature is not needed then.
    Raises NotFound where it is gone."""
    parts = parts_of(found.address)
    host, (container, _, path) = _account_of(parts.hostname or ""), parts.path.lstrip("/").partition("/")
    if (
        parts.scheme != "https"
        or ".blob." not in host
        or not path
        or "snapshot=" in parts.query
        or "versionid=" in parts.query
    ):
        return None
    for store in cluster.datastores():
        place = parts_of(store.location)
        if (place.scheme, place.hostname, place.path.strip("/")) == ("https", host, container):
            name = unquote(path)
            _check_there(name, store.name, cluster)
            return _referred(replace(found, names=[name]), store.name, "", posixpath.dirname(name))
    return None


def _account_of(host: str) -> str:
    """The host of an account's blobs, also where the lake's own interface to it is named."""
    account, dfs, suffix = host.partition(".dfs.")
    return f"{account}.blob.{suffix}" if dfs else host


def _check_there(name: str, datastore: str, cluster: Workspace) -> None:
    try:
        is_there = cluster.datastore(datastore).stat(name) is not None
    except NotAllowed:  # whoever runs the job may read it all the same
        return
    if not is_there:
        raise NotFound(
            f"There is no file '{name}' in datastore '{datastore}'.",
            hint="Was the checkpoint deleted since the link was made?",
        )


def _referred(found: Checkpoint, datastore: str, above: str, inside: str) -> Referred:
    """The folder *inside*, below *above* in the datastore, as an input."""
    if found.folder:
        brought = {f"{found.folder_place}/": f"{INPUT}/"}
    else:
        brought = {place: f"{INPUT}/{posixpath.relpath(name, inside or '.')}" for place, name in found.by_place.items()}
    return Referred(DataSpec(KEY, f"{above}{inside}", datastore=datastore, mode="mount"), brought)


def _uploaded(
    found: Checkpoint,
    runs: Workspace,
    cluster: Workspace,
    default: str | None,
    notify: Notify,
    open_address: OpenAddress,
) -> Referred:
    """The files in a folder that is named after their content."""
    files = {place: Path(path) for place, path in bring_found(found, runs, notify, open_address).items()}
    digests = {place: md5_of(str(path)) for place, path in sorted(files.items())}
    digest = hashlib.sha256("".join(f"{place}\n{md5.hex()}\n" for place, md5 in digests.items()).encode()).hexdigest()[
        :16
    ]
    store, folder = cluster.datastore(default), f"{UPLOADED}/{digest}"
    named = {
        f"{folder}/{place[len(found.folder_place) + 1 :] if found.folder else path.name}": place
        for place, path in files.items()
    }
    there = _complete_in(store, f"{folder}/", {name: digests[place] for name, place in named.items()})
    problem = upload_named(
        store, {name: files[place] for name, place in named.items() if name not in there}, notify
    ).problem()
    if problem is not None:
        raise problem
    brought = (
        {f"{found.folder_place}/": f"{INPUT}/"}
        if found.folder
        else {place: f"{INPUT}{name[len(folder) :]}" for name, place in named.items()}
    )
    return Referred(DataSpec(KEY, folder, mode="mount"), brought)


def _complete_in(store: BlobStore, prefix: str, md5s: Mapping[str, bytes]) -> set[str]:
    """Which files below *prefix* are stored already, as their MD5s say."""
    stored = (blob for page in store.list(prefix) for blob in page if blob.name in md5s)
    return {blob.name for blob in stored if (blob.md5 or store.md5(blob)) == md5s[blob.name]}
