"""Loading azure-ai-ml: a second of work, done beside an upload that is waited for, and without a word of its own."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from himl_cli.workspaces.azure.requests.trust import silence_libraries

TALKERS = ("azure.ai.ml", "azure.ai.ml._utils._experimental")


@contextmanager
def silenced() -> Iterator[None]:
    """Within it, azure-ai-ml and what it stands on warn of nothing: of what is experimental or deprecated in
    themselves. One thread at a time.

    Afterwards azure-ai-ml's loggers are as they were: a script that goes on with it hears what it has to say.
    """
    silence_libraries()
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_sdk() -> None:
    """Import azure-ai-ml, if it is not there yet. It lets its own logger speak on stderr when it is imported;
    `silenced` undoes that."""
    with silenced():
        _import()


def _import() -> None:
    import azure.ai.ml
    import azure.ai.ml.entities  # noqa: F401


@contextmanager
def loading_sdk() -> Iterator[None]:
    """Import azure-ai-ml on a thread while what is within it goes on; it is there when this ends.

    However it ends, the thread is waited for: an import that is cut short leaves a package that cannot be used.
    """

    def load() -> None:
        with suppress(ImportError):  # it is raised where azure-ai-ml is used
            _import()

    thread = threading.Thread(target=load, name="himl-sdk", daemon=True)
    with silenced():  # here and not on the thread: filters of warnings are the process's, and must be set back in turn
        thread.start()
        try:
            yield
        finally:
            thread.join()
