"""A container of Azure Storage, or what lies below a folder of it, as a `BlobStore`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.storage.blobs.access import ContainerAccess
from himl_cli.workspaces.azure.storage.blobs.asking import Pending, Question
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger
from himl_cli.workspaces.azure.storage.blobs.listing import ListedPage, listed_level, listed_page
from himl_cli.workspaces.azure.storage.blobs.order import in_plain_order, out_of_folders
from himl_cli.workspaces.azure.storage.blobs.reading import BlobReader
from himl_cli.workspaces.azure.storage.blobs.signing import SasSigner, Signer
from himl_cli.workspaces.azure.storage.blobs.storing import StoreTasks
from himl_cli.workspaces.azure.storage.blobs.tasks import Run
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryPolicy, RetryState

PAGE = 1000


class AzureBlobs(BlobReader):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*.

    `list` asks for pages of 5,000, the next one while the last is worked on. Not for several threads at once.
    """

    def __init__(
        self,
        url: str,
        signer: Signer,
        *,
        root: str = "",
        label: str = "",
        exchanger: Exchanger | None = None,
        retries: RetryPolicy | None = None,
        growing: Sequence[str] = (),
    ) -> None:
        self._container = ContainerAccess(url, root, signer, label or url)
        super().__init__(self._container, exchanger or Exchanger(), retries or RetryPolicy(), growing)

    @classmethod
    def of_sas(
        cls, url: str, sas: str, *, root: str = "", label: str = "", retries: RetryPolicy | None = None
    ) -> AzureBlobs:
        """The container at *url*, by a SAS (a query string)."""
        return cls(url, SasSigner.fixed(sas), root=root, label=label, retries=retries)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`. Raises NotFound for a container that does not exist, NotAllowed, ServiceFailed."""
        pages = self._pages(prefix)
        first = next((page for page in pages if page.blobs), None)  # an empty page may come before others
        if first is None:
            return
        blobs: Iterator[BlobInfo] = chain(first.blobs, (blob for page in pages for blob in page.blobs))
        if first.is_hierarchical:
            blobs = out_of_folders(blobs, self._has_rivals, prefix[: prefix.rfind("/") + 1])
        ordered = in_plain_order(blobs)
        while page := [*islice(ordered, PAGE)]:
            yield page

    def has_any(self, prefix: str) -> bool:
        """Whether a blob's name starts with *prefix*; one request, more only where the service gives empty pages.
        Raises as `list`."""
        marker = ""
        while True:
            page = self._asked(self._question_for_page(prefix, marker, most=1))
            if page.blobs or not page.marker:
                return bool(page.blobs)
            marker = page.marker

    def _has_rivals(self, folder: str) -> bool:
        """Whether some names go on after that of *folder* with a sign that comes before `/`."""
        question = Question(
            folder,
            self._container,
            self._retries,
            lambda line: listed_level(line.take(), self._container.root),
            signed=lambda: self._container.level(folder),
        )
        return any(folder < name < folder + "/" for name in self._asked(question))

    def _pages(self, prefix: str) -> Iterator[ListedPage]:
        marker = ""
        under_way = self._ask_for_page(prefix, marker)
        try:
            while True:
                page = under_way.wait()
                if not page.marker:
                    yield page
                    return
                if page.marker == marker:
                    raise ServiceFailed(
                        f"The list of {self.label} does not end: the service gives the same page again."
                    )
                marker = page.marker
                under_way = self._ask_for_page(prefix, marker)
                self._under_way.append(under_way)
                yield page
                self._under_way.remove(under_way)
        finally:
            under_way.drop()
            if under_way in self._under_way:
                self._under_way.remove(under_way)

    def _ask_for_page(self, prefix: str, marker: str) -> Pending[ListedPage]:
        return Pending(self._question_for_page(prefix, marker), self._exchanger)

    def _question_for_page(self, prefix: str, marker: str, most: int = 0) -> Question[ListedPage]:
        return Question(
            prefix,
            self._container,
            self._retries,
            lambda line: listed_page(line.take(), self._container.root),
            signed=lambda: self._container.listing(prefix, marker, most),
        )

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """As `BlobStore.store`: up to 8 MiB in one request, above in blocks; every request carries the MD5 of its
        bytes."""
        tasks = StoreTasks(iter(requests), sink, self._container, RetryState(self._retries, self._container.pauses))
        try:
            with self._exchanger.lines() as lines:
                Run(lines, tasks, workers, self._go_on_beside).finish()
        finally:
            tasks.close()
