"""The datastores of an Azure ML workspace and their contents, as blob stores.

himl reads the artifacts of a run from the storage account if it may list it. Otherwise it uses the links of the
artifact service, which require no role on the storage account. It stores artifacts only through links, so that the
service registers their names and Studio lists them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from itertools import chain, islice, takewhile
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from himl_cli.core.blobs import BlobInfo, DatastoreInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DATASTORE_NAME, ContainerSpec
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import SAFE_IN_PATHS, parts_of, redact
from himl_cli.core.runs import SignedLink
from himl_cli.core.text import did_you_mean, shorten
from himl_cli.core.workspaces import WORKSPACE_ID, WorkspaceIds
from himl_cli.workspaces.azure.config import ApiVersion, WorkspaceAddress
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import object_of, pages, unexpected
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.blob_responses import ROLES, StorageEndpoint
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.container import AzureBlobs, BlobReader, SingleBlob
from himl_cli.workspaces.azure.storage.datastore_records import (
    BLOB,
    DatastoreRecord,
    FileSigner,
    read_all,
    read_default,
    read_record,
    signer_for,
)
from himl_cli.workspaces.azure.storage.signing import (
    VERSION_HEADER,
    Signature,
    Signer,
    quoted,
    reason_not_to_ask,
    reason_not_to_store,
    sas_expiry,
)
from himl_cli.workspaces.base import BlobStore, FetchSink, StoreSink
from himl_cli.workspaces.retry import RetryPolicy
from himl_cli.workspaces.transfer_engine.curl import CurlPool
from himl_cli.workspaces.transfer_engine.failures import BlobNotFound
from himl_cli.workspaces.transfer_engine.scheduler import Signed, run_tasks

ARTIFACT_STORE = "workspaceartifactstore"
RECORDS, RECORD_SECONDS = "datastores", 24 * 3600.0
LONGEST_DATASTORE_NAME = 50  # of a datastore that himl names, to be readable in lists (the service allows 255)
GROWING = ("logs/", "user_logs/", "azureml-logs/", "system_logs/")
ROUTES, BY_LINKS, ROUTE_SECONDS = "artifact_routes", "links", 3600.0
_URI = re.compile(
    rf"azureml://(?:{WORKSPACE_ID}/)?datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$",
    re.IGNORECASE | re.DOTALL,
)

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class DataLocation:
    """A path in a datastore, or with `account` in a container of an account."""

    path: str
    datastore: str = ""
    account: str = ""
    container: str = ""


def parse_data_uri(uri: str, address: WorkspaceAddress) -> DataLocation:
    """The location of *uri*: `azureml://datastores/D/paths/P` and its other forms. Raises BadUsage for another
    workspace, and for a URI that is not in storage."""
    found = _URI.match(uri)
    if found is not None:
        there = WorkspaceIds(found["subscription"], found["group"], found["name"])
        if found["group"] is not None and not there.is_same(address.ids):
            raise BadUsage(
                f"'{uri}' is in another workspace: {there.label}.", hint="Select that workspace with --workspace."
            )
        return DataLocation(found["path"] or "", datastore=found["store"])
    parts = parts_of(uri)
    host = re.match(r"(?P<account>[a-z0-9]+)\.(?:blob|dfs)\..+", parts.hostname or "", re.IGNORECASE)
    if host is not None and parts.scheme in ("wasbs", "abfss") and parts.username:
        return DataLocation(unquote(parts.path.lstrip("/")), account=host["account"].lower(), container=parts.username)
    if host is not None and parts.scheme == "https":
        container, _, path = parts.path.lstrip("/").partition("/")
        return DataLocation(unquote(path), account=host["account"].lower(), container=container)
    raise BadUsage(
        f"himl cannot read '{uri.partition('?')[0]}'.",
        hint="Use data in a datastore of the workspace.",
    )


class LinkEndpoint(StorageEndpoint):
    """One link per file, requested when first used, and again when it expires or is refused."""

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
        """The sorted names of all files below *folder* (empty: of the run). Stores their links.

        No public client sends the empty prefix. If the service rejects it, this lists the run's files without links.
        """
        with suppress(ServiceNotFound):
            return self._listed(self._url("/prefix/contentinfo", folder), has_links=True)
        if not folder:
            with suppress(ServiceNotFound):
                return self._listed(self._url(""), has_links=False)
        return []

    def logs_of(self, run_id: str, *, is_for_logs: bool) -> tuple[list[str], bool]:
        """The names of the logs in the details of *run_id*, and whether there is no other file, or *is_for_logs* no
        other log. Stores their links.

        A run that has not ended may have no files yet, which is not known of an ended one.
        """
        url = self._connection.service("history", f"/runs/{quote(run_id, safe='')}/details")
        details = self._connection.get(url).object("run")
        logs = object_of(details.get("logFiles") or {}, url, "logs")
        for name, link in logs.items():
            self._remember(name, {"contentUri": link})
        return sorted(logs), is_for_logs if logs else not details.get("endTimeUtc")

    def _listed(self, url: str, *, has_links: bool) -> list[str]:
        names: set[str] = set()

        def ask(token: str | None) -> Any:
            return self._connection.get(url, params={"continuationToken": token} if token else None).body

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
        """A link to *name*. Unless *is_first*, renews those of all files in its folder, which have also expired."""
        old = self._links.get(name)
        if not is_first:
            self.names(name.rpartition("/")[0])
        link = self._links.get(name)
        if link is not None and link is not old:
            return link
        try:
            return self._remember(name, self._connection.get(self._url("/contentinfo", name)).object("link"))
        except ServiceNotFound as err:
            raise BlobNotFound(f"No file '{name}' in {self.label}.") from err

    def _remember(self, name: str, item: Any) -> tuple[str, Signature]:
        parts = parts_of(str(item.get("contentUri") or ""))
        if parts.scheme != "https" or not parts.hostname or parts.path.count("/") < 2:
            raise ServiceFailed(f"The artifact service returned no link to '{name}'.")
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
        """*requests*, after registering their names with the service. Stores the links that it returns."""
        url = self._url("/batch/metadata")
        while some := [*islice(requests, 50)]:  # as in azureml-core
            paths = [{"path": request.name} for request in some if not reason_not_to_store(request.name)]
            try:
                answer = self._connection.post(url, json={"paths": paths}).object("links")
                given = object_of(answer.get("artifactContentInformation") or {}, url, "links")
                for name, item in given.items():
                    self._remember(name, object_of(item, url, "link"))
            except HimlError as err:
                # After 400 or 409 some of the names exist, so each link is requested separately.
                if not isinstance(err, ServiceRefused) or err.status not in (400, 409):
                    for request in some:
                        sink.fail(request, err)
                    continue
            yield from some

    def _new_link(self, name: str, *, is_first: bool) -> tuple[str, Signature]:
        return self._remember(name, self._connection.get(self._url("/write", name)).object("link"))


class RunArtifacts(BlobReader):
    """A run's artifacts as a `BlobStore`: from the storage account of *make_direct*, or through links.

    Listing the storage account takes one request per 5,000 files, with sizes and MD5s. The service returns neither, so
    a list through links takes one HEAD per file. But links need no role on the storage account, so that a job's run
    token suffices. himl finds out once which of the two works, and caches it for an hour.
    """

    def __init__(
        self,
        connection: Connection,
        pool: CurlPool,
        run_id: str,
        container_id: str,
        label: str,
        make_direct: Callable[[], AzureBlobs],
    ) -> None:
        self._links = LinkEndpoint(connection, container_id, label)
        super().__init__(self._links, pool, RetryPolicy(), GROWING)
        self._connection = connection
        self._run_id = run_id
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
        # Parts such as `..` would change the URL.
        folders = [*takewhile(lambda part: part not in ("", ".", ".."), prefix.split("/")[:-1])]
        names, is_known = self._links.names("/".join(folders)), True
        if not names and not (folders and self._links.names("")):
            names, is_known = self._links.logs_of(self._run_id, is_for_logs=prefix.startswith(GROWING))
        names = [name for name in names if name.startswith(prefix)]
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            queries = [self._head(name) for name in some if not reason_not_to_ask(name)]
            run_tasks(self._pool, iter(queries), 16)
            # A file that cannot be requested gets some size, so that its download fails with an error that names it.
            found = [BlobInfo(name, 1) for name in some if reason_not_to_ask(name)]
            for query in queries:
                with suppress(BlobNotFound):  # deleted meanwhile
                    if not query.answer.is_directory:
                        found.append(query.answer.blob)
            if found:
                yield sorted(found, key=lambda blob: blob.name)
        if not is_known:
            raise NotAllowed(
                f"No access to the files of {self._links.label}: the storage account refuses your sign-in, and Azure "
                "ML lists no files.",
                hint=ROLES,
            )

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
        """As `BlobStore.store`, through the artifact service's links, which require write access to the run.

        One request returns links for many files. For an existing name, another route returns the link, and the content
        is replaced.
        """
        endpoint = WriteEndpoint(self._connection, self._container_id, self.label)
        requests = endpoint.announced(iter(requests), sink)
        store_blobs(requests, sink, endpoint, self._pool, self._policy, workers=workers)

    def _tried(self, ask: Callable[[AzureBlobs | None], Answer]) -> Answer:
        """The result of *ask* for the storage account, or without access to it, for the service's links (None)."""
        direct = self._chosen()
        if direct is None:
            return ask(None)
        try:
            return ask(direct)
        except NotAllowed as err:
            log.debug("no access to the storage account (%s); using the artifact service's links", err)
        self._direct = None
        answer = ask(None)
        self._connection.kept.put(ROUTES, self._connection.key("routes"), BY_LINKS, seconds=ROUTE_SECONDS)
        return answer

    def _chosen(self) -> AzureBlobs | None:
        """The storage account, unless himl knows that only links work (None)."""
        if not self._has_chosen and self._connection.kept.get(ROUTES, self._connection.key("routes")) != BY_LINKS:
            try:
                self._direct = self._make_direct()
            except NotAllowed as err:
                log.debug("no access to the artifact datastore (%s); using links", err)
        self._has_chosen = True
        return self._direct


class Datastores:
    """The datastores of a workspace, requested at each use, because they may change at any time.

    Only the location of artifacts never changes. It is cached, which saves a request when artifacts are downloaded.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pool = CurlPool()
        self._signers: dict[tuple[DatastoreRecord, bool], Signer] = {}

    def close(self) -> None:
        """Close all unused connections to storage. A later request opens new ones."""
        self._pool.close()

    def infos(self) -> Sequence[DatastoreInfo]:
        """All current datastores, the default one first, the others by name."""
        found = sorted(read_all(self._connection), key=lambda record: (not record.is_default, record.name))
        return [record.info(self._connection.address.cloud) for record in found]

    def open(self, name: str | None = None) -> BlobStore:
        """The datastore called *name*, or the default one.

        Raises NotFound naming the existing ones, BadUsage for an unsupported kind.
        """
        return self.of_record(self.find(name))

    def find(self, name: str | None = None) -> DatastoreRecord:
        """The record of the datastore called *name*, or of the default one, of any kind. Raises NotFound naming the
        existing ones."""
        if name is None:
            return read_default(self._connection)
        address, cache = self._connection.address, self._connection.kept
        key = f"{address.cloud.name} {address.path.lower()} {ARTIFACT_STORE}"
        if name == ARTIFACT_STORE and (known := DatastoreRecord.from_json(cache.get(RECORDS, key))) is not None:
            return known
        try:
            if not re.fullmatch(r"[\w-]{1,255}", name):  # it would change the URL
                raise ServiceNotFound(name)
            record = read_record(self._connection, name)
        except ServiceNotFound as err:
            names = [info.name for info in self.infos()]
            raise NotFound(
                f"No datastore '{name}' in {address.label}; there are: {', '.join(names)}.",
                hint=did_you_mean(name, names),
            ) from err
        if name == ARTIFACT_STORE:
            cache.put(RECORDS, key, asdict(record), seconds=RECORD_SECONDS)
        return record

    def of_record(self, record: DatastoreRecord) -> AzureBlobs:
        """The contents of a datastore from `find`. Raises BadUsage for an unsupported kind."""
        return self._blobs(record, "", record.label)

    def of_container(self, account: str, container: str) -> DatastoreRecord | None:
        """A datastore of this blob container, preferably one with a secret, or None."""
        found = [
            one for one in read_all(self._connection) if one.account.lower() == account and one.container == container
        ]
        return min(found, key=lambda one: (one.credentials == "None", one.name), default=None)

    def record_at(self, place: DataLocation) -> DatastoreRecord | None:
        """The datastore of *place*, or None if the workspace has none for that container. Raises NotFound for an
        unknown name."""
        return self.find(place.datastore) if place.datastore else self.of_container(place.account, place.container)

    def artifacts(self, run_id: str, container_id: str, label: str) -> BlobStore:
        """The artifacts of the run, in *container_id*, its `dataContainerId`. Sends no request yet."""
        return RunArtifacts(
            self._connection,
            self._pool,
            run_id,
            container_id,
            label,
            lambda: self._blobs(self.find(ARTIFACT_STORE), f"ExperimentRun/{container_id}/", label, GROWING),
        )

    def artifact_link(self, container_id: str, label: str, name: str, *, days: float) -> SignedLink:
        """A link to the artifact *name* of *container_id*.

        himl tests a link that it signs: the file exists, and the service accepts the signature. If himl cannot sign
        one, it uses the link of the artifact service, provided that it is for this file only and expires in time.
        Raises NotFound for a missing file, NotAllowed if neither works, and ServiceFailed.
        """
        if reason_not_to_ask(name):
            raise NotFound(f"No file '{name}' in {label}.")
        connection, root = self._connection, f"ExperimentRun/{container_id}/"
        try:
            record = self.find(ARTIFACT_STORE)
            url = record.url(connection.address.cloud)
            signer = FileSigner(connection, record, self._pool, url, f"{root}{name}", days)
            if AzureBlobs(url, signer, root=root, label=label, pool=self._pool).stat(name) is None:
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
            log.debug("himl cannot sign a link (%s); using the artifact service's", err)
        return SignedLink(url, datetime.fromtimestamp(ends, timezone.utc))

    def at_uri(self, uri: str, label: str, *, is_file: bool = False, is_code: bool = False) -> BlobStore:
        """The folder at *uri* (`azureml://…`, or a URL of a datastore's account), or with *is_file* the file there.
        With *is_code*, it may be in a container without a datastore in the account of the default datastore.

        Raises NotFound, and BadUsage for a location that himl cannot read.
        """
        return self._at_uri(uri, label, is_file=is_file, is_code=is_code)

    def to_delete(self, uri: str, label: str, *, is_file: bool = False) -> AzureBlobs:
        """As `at_uri`, with a signature that permits deletion."""
        return self._at_uri(uri, label, is_file=is_file, deletes=True)

    def _at_uri(
        self, uri: str, label: str, *, is_file: bool, deletes: bool = False, is_code: bool = False
    ) -> AzureBlobs:
        place = parse_data_uri(uri, self._connection.address)
        record = self.record_at(place)
        if record is None and is_code and (default := self.find()).account == place.account:
            record = replace(default, container=place.container)
        if record is None:
            raise NotFound(
                f"The {self._connection.address.label} has no datastore for container '{place.container}' of account "
                f"'{place.account}'.",
                hint="Register the container as a datastore.",
            )
        folder, slash, name = place.path.rpartition("/")
        if is_file and name:
            container = self._container(record, deletes)
            return SingleBlob(*container, root=folder + slash, name=name, label=label, pool=self._pool)
        root = f"{place.path}/" if name else place.path
        return AzureBlobs(*self._container(record, deletes), root=root, label=label, pool=self._pool)

    def _blobs(self, record: DatastoreRecord, root: str, label: str, growing: Sequence[str] = ()) -> AzureBlobs:
        return AzureBlobs(*self._container(record), root=root, label=label, pool=self._pool, growing=growing)

    def _container(self, record: DatastoreRecord, deletes: bool = False) -> tuple[str, Signer]:
        if (record, deletes) not in self._signers:
            self._signers[record, deletes] = signer_for(self._connection, record, deletes=deletes)
        return record.url(self._connection.address.cloud), self._signers[record, deletes]


def ensure_datastore(connection: Connection, datastores: Datastores, spec: ContainerSpec, notify: Notify) -> str:
    """The name of the container's datastore. If there is none, registers one with the account's key, which himl sends
    nowhere else.

    Raises BadUsage for invalid names, for a missing or invalid key, and if the service refuses it.
    """
    if not re.fullmatch(r"[a-z0-9]{3,24}", spec.account):
        raise BadUsage(
            f"The storage account name '{spec.account}' is invalid.", hint="Use 3 to 24 lower-case letters and digits."
        )
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){2,62}", spec.container):
        raise BadUsage(
            f"The container name '{spec.container}' is invalid.", hint="Use 3 to 63 lower-case letters, digits and '-'."
        )
    known = datastores.of_container(spec.account, spec.container)
    if known is not None:
        return known.name
    taken = {info.name.lower() for info in datastores.infos()}
    name = spec.name
    if not name or name.lower() in taken:
        name = re.sub(r"\W", "_", f"{spec.account}_{spec.container}")[:LONGEST_DATASTORE_NAME]
    if name.lower() in taken:
        digest = hashlib.sha256(f"{spec.account}/{spec.container}".encode()).hexdigest()
        name = f"{name[: LONGEST_DATASTORE_NAME - 9]}_{digest[:8]}"
    if not DATASTORE_NAME.fullmatch(name):
        raise BadUsage(f"The datastore name '{name}' is invalid.", hint="Use at most 255 letters, digits and '_'.")
    container = f"container '{spec.container}' of account '{spec.account}'"
    if not spec.key:
        raise BadUsage(
            f"The workspace has no datastore for {container}, and himl has no key to register one.",
            hint="Set BLOB_ACCOUNT_KEY, or register it as a datastore in Studio.",
        )
    try:
        base64.b64decode(spec.key, validate=True)
    except binascii.Error:
        raise BadUsage(
            "The storage account's key in BLOB_ACCOUNT_KEY is not base64.",
            hint="Copy BLOB_ACCOUNT_KEY again from the portal's 'Access keys'.",
        ) from None
    properties: dict[str, Any] = {
        "datastoreType": BLOB,
        "accountName": spec.account,
        "containerName": spec.container,
        "endpoint": connection.address.cloud.storage_suffix,
        "protocol": "https",
        "credentials": {"credentialsType": "AccountKey", "secrets": {"secretsType": "AccountKey", "key": spec.key}},
        **({"subscriptionId": spec.subscription} if spec.subscription else {}),
    }
    url, params = connection.arm(f"/datastores/{quote(name, safe='')}"), {"api-version": ApiVersion.DATASTORES}
    try:
        connection.request("PUT", url, params=params, json={"properties": properties})
    except ServiceRefused as err:
        if err.status != 400:
            raise
        words = shorten(redact(" ".join(str(err).replace(spec.key, "…").split())), 300)
        raise BadUsage(
            f"Azure ML refused {container} as datastore '{name}': {words}",
            hint="Check BLOB_ACCOUNT_NAME, BLOB_CONTAINER_NAME and BLOB_ACCOUNT_KEY.",
        ) from err
    notify(Notice(f"Registered {container} as datastore '{name}'."))
    return name
