"""The commands that meet names: what each is called with, and where its files are to come."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stress.names.hostile import ACCOUNT, KEY, Blob, Storage, serving
from stress.world import World
from tests.servers.azureml.faults import Page
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import ARTIFACTS
from tests.servers.azureml.state import Datastore
from tests.servers.azureml.storage import Storage as Account

RUN, STORE, CONTAINER = "names_1_aa", "hostile", "azureml"
EVENTS = "events.out.tfevents.1"


@dataclass(frozen=True)
class Command:
    """`target` is where its files come, `state` where himl keeps what it remembers of them, both below the current folder.

    `below` is what the names of the files begin with in the run.
    """

    arguments: Sequence[str]
    target: str
    state: str
    below: str = ""
    of_run: bool = True

    def named(self, name: str) -> str:
        """What the file is called that comes to *name* below the target."""
        return f"{self.below}{name}"


COMMANDS = {
    "datastore": Command(("datastore", "download", "", "out", "--datastore", STORE), "out", "out", of_run=False),
    "download": Command(("download", RUN), f"outputs/{RUN}", "outputs"),
    "tb": Command(("tb", RUN, "--sync_only", "--run_logs_dir", "copies"), f"copies/{RUN}", "copies", "logs/"),
    "checkpoint": Command(
        ("checkpoint", "fetch", f"{RUN}:outputs/checkpoints/deep"), f"checkpoints/{RUN}/deep", f"checkpoints/{RUN}", "outputs/checkpoints/deep/"
    ),
}


class Stage:
    """A workspace with one run, whose files are whatever a case says; by the storage account's list, or by the links of the artifact service."""

    def __init__(self, world: World) -> None:
        self.staged = world.stage.workspace()
        self.run = self.staged.add_run(RUN, "names")
        self._reader = self.staged.add_principal({Right.READ})

    def environment(self, world: World, *, by_links: bool) -> dict[str, str]:
        return {**world.environment(self.staged), **(self.staged.environment(self._reader) if by_links else {})}

    @contextmanager
    def listing(self, command: Command, blobs: Sequence[Blob]) -> Iterator[Storage]:
        """Let the storage account list *blobs*."""
        root = self.run.artifact_prefix if command.of_run else ""
        storage = Storage([Blob(command.named(blob.name), blob.content, blob.told, blob.has_md5) for blob in blobs], root)
        datastores, name = self.staged.state.datastores, ARTIFACTS if command.of_run else STORE
        before = datastores.get(name)
        with serving(storage):
            account = Account(ACCOUNT, KEY, f"http://127.0.0.1:{storage.port}", suffix=f"blob.localhost:{storage.port}", protocol="http")
            datastores[name] = Datastore(name, CONTAINER, account)
            try:
                yield storage
            finally:
                datastores.pop(name) if before is None else datastores.update({name: before})

    @contextmanager
    def linking(self, world: World, command: Command, blobs: Sequence[Blob]) -> Iterator[None]:
        """Let the artifact service hand out links to *blobs*, which lie in Azurite under plain names."""
        account, folder = self.staged.state.storage, f"names/{uuid.uuid4().hex}"
        places = {f"{folder}/{number}": blob for number, blob in enumerate(blobs)}
        account.put_all(CONTAINER, {place: blob.content for place, blob in places.items()})
        items = [
            {"path": command.named(blob.name), "container": self.run.data_container_id, "contentUri": account.blob_link(CONTAINER, place)}
            for place, blob in places.items()
        ]
        world.stage.faults.add(Page(json.dumps({"value": items}), content_type="application/json"), "/prefix/contentinfo/", times=None)
        try:
            yield
        finally:
            world.stage.faults.clear()
            container = account.client.get_container_client(CONTAINER)
            for place in places:
                container.delete_blob(place)


def as_event_file(name: str) -> str:
    """*name* as one that TensorBoard would read."""
    return name if "tfevents" in name.rpartition("/")[2] else f"{name}/{EVENTS}"
