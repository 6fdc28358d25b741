"""Loading azure-ai-ml: a second of work, done beside an upload that is waited for, and without a word of its own."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from himl_cli.workspaces.azure.requests.quiet import quieten


@contextmanager
def silenced() -> Iterator[None]:
    """Within it, azure-ai-ml and what it stands on warn of nothing: of what is experimental or deprecated in themselves. One thread at a time."""
    quieten()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_sdk() -> None:
    """Import azure-ai-ml, if it is not there yet. It lets its own logger speak on stderr when it is imported; that is undone."""
    with silenced():
        logger = logging.getLogger("azure.ai.ml")
        level = logger.level
        import azure.ai.ml
        import azure.ai.ml.entities  # noqa: F401

        logger.setLevel(level)


@contextmanager
def loading_sdk() -> Iterator[None]:
    """Import azure-ai-ml on a thread while what is within it goes on; it is there when this ends.

    However it ends, the thread is waited for: an import that is cut short leaves a package that cannot be used.
    """

    def load() -> None:
        with suppress(ImportError):  # it is raised where azure-ai-ml is used
            load_sdk()

    thread = threading.Thread(target=load, name="himl-sdk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
