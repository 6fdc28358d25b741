"""What a store that cannot be added to says to whoever tries."""

from __future__ import annotations

from collections.abc import Iterable

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.base import StoreSink


def refuse_all(requests: Iterable[StoreRequest], sink: StoreSink, label: str) -> None:
    """Fail each of *requests*."""
    for request in requests:
        sink.fail(
            request,
            HimlError(f"The files of {label} cannot be added to.", hint="Use a datastore: himl datastore upload"),
        )
