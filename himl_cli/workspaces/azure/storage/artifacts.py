"""The artifacts of a run: from the storage account where that may be listed, else by the links that the artifact
service hands out, for which no right to the storage account is needed.

Stored are they by links alone: the service is told their names then, so that Studio lists them.

A link that is made here for others opens one blob for reading and nothing else. It is signed with the account's key,
which is asked for then and stored nowhere; where that may not be read or does not count, with a key for the user's own
sign-in, which lives for a week at most. The SAS of a datastore is never given away: it opens the whole container. What
is left then is the link that the artifact service makes, if it is for this one file and ends in time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import chain, islice, takewhile
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.redaction import SAFE_IN_PATHS, parts_of
from himl_cli.core.runs import SignedLink
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import object_of, pages, unexpected
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.blob_responses import ROLES, BlobNotFound
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.container import AzureBlobs, BlobReader
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.datastore_records import OWN_SIGN_IN, UPDATE, DatastoreRecord, readable_secret
from himl_cli.workspaces.azure.storage.scheduler import Query, ask, run_tasks
from himl_cli.workspaces.azure.storage.signing import (
    NO_KEYS,
    VERSION_HEADER,
    BearerSigner,
    ContainerEndpoint,
    Endpoint,
    Signature,
    Signed,
    Signer,
    quoted,
    reason_not_to_ask,
    reason_not_to_store,
    sas_expiry,
)
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import RetryPolicy

log = logging.getLogger(__name__)

GROWING = ("logs/", "user_logs/", "azureml-logs/", "system_logs/")
ROUTES, BY_LINKS, ROUTE_SECONDS = "artifact_routes", "links", 3600.0
_DELEGATION_FIELDS = {
    "SignedOid": "signed_oid",
    "SignedTid": "signed_tid",
    "SignedStart": "signed_start",
    "SignedExpiry": "signed_expiry",
    "SignedService": "signed_service",
    "SignedVersion": "signed_version",
    "Value": "value",
}

Answer = TypeVar("Answer")


class LinkEndpoint(Endpoint):
    """One link a file, asked for when it is needed, and again when its time is over or it is refused."""

    def __init__(self, connection: Connection, container_id: str, label: str) -> None:
        super().__init__()
        self._connection = connection
        self._container_id = container_id
        self._links: dict[str, tuple[str, Signature]] = {}
        self.label = label
        self.origin = f"{connection.address.cloud.name}{connection.address.path.lower()}/{container_id}"
        self.container = "azureml"
        self.sign_in = "the artifact service's link"

    def signed(self, name: str, query: str = "") -> Signed:
        link = self._links.get(name)
        if link is None or link[1].is_due:
            link = self._new_link(name, is_first=link is None)
        url, signature = link
        whole = f"{query}&{signature.query}" if query else signature.query
        return Signed(f"{url}?{whole}", (VERSION_HEADER,), signature)

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        known = self._links.get(name)
        if known is None or known[1] is refused.signature:
            self._new_link(name, is_first=False)
        return True

    def names(self, folder: str) -> list[str]:
        """The names of all files below *folder* (empty: of all), sorted; their links are remembered.

        Where the service does not take the empty prefix, which no public client sends, it lists the run's files without
        links.
        """
        with suppress(ServiceNotFound):
            return self._listed(self._url("/prefix/contentinfo", folder), has_links=True)
        if not folder:
            with suppress(ServiceNotFound):
                return self._listed(self._url(""), has_links=False)
        return []

    def _listed(self, url: str, *, has_links: bool) -> list[str]:
        names: set[str] = set()

        def ask(token: str | None) -> Any:
            return self._connection.rest.get(url, params={"continuationToken": token} if token else None)

        for page in pages(ask, url, "artifacts"):
            for item in page.items:
                name = str(item.get("path") or "")
                if not name:
                    raise unexpected(url, "an artifact has no path")
                if item.get("container", self._container_id) == self._container_id:
                    if has_links:
                        self._remember(name, item)
                    names.add(name)
        return sorted(names)

    def _new_link(self, name: str, *, is_first: bool) -> tuple[str, Signature]:
        """A link to *name*; unless it *is_first*, new ones to all files of its folder: their time is over too."""
        old = self._links.get(name)
        if not is_first:
            self.names(name.rpartition("/")[0])
        link = self._links.get(name)
        if link is not None and link is not old:
            return link
        try:
            return self._remember(name, self._connection.rest.get_object(self._url("/contentinfo", name), "link"))
        except ServiceNotFound as err:
            raise BlobNotFound(f"No file '{name}' in {self.label}.") from err

    def _remember(self, name: str, item: Any) -> tuple[str, Signature]:
        parts = parts_of(str(item.get("contentUri") or ""))
        if parts.scheme != "https" or not parts.hostname or parts.path.count("/") < 2:
            raise ServiceFailed(f"The artifact service gives no link to '{name}'.")
        self.host, self.container = parts.hostname, parts.path.split("/")[1]
        self.account = self.host.split(".")[0]
        url = f"https://{parts.netloc}{quote(parts.path, safe=SAFE_IN_PATHS)}"
        self._links[name] = link = url, Signature.of_sas(parts.query)
        return link

    def _url(self, what: str, path: str | None = None) -> str:
        below = "" if path is None else f"/{quote(path)}"
        run = quote(self._container_id, safe="")
        return self._connection.service("artifact", f"/artifacts{what}/ExperimentRun/{run}{below}")


class WriteEndpoint(LinkEndpoint):
    def announced(self, requests: Iterator[StoreRequest], sink: StoreSink) -> Iterator[StoreRequest]:
        """*requests*, once the service is told of their names; the links that it gives are remembered."""
        url = self._url("/batch/metadata")
        while some := [*islice(requests, 50)]:  # as azureml-core has it
            paths = [{"path": request.name} for request in some if not reason_not_to_store(request.name)]
            try:
                answer = self._connection.rest.post_object(url, "links", json={"paths": paths})
                given = object_of(answer.get("artifactContentInformation") or {}, url, "links")
                for name, item in given.items():
                    self._remember(name, object_of(item, url, "link"))
            except HimlError as err:
                # With 400 and 409 some of them are there already: each is asked for by itself then
                if not isinstance(err, ServiceRefused) or err.status not in (400, 409):
                    for request in some:
                        sink.fail(request, err)
                    continue
            yield from some

    def _new_link(self, name: str, *, is_first: bool) -> tuple[str, Signature]:
        return self._remember(name, self._connection.rest.get_object(self._url("/write", name), "link"))


class RunArtifacts(BlobReader):
    """A run's artifacts as a `BlobStore`: from the storage account as *make_direct* opens it, else by links.

    Listing the storage account takes one request for 5,000 files, with sizes and MD5s; the service tells neither, so
    that a list by links costs a HEAD a file, but it needs no right to the storage account: a job's own run token is
    enough. Which of the two works is found out once and kept for an hour.
    """

    def __init__(
        self,
        connection: Connection,
        pool: CurlPool,
        container_id: str,
        label: str,
        make_direct: Callable[[Sequence[str]], AzureBlobs],
    ) -> None:
        self._links = LinkEndpoint(connection, container_id, label)
        super().__init__(self._links, pool, RetryPolicy(), GROWING)
        self._connection = connection
        self._container_id = container_id
        self._make_direct = make_direct
        self._direct: AzureBlobs | None = None
        self._has_chosen = False

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        def begin(direct: AzureBlobs | None) -> Iterator[Sequence[BlobInfo]]:
            pages = direct.list(prefix) if direct is not None else self._list_by_links(prefix)
            return chain([*islice(pages, 1)], pages)

        yield from self._tried(begin)

    def _list_by_links(self, prefix: str) -> Iterator[Sequence[BlobInfo]]:
        # Parts such as `..` would mean something else in a URL
        folders = [*takewhile(lambda part: part not in ("", ".", ".."), prefix.split("/")[:-1])]
        names = [name for name in self._links.names("/".join(folders)) if name.startswith(prefix)]
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            queries = [self._head(name) for name in some if not reason_not_to_ask(name)]
            run_tasks(self._pool, iter(queries), 16)
            # A file that cannot be asked for is of some size, so that its download is tried, which fails and names it
            found = [BlobInfo(name, 1) for name in some if reason_not_to_ask(name)]
            for query in queries:
                with suppress(BlobNotFound):  # gone meanwhile
                    if not query.answer.is_directory:
                        found.append(query.answer.blob)
            if found:
                yield sorted(found, key=lambda blob: blob.name)

    def stat(self, name: str) -> BlobInfo | None:
        by_links = super().stat
        return self._tried(lambda direct: direct.stat(name) if direct is not None else by_links(name))

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        by_links = super().read
        return self._tried(lambda direct: (direct.read if direct is not None else by_links)(name, offset))

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        direct = self._chosen()
        (direct.fetch if direct is not None else super().fetch)(requests, sink, workers=workers)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """As `BlobStore.store`, by links that the artifact service gives to whoever may write to the run.

        Links for many files come in one request. A name that the service has already gets its link by another route;
        its content is replaced then.
        """
        endpoint = WriteEndpoint(self._connection, self._container_id, self.label)
        requests = endpoint.announced(iter(requests), sink)
        store_blobs(requests, sink, endpoint, self._pool, self._policy, workers=workers)

    def _tried(self, ask: Callable[[AzureBlobs | None], Answer]) -> Answer:
        """What *ask* says of the storage account, or where that is not allowed, of the service's links (None)."""
        direct = self._chosen()
        if direct is None:
            return ask(None)
        try:
            return ask(direct)
        except NotAllowed as err:
            log.debug("the storage account may not be read (%s): going on with the artifact service's links", err)
        self._direct = None
        answer = ask(None)
        self._connection.kept.put(ROUTES, self._connection.key("routes"), BY_LINKS, seconds=ROUTE_SECONDS)
        return answer

    def _chosen(self) -> AzureBlobs | None:
        """The storage account, as far as is known; None where links are the way."""
        if not self._has_chosen and self._connection.kept.get(ROUTES, self._connection.key("routes")) != BY_LINKS:
            try:
                self._direct = self._make_direct(GROWING)
            except NotAllowed as err:
                log.debug("the artifact datastore may not be looked at (%s): going on with links", err)
        self._has_chosen = True
        return self._direct


def link_to_artifact(
    connection: Connection,
    pool: CurlPool,
    container_id: str,
    label: str,
    name: str,
    days: float,
    find_record: Callable[[], DatastoreRecord],
) -> SignedLink:
    """A link to the artifact *name* kept under *container_id*; *find_record* gives the datastore of artifacts.

    A link that is signed here was tried: the file is there, and the service accepts the signature. Raises NotFound
    where the file is not there, NotAllowed where no link can be made, ServiceFailed.
    """
    if reason_not_to_ask(name):
        raise NotFound(f"No file '{name}' in {label}.")
    try:
        record, root = find_record(), f"ExperimentRun/{container_id}/"
        url = record.url(connection.address.cloud)
        signer = _FileSigner(connection, record, pool, url, f"{root}{name}", days)
        if AzureBlobs(url, signer, root=root, label=label, pool=pool).stat(name) is None:
            raise NotFound(f"No file '{name}' in {label}.")
        url, ends = f"{url}/{quoted(root + name)}?{signer.current().query}", signer.expires
    except NotAllowed as err:
        try:
            url = LinkEndpoint(connection, container_id, label).signed(name).url
        except NotFound:
            raise
        except HimlError:
            raise err from None
        terms, ends = parse_qs(urlsplit(url).query), sas_expiry(urlsplit(url).query)
        is_narrow = terms.get("sp") == ["r"] and terms.get("sr") == ["b"]
        if not is_narrow or not 0 < ends - time.time() <= days * 86400:
            raise
        log.debug("no link can be signed here (%s): the artifact service made one", err)
    return SignedLink(url, datetime.fromtimestamp(ends, timezone.utc))


class _FileSigner(Signer):
    def __init__(
        self, connection: Connection, record: DatastoreRecord, pool: CurlPool, url: str, blob: str, days: float
    ) -> None:
        super().__init__()
        self.sign_in = OWN_SIGN_IN
        self._connection = connection
        self._record = record
        self._pool = pool
        self._url = url
        self._blob = blob
        lasts = timedelta(days=days)
        # It is good from so long ago on, for clocks that are behind the one here; not longer, since an account may
        # refuse what lasts longer than its policy says, counted from the start
        self._starts = datetime.now(timezone.utc) - min(timedelta(minutes=15), lasts / 10)
        self._ends = self._starts + lasts

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is not None:
            return self._by_own_sign_in() if code in NO_KEYS and self.sign_in != OWN_SIGN_IN else refused
        is_key = self._record.credentials == "AccountKey"
        secret = readable_secret(self._connection, self._record, as_it_is=True) if is_key else None
        key = str((secret or {}).get("key") or "")
        if not key:
            return self._by_own_sign_in()
        self.sign_in = "a signature by the account's key"
        try:
            return self._signed(self._ends, account_key=key)
        except ValueError as err:  # no base64
            raise HimlError(f"The account key of {self._record.label} is no key.", hint=UPDATE) from err

    def _by_own_sign_in(self) -> Signature:
        self.sign_in = OWN_SIGN_IN
        ends = min(self._ends, self._starts + timedelta(days=7))  # so long the service lets such a key live
        signer = BearerSigner(self._connection.tokens, self._connection.address.cloud.storage_scope, OWN_SIGN_IN)
        endpoint = ContainerEndpoint(self._url, "", signer, "the storage account")
        start, expiry = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (self._starts, ends))
        query = Query(
            "the key to sign links with",
            endpoint,
            RetryPolicy(),
            _delegation_key_in,
            "Content-Type: application/xml",
            sign=lambda: endpoint.signed_account("restype=service&comp=userdelegationkey"),
            method="POST",
            content=f"<KeyInfo><Start>{start}</Start><Expiry>{expiry}</Expiry></KeyInfo>".encode(),
        )
        try:
            key = ask(query, self._pool)
        except NotAllowed as err:
            if err.hint == ROLES:
                err.hint = (
                    "Ask for the role 'Storage Blob Data Reader' on the storage account; if you have it on the "
                    "container alone, for 'Storage Blob Delegator' on the account."
                )
            if self._record.credentials != "Sas":
                raise
            raise NotAllowed(
                f"The SAS of {self._record.label} is not given away: it opens all of its container. {err}",
                hint=err.hint,
            ) from err
        return self._signed(ends, user_delegation_key=key)

    def _signed(self, ends: datetime, **key: Any) -> Signature:
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        sas = generate_blob_sas(
            self._record.account,
            self._record.container,
            self._blob,
            permission=BlobSasPermissions(read=True),
            start=self._starts,
            expiry=ends,
            protocol="https,http" if self._url.startswith("http:") else "https",
            **key,
        )
        return Signature(query=sas, expires=sas_expiry(sas))


def _delegation_key_in(response: CurlResponse) -> Any:
    from azure.storage.blob import UserDelegationKey

    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    try:
        tree = ElementTree.fromstring(response.take())
    except ElementTree.ParseError as err:
        raise ServiceFailed(
            "Storage sent something else than a key to sign links with.", hint="Is a proxy or a log-in page in between?"
        ) from err
    for tag, name in _DELEGATION_FIELDS.items():
        value = tree.findtext(tag)
        if not value:
            raise ServiceFailed(f"The key to sign links with that storage sent has no {tag}.")
        setattr(key, name, value)
    return key
