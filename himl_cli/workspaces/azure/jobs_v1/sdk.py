"""azureml-core, which is not part of every installation: found, imported, and kept quiet."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec

from himl_cli.core.errors import BadUsage
from himl_cli.core.installing import install_command
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.requests.trust import silence_libraries

EXTRA = "v1"
DEPRECATED = (
    "--sdk v1 uses azureml-core, which is deprecated and no longer maintained; without the option the job "
    "goes by azure-ai-ml."
)
VARIABLES = {
    "AML_SNAPSHOT_NO_FILE_LIMIT": "1",  # azureml-core's own bound of 2,000 files does not count
    "HBI_WORKSPACE_JOB": "true",  # azureml-telemetry then tells nobody what is submitted
}
"""Variables that azureml's packages read."""
SNAPSHOT_BYTES = 1 << 40

log = logging.getLogger(__name__)


def require_sdk() -> None:
    """Raises BadUsage with the command that installs azureml-core, where it is missing. Imports nothing of it."""
    try:
        found = find_spec("azureml.core")
    except ModuleNotFoundError:  # nothing called azureml at all
        found = None
    if found is None:
        raise BadUsage(
            "--sdk v1 needs azureml-core, which is not installed.", hint=f"Install it: {install_command(EXTRA)}"
        )


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Within it, what azureml-core prints goes to himl's debug log, and its warnings and logs nowhere; its bounds on
    snapshots do not count.

    It prints to both streams from wherever it is, logs warnings about itself, and refuses more than 300 MB, where himl
    only warns.
    """
    silence_libraries()
    said, before = io.StringIO(), {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    logger = logging.getLogger("azureml")
    level = logger.level
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)
            _lift_size_limit()
            yield
    finally:
        logger.setLevel(level)
        _set_back(before)
        if said.getvalue().strip():
            log.debug("azureml-core said: %s", redact(said.getvalue().strip()))


def _set_back(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _lift_size_limit() -> None:
    from azureml._restclient import snapshots_client

    snapshots_client.SNAPSHOT_MAX_SIZE_BYTES = SNAPSHOT_BYTES
