"""Keeps the vendor's libraries from talking past himl: what they would log is told by our own errors."""

from __future__ import annotations

import logging

TALKERS = ("azure.core", "azure.identity", "msal", "urllib3.connectionpool")


def quieten() -> None:
    """Let their loggers pass nothing below CRITICAL, unless somebody set a level for them on purpose.

    azure-identity warns of every credential that does not apply, azure-core logs a line a request, msal its cache.
    """
    for name in TALKERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
