"""Names of blobs, as the double takes them: as Azure Storage does, which Azurite does not."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.servers.asking import Answer, ask
from tests.servers.azureml.seeding import StagedWorkspace

STORE = "workspaceblobstore"


def put(azure: StagedWorkspace, path: str) -> Answer:
    storage, container = azure.state.storage, azure.state.default_datastore.container
    url = f"https://{storage.host}/{container}/{path}?{storage.container_sas(container, permissions='rcwl')}"
    return ask(azure.stage, "PUT", url, headers={"x-ms-blob-type": "BlockBlob"}, body=b"new")


@pytest.mark.parametrize(
    ("sent", "name"),
    [("file.", "file"), ("file...", "file"), ("dir./x.y", "dir/x.y"), ("a%5Cb", "a/b"), ("%41.", "A"), ("a%25/b%3F.", "a%/b?"), (".a/b c", ".a/b c")],
)
def test_trailing_dots_are_dropped_and_backslash_becomes_slash(azure: StagedWorkspace, sent: str, name: str) -> None:
    azure.put_blob(STORE, name, b"old")
    assert put(azure, quote(sent, safe="/%")).status == 201
    assert azure.blob_names(STORE) == [name]
    assert azure.get_blob(STORE, name) == b"new"


@pytest.mark.parametrize(("sent", "status"), [("a%01b", 400), ("a/b%7F", 400), ("/".join("a" * 255), 400), ("/".join("a" * 254), 201)])
def test_control_characters_and_too_many_parts_are_refused(azure: StagedWorkspace, sent: str, status: int) -> None:
    assert put(azure, sent).status == status
