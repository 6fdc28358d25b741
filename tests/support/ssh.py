"""A real SSH server on the loopback, for another user with a home of its own where the tests run as root."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.processes import MARK, processes_below
from tests.support.running import until

OPTIONS = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
SetEnv "HOME={home}" "HIML_CLAIMS={home}/claims" PYTHONDONTWRITEBYTECODE=1 {more}
ForceCommand cd "{home}" && exec {shell} -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class SshServer:
    """An sshd. The client's settings name it `box`. `home` is the home folder of its user, `programs` has an `ssh` that
    reads the client's settings in `folder`. `environment` has more variables of its sessions."""

    folder: Path
    home: Path
    port: int
    shell: str = "/bin/sh"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def programs(self) -> Path:
        return self.folder / "programs"

    @property
    def settings(self) -> Path:
        return self.folder / "config"

    @contextmanager
    def used(self, project: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
        """Have the programs of this process reach the server as `box`, with an empty home, from *project*."""
        shutil.rmtree(self.home)
        self.home.mkdir()
        # The names of sockets are short
        with tempfile.TemporaryDirectory(prefix="t") as sockets:
            environment.setenv("XDG_RUNTIME_DIR", sockets)
            environment.setenv("PATH", f"{self.programs}{os.pathsep}{os.environ['PATH']}")
            self.set(project)
            try:
                yield
            finally:
                self.forget()
                # The other end of a lost call, and the jobs that it started, go on and write to the home
                until(lambda: not processes_below(self.home), "no process is left in the home folder")

    def set(self, project: Path, **settings: str) -> None:
        """Write the settings of *project*, with the Python of the tests as the one there."""
        lines = [f'{key} = "{value}"\n' for key, value in {"himl_python": sys.executable, **settings}.items()]
        (project / "himl.toml").write_text("".join(["[remote.box]\n", *lines]))

    def start(self) -> None:
        """Start the server, with its present settings."""
        variables = {**({MARK: os.environ[MARK]} if MARK in os.environ else {}), **self.environment}
        more = " ".join(f'"{name}={value}"' for name, value in variables.items())
        text = OPTIONS.format(port=self.port, folder=self.folder, home=self.home, shell=self.shell, more=more)
        (self.folder / "sshd_config").write_text(text)
        command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._listens, f"sshd listens: {(self.folder / 'log').read_text()}")

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def restart(self) -> None:
        """Start the server with other settings, such as another shell."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop the server and the connections of clients."""
        self.forget()
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def forget(self) -> None:
        """End the connection that clients share, if there is one."""
        from himl_cli.workspaces.remote.connection import ssh_command

        program, *words = ssh_command("box")
        subprocess.run([self.programs / program, "-O", "exit", *words], capture_output=True)


@contextmanager
def running_ssh(folder: Path) -> Iterator[SshServer]:
    """A server in *folder*. Raises FileNotFoundError if this machine has no sshd."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or not shutil.which("ssh"):
        raise FileNotFoundError("sshd and ssh of OpenSSH")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd needs it to separate privileges
    home = folder / "far home"
    home.mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = SshServer(folder, home, port)
    known = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {known}")
    server.settings.write_text(
        f"Host box gpubox\n  HostName 127.0.0.1\n  Port {port}\n  User {pwd.getpwuid(os.geteuid()).pw_name}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
    )
    server.programs.mkdir()
    script = f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(server.settings))} "$@"\n'
    (server.programs / "ssh").write_text(script)
    (server.programs / "ssh").chmod(0o755)
    server.start()
    try:
        yield server
    finally:
        server.stop()
