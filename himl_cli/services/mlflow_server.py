"""MLflow's server as a child process, which shows the runs of a workspace through the plugins of `himl_cli.mlflow`."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from urllib.parse import urlencode

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notify
from himl_cli.core.installation import install_command
from himl_cli.core.signals import take_time_to_end
from himl_cli.services.child_server import ANY_ADDRESS, SECONDS_TO_END, ChildServer, free_port, is_loopback
from himl_cli.services.server_access import Access
from himl_cli.services.transfer.local_files import disk_error

OLDEST = (3, 5, 1)  # as in pyproject.toml
# Patterns for Host headers. `[[]` is a bracket, which alone would begin a set.
LOOPBACK = ("localhost", "127.0.0.1", "[[]::1]")


def require_mlflow() -> None:
    """Raise BadUsage, with the command that installs it, if the full MLflow is missing or too old."""
    try:
        version = metadata.version("mlflow")  # not mlflow-skinny, which has no user interface
    except metadata.PackageNotFoundError:
        found = ", which is not installed"
    else:
        from packaging.version import Version

        if Version(version).release >= OLDEST:
            return
        found = f" {'.'.join(map(str, OLDEST))} or newer, but {version} is installed"
    raise BadUsage(f"himl ui needs MLflow{found}.", hint=f"Install it: {install_command('ui')}")


def store_uri(spec: str | None, config_file: str | None, *, start: Path) -> str:
    """The URI by which `himl_cli.mlflow` opens the workspace of a command's options in *start*."""
    options = {name: value for name, value in (("workspace", spec), ("config_file", config_file)) if value}
    return f"himl://{start.absolute().as_uri().removeprefix('file://')}{'?' * bool(options)}{urlencode(options)}"


class MlflowServer(ChildServer):
    """MLflow's server for the store of *uri*, without the user's settings of MLflow."""

    name = "MLflow"
    version_check = "python -m mlflow --version"

    def __init__(self, folder: Path, uri: str, host: str, port: int, access: Access, notify: Notify) -> None:
        self._uri = uri
        super().__init__(folder, host, port, access, notify)

    @property
    def arguments(self) -> Sequence[str]:
        return ["mlflow", self._uri, self._host, str(self._port)]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of this process without MLflow's variables. The server answers only to names of this machine,
        which prevents DNS rebinding."""
        names = [*LOOPBACK]
        if not is_loopback(self._host):
            own = {self._host, self._address, socket.gethostname(), socket.getfqdn()}
            names = ["*"] if self._host in ANY_ADDRESS else [*names, *sorted(own)]
        kept = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
        allowed = ",".join(pattern for name in names for pattern in (name, f"{name}:*"))
        return {**kept, "MLFLOW_SERVER_ALLOWED_HOSTS": allowed, "MLFLOW_DISABLE_TELEMETRY": "true"}


def serve(
    uri: str, host: str, port: int, access: Access, notify: Notify, on_start: Callable[[ChildServer], None]
) -> None:
    """Show the runs of the store of *uri* until an interrupt, and call *on_start* once the server answers. Raises the
    errors of `free_port`, HimlError if the server ends, DiskFailed."""
    free = free_port(host, port)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="himl_ui_", ignore_cleanup_errors=True)
    except OSError as err:
        raise disk_error(err, "Cannot create a temporary folder") from err
    with temporary as name, closing(MlflowServer(Path(name).resolve(), uri, host, free, access, notify)) as server:
        server.tell_address(port)
        is_up = False
        try:
            while True:
                time.sleep(0.5 if is_up else 0.1)
                server.check()
                if not is_up and server.is_up():
                    is_up = True
                    on_start(server)
        except KeyboardInterrupt:
            take_time_to_end(SECONDS_TO_END)  # a second Ctrl-C would leave the server behind
            raise
