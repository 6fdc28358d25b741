"""One storage account of the double: a thin view of the vendor's own client on Azurite, for seeding and for making signed links."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobProperties,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from tests.servers.azureml.issued import issued, signed

SUFFIX = "blob.core.windows.net"
DELEGATED = "skoid=11111111-2222-3333-4444-555555555555&sktid=66666666-7777-8888-9999-000000000000&sks=b&skv=2023-11-03"
"""Parameters by which a user-delegation signature is known (https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas)."""


@dataclass
class Storage:
    """`azurite` is the emulator's address, e.g. `http://127.0.0.1:10000`. `sas_seconds` is how long the links live that the services hand out.

    `takes_keys` false: neither its key nor a signature made with it is accepted. `is_open` false: a firewall refuses whoever comes.
    """

    account: str
    key: str
    azurite: str
    sas_seconds: float = 8 * 3600
    takes_keys: bool = True
    is_open: bool = True
    suffix: str = SUFFIX
    protocol: str = "https"

    def __post_init__(self) -> None:
        issued("account key", self.key)

    @property
    def host(self) -> str:
        """The host name that clients use."""
        return f"{self.account}.{self.suffix}"

    @cached_property
    def client(self) -> BlobServiceClient:
        """The vendor's client, past the front: what it does is neither recorded nor broken."""
        return BlobServiceClient(f"{self.azurite}/{self.account}", credential=self.key, use_env_settings=False)  # no proxy of this machine

    def make_container(self, container: str) -> None:
        """Nothing where it is there."""
        self._ask(("PUT", f"/{container}?restype=container", (201, 409)))

    def put(self, container: str, name: str, content: bytes, *, metadata: Mapping[str, str] | None = None, md5: bool = True) -> None:
        """Write a block blob, with the MD5 of its whole content unless *md5* is false."""
        settings = ContentSettings(content_type="application/octet-stream", content_md5=bytearray(hashlib.md5(content).digest()) if md5 else None)
        blob = self.client.get_blob_client(container, name)
        blob.upload_blob(content, overwrite=True, content_settings=settings, metadata=dict(metadata) if metadata else None)
        if not md5:
            blob.set_http_headers(ContentSettings(content_type="application/octet-stream"))

    def put_all(self, container: str, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> None:
        """Write many at once."""
        pairs = files.items() if isinstance(files, Mapping) else files
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(self.put, container, name, content) for name, content in pairs]:
                done.result()

    def append(self, container: str, name: str, content: bytes) -> None:
        """Let an append blob grow (made when it is not there), as a running job's log does."""
        blob = self.client.get_blob_client(container, name)
        if not blob.exists():
            blob.create_append_blob()
        blob.append_block(content)

    def get(self, container: str, name: str) -> bytes:
        """Raises ResourceNotFoundError."""
        return self.client.get_blob_client(container, name).download_blob().readall()

    def properties(self, container: str, name: str) -> BlobProperties | None:
        try:
            return self.client.get_blob_client(container, name).get_blob_properties()
        except ResourceNotFoundError:
            return None

    def list(self, container: str, prefix: str = "") -> Iterator[BlobProperties]:
        """Blobs by name; nothing where the container is not there."""
        with suppress(ResourceNotFoundError):
            yield from self.client.get_container_client(container).list_blobs(name_starts_with=prefix)

    def url(self, container: str, name: str) -> str:
        return f"https://{self.host}/{container}/{quote(name)}"

    def blob_link(self, container: str, name: str, *, permissions: str = "r", seconds: float | None = None) -> str:
        """The URL of one blob that a service hands out, good for *seconds* (default: the account's `sas_seconds`).

        The real ones are user-delegation signatures: they count where the account's key does not.
        """
        rights = BlobSasPermissions.from_string(permissions)
        times = _times(seconds or self.sas_seconds)
        signature = generate_blob_sas(self.account, container, name, account_key=self.key, permission=rights, **times)
        return signed(f"{self.url(container, name)}?{signature}&{DELEGATED}")

    def container_sas(self, container: str, *, permissions: str = "rl", seconds: float | None = None) -> str:
        rights = ContainerSasPermissions.from_string(permissions)
        return signed(generate_container_sas(self.account, container, account_key=self.key, permission=rights, **_times(seconds or self.sas_seconds)))

    @cached_property
    def vouching_sas(self) -> str:
        """The front puts it in place of an identity's token that it has checked: Azurite takes those only over TLS, and knows no rights."""
        everything = AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True, update=True, tag=True, filter_by_tags=True)
        return generate_account_sas(self.account, self.key, ResourceTypes(service=True, container=True, object=True), everything, **_times(7 * 24 * 3600))

    def wipe(self) -> None:
        """Leave nothing in it."""
        (listed,) = self._ask(("GET", "?comp=list", (200,)))
        self._ask(*[("DELETE", f"/{container}?restype=container", (202,)) for container in re.findall(r"<Name>(.*?)</Name>", listed)])

    def _ask(self, *questions: tuple[str, str, tuple[int, ...]]) -> tuple[str, ...]:
        """The answers to requests that every test makes several of: the vendor's client needs ten times as long for each."""
        answers = []
        with closing(HTTPConnection(urlsplit(self.azurite).netloc, timeout=60)) as connection:
            for method, what, expected in questions:
                connection.request(method, f"/{self.account}{what}&{self.vouching_sas}", headers={"Content-Length": "0"})
                answer = connection.getresponse()
                answers.append(answer.read().decode())
                assert answer.status in expected, f"{method} {what}: {answer.status} {answers[-1]}"
        return tuple(answers)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def _times(seconds: float) -> dict[str, Any]:
    at = datetime.now(timezone.utc)
    return {"start": at - timedelta(minutes=10), "expiry": at + timedelta(seconds=seconds)}
