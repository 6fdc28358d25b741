"""The artifacts of a run: from the storage account where that may be listed, else by the links that the artifact
service hands out, for which no right to the storage account is needed.

Stored are they by links alone: the service is told their names then, so that Studio lists them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError, NotAllowed, ServiceFailed
from himl_cli.core.redaction import SAFE_IN_PATHS, parts_of
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import object_of, pages, unexpected
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.blob_download import BlobReader
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.failures import BlobNotFound
from himl_cli.workspaces.azure.storage.properties import reason_not_to_ask, reason_not_to_store
from himl_cli.workspaces.azure.storage.scheduler import run_tasks
from himl_cli.workspaces.azure.storage.signing import VERSION_HEADER, Endpoint, Signature, Signed
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import RetryPolicy

log = logging.getLogger(__name__)

GROWING = ("logs/", "user_logs/", "azureml-logs/", "system_logs/")
ROUTES, BY_LINKS, ROUTE_SECONDS = "artifact_routes", "links", 3600.0
PAGE = 500
HEADS_AT_ONCE = 16
NAMES_AT_ONCE = 50
"""In one request for links to write to, as azureml-core has it."""

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
        if link is None:
            link = self._link(name)
        elif link[1].is_due:
            link = self._renewed_link(name)
        url, signature = link
        whole = f"{query}&{signature.query}" if query else signature.query
        return Signed(f"{url}?{whole}", (VERSION_HEADER,), signature)

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        known = self._links.get(name)
        if known is None or known[1] is refused.signature:
            self._renewed_link(name)
        return True

    def names(self, folder: str) -> list[str]:
        """The names of all files below *folder* (empty: of all), sorted; their links are kept for later.

        Where the service does not take the empty prefix, which no public client sends, it lists the run's files without
        links.
        """
        try:
            return self._listed(self._url("/prefix/contentinfo", folder), has_links=True)
        except ServiceNotFound:
            if folder:  # nothing is there
                return []
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
                        self._keep(name, item)
                    names.add(name)
        return sorted(names)

    def _renewed_link(self, name: str) -> tuple[str, Signature]:
        """A new link to *name*, and to all files of its folder: their time is over too."""
        old = self._links.get(name)
        self.names(name.rpartition("/")[0])
        link = self._links.get(name)
        return link if link is not None and link is not old else self._link(name)

    def _link(self, name: str) -> tuple[str, Signature]:
        try:
            return self._keep(name, self._connection.rest.get_object(self._url("/contentinfo", name), "link"))
        except ServiceNotFound as err:
            raise BlobNotFound(f"No file '{name}' in {self.label}.") from err

    def _keep(self, name: str, item: Any) -> tuple[str, Signature]:
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
    """Links to write to; one that ran out is asked for again."""

    def announce(self, names: Iterable[str]) -> None:
        """Tell the service of files of these *names*, at most `NAMES_AT_ONCE`, and keep the links that it gives."""
        url = self._url("/batch/metadata")
        try:
            answer = self._connection.rest.post_object(url, "links", json={"paths": [{"path": name} for name in names]})
        except ServiceRefused as err:  # some of them are there already: each is asked for by itself then
            if err.status not in (400, 409):
                raise
            return
        for name, item in object_of(answer.get("artifactContentInformation") or {}, url, "links").items():
            self._keep(name, object_of(item, url, "link"))

    def _link(self, name: str) -> tuple[str, Signature]:
        return self._keep(name, self._connection.rest.get_object(self._url("/write", name), "link"))

    _renewed_link = _link


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
        """As `BlobStore.list`. Raises NotAllowed, ServiceFailed."""

        def begin(direct: AzureBlobs | None) -> tuple[Iterator[Sequence[BlobInfo]], Sequence[BlobInfo] | None]:
            pages = direct.list(prefix) if direct is not None else self._list_by_links(prefix)
            return pages, next(pages, None)

        pages, first = self._tried(begin)
        if first is not None:
            yield first
            yield from pages

    def _list_by_links(self, prefix: str) -> Iterator[Sequence[BlobInfo]]:
        # Parts such as `..` would mean something else in a URL
        folders = [*takewhile(lambda part: part not in ("", ".", ".."), prefix.split("/")[:-1])]
        names = [name for name in self._links.names("/".join(folders)) if name.startswith(prefix)]
        for start in range(0, len(names), PAGE):
            page = self._described(names[start : start + PAGE])
            if page:
                yield page

    def _described(self, names: Sequence[str]) -> Sequence[BlobInfo]:
        """The files called so, without those that are gone."""
        queries = [self._head(name) for name in names if not reason_not_to_ask(name)]
        run_tasks(self._pool, iter(queries), HEADS_AT_ONCE)
        # A file that cannot be asked for is of some size, so that its download is tried, which fails and names it
        found = [BlobInfo(name, 1) for name in names if reason_not_to_ask(name)]
        for query in queries:
            with suppress(BlobNotFound):
                if not query.answer.is_directory:
                    found.append(query.answer.blob)
        return sorted(found, key=lambda blob: blob.name)

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

        def announced(requests: Iterator[StoreRequest]) -> Iterator[StoreRequest]:
            while some := [*islice(requests, NAMES_AT_ONCE)]:
                try:
                    endpoint.announce([request.name for request in some if not reason_not_to_store(request.name)])
                except HimlError as err:
                    for request in some:
                        sink.fail(request, err)
                    continue
                yield from some

        store_blobs(announced(iter(requests)), sink, endpoint, self._pool, self._policy, workers=workers)

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
