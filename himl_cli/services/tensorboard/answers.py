"""Asking a TensorBoard on this machine which it is."""

from __future__ import annotations

from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from himl_cli.core.text import read_json

SECONDS = 1.0
PATIENCE = 20.0
LONGEST_ANSWER = 100_000


def has_lost_its_data(host: str, port: int) -> bool:
    """Whether the TensorBoard at *host* and *port* answers, but only that it cannot read anything, as where its data
    server was killed."""
    connection = HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/data/runs", headers={"Connection": "close"})
        return connection.getresponse().status >= HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


def serves(folder: Path, host: str, port: int) -> bool:
    """Whether a TensorBoard over *folder* answers at *host* and *port*. No proxy is asked."""
    connection = HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/data/environment", headers={"Connection": "close"})
        said = read_json(connection.getresponse().read(LONGEST_ANSWER))
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(said, dict) and said.get("data_location") == str(folder)
