"""A run's artifacts by the links that the artifact service hands out: no right to the storage account is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.core.redaction import SAFE_IN_PATHS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import pages, unexpected
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.storage.blobs.access import Access, Signed
from himl_cli.workspaces.azure.storage.blobs.asking import Question
from himl_cli.workspaces.azure.storage.blobs.faults import BlobNotFound
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger, Line
from himl_cli.workspaces.azure.storage.blobs.names import can_be_asked_for
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.properties import Properties, properties_of
from himl_cli.workspaces.azure.storage.blobs.read_only import refuse_all
from himl_cli.workspaces.azure.storage.blobs.reading import BlobReader
from himl_cli.workspaces.azure.storage.blobs.signing import Signature
from himl_cli.workspaces.azure.storage.blobs.tasks import Run, Tasks
from himl_cli.workspaces.azure.storage.blobs.wire import VERSION_HEADER
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryPolicy

PAGE = 500
ASKED_AT_ONCE = 16
SIGN_IN = "the artifact service's link"


def origin_of(connection: Connection, container_id: str) -> str:
    """As `BlobStore.origin` of a run's artifacts, however they are read."""
    return f"{connection.address.cloud.name}{connection.address.path.lower()}/{container_id}"


class LinkAccess(Access):
    """One link a file, asked for when it is needed, and again when its time is over or it is refused."""

    def __init__(self, connection: Connection, container_id: str, label: str) -> None:
        super().__init__()
        self._connection = connection
        self._container_id = container_id
        self.origin = origin_of(connection, container_id)
        self._links: dict[str, tuple[str, Signature]] = {}
        self._place = Place(label, "", "azureml", "", SIGN_IN)

    @property
    def place(self) -> Place:  # type: ignore[override]
        return self._place

    def signed(self, name: str, query: str = "") -> Signed:
        link = self._links.get(name)
        if link is None:
            link = self._asked(name)
        elif link[1].is_due:
            link = self._renewed_around(name)
        url, signature = link
        return Signed(
            f"{url}?{query}&{signature.query}" if query else f"{url}?{signature.query}", (VERSION_HEADER,), signature
        )

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        known = self._links.get(name)
        if known is None or known[1] is refused.signature:
            self._renewed_around(name)
        return True

    def worked(self) -> None:
        """Nothing to learn: each link is for itself."""

    def names(self, folder: str) -> list[str]:
        """The names of all files below *folder* (empty: of all), sorted; their links are kept for later.

        Where the service does not take the empty prefix, which no public client sends, it lists the run's files without
        links.
        """
        try:
            return self._told(self._url("prefix/contentinfo", folder), has_links=True)
        except ServiceNotFound:
            if folder:  # nothing is there
                return []
        with suppress(ServiceNotFound):
            return self._told(self._url("", ""), has_links=False)
        return []

    def _told(self, url: str, *, has_links: bool) -> list[str]:
        names: dict[str, None] = {}

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
                    names[name] = None
        return sorted(names)

    def _renewed_around(self, name: str) -> tuple[str, Signature]:
        """A new link to *name*, and to all files of its folder: their time is over too."""
        old = self._links.get(name)
        self.names(name.rpartition("/")[0])
        link = self._links.get(name)
        return link if link is not None and link is not old else self._asked(name)

    def _asked(self, name: str) -> tuple[str, Signature]:
        try:
            return self._keep(name, self._connection.rest.get_object(self._url("contentinfo", name), "link"))
        except ServiceNotFound as err:
            raise BlobNotFound(f"No file '{name}' in {self._place.label}.") from err

    def _keep(self, name: str, item: Any) -> tuple[str, Signature]:
        parts = _parts_of(str(item.get("contentUri") or ""))
        if parts.scheme != "https" or not parts.hostname or parts.path.count("/") < 2:
            raise ServiceFailed(f"The artifact service gives no link to '{name}'.")
        self._place = Place(
            self._place.label, parts.hostname.split(".")[0], parts.path.split("/")[1], parts.hostname, SIGN_IN
        )
        link = self._links[name] = (
            f"https://{parts.netloc}{quote(parts.path, safe=SAFE_IN_PATHS)}",
            Signature.of_sas(parts.query),
        )
        return link

    def _url(self, what: str, path: str) -> str:
        below = f"ExperimentRun/{quote(self._container_id, safe='')}"
        return self._connection.artifact(f"/artifacts/{what}/{below}/{quote(path)}" if what else f"/artifacts/{below}")


def _parts_of(link: str) -> SplitResult:
    try:
        return urlsplit(link)
    except ValueError:  # half an IPv6 address, say
        return urlsplit("")


class ArtifactLinks(BlobReader):
    """The files under a run's data container, read-only. A list costs a HEAD a file: the service tells no sizes."""

    def __init__(
        self,
        connection: Connection,
        exchanger: Exchanger,
        container_id: str,
        label: str,
        growing: Sequence[str],
        retries: RetryPolicy | None = None,
    ) -> None:
        self._links = LinkAccess(connection, container_id, label)
        super().__init__(self._links, exchanger, retries or RetryPolicy(), growing)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`. Raises NotAllowed, ServiceFailed."""
        parts = prefix.split("/")[:-1]
        plain = [
            *takewhile(lambda part: part not in ("", ".", ".."), parts)
        ]  # the others would mean something else in a URL
        names = [name for name in self._links.names("/".join(plain)) if name.startswith(prefix)]
        for start in range(0, len(names), PAGE):
            page = self._looked_at(names[start : start + PAGE])
            if page:
                yield page

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Every request fails: a run's artifacts are not added to."""
        refuse_all(requests, sink, self.label)

    def _looked_at(self, names: Sequence[str]) -> Sequence[BlobInfo]:
        """The files called so, without those that are gone."""
        questions = [self._question(name) for name in names if can_be_asked_for(name)]
        with self._exchanger.lines() as lines:
            Run(lines, Tasks(iter(questions)), ASKED_AT_ONCE).finish()
        found = [
            BlobInfo(name, 1) for name in names if not can_be_asked_for(name)
        ]  # of some size, so that it is asked for, which fails and names it
        for question in questions:
            try:
                properties = question.answer
            except BlobNotFound:
                continue
            if not properties.is_directory:
                found.append(properties.blob)
        return sorted(found, key=lambda blob: blob.name)

    def _question(self, name: str) -> Question[Properties]:
        def understand(line: Line) -> Properties:
            return properties_of(line, name)

        return Question(name, self._links, self._retries, understand, method="HEAD")
