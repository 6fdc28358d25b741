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

from himl_cli.core.ports import free_port
from tests.support.processes import MARK, processes_below
from tests.support.running import until
from tests.support.users import OPENED, closed_interpreter

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
        self.make_home()
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

    def make_home(self) -> None:
        """Make the home folder, or empty it."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()

    def set(self, project: Path, **settings: str) -> None:
        """Write the settings of *project*, with the Python of the tests as the one there."""
        lines = [f'{key} = "{value}"\n' for key, value in {"himl_python": sys.executable, **settings}.items()]
        (project / "himl.toml").write_text("".join(["[remote.box]\n", *lines]))

    def start(self) -> None:
        """Start the server, with its present settings."""
        (self.folder / "sshd_config").write_text(self.options())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._listens, f"sshd listens: {(self.folder / 'log').read_text()}")

    def options(self) -> str:
        """The settings of sshd."""
        variables = {**({MARK: os.environ[MARK]} if MARK in os.environ else {}), **self.environment}
        more = " ".join(f'"{name}={value}"' for name, value in variables.items())
        return OPTIONS.format(port=self.port, folder=self.folder, home=self.home, shell=self.shell, more=more)

    def command(self) -> list[str]:
        """The words that start sshd."""
        return [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]

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


OTHER, OTHER_NAME, PASSWORD = 61004, "himl-other", "secret"
# Of PASSWORD, by `openssl passwd -6 -salt himltest`
HASH = "$6$himltest$HQ3OmilC2oSqT.3M2rbCAu/rGOreFrgCYnPPBk6dCWBN8MBQKyZrH7Wg5c8DhPRP40q./Iag9uDFNoANG1DI90"
IN_NAMESPACE = f"""
set -e
mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow
[ -z "$2" ] || {{ {OPENED}; }}
shift 3
exec "$@"
"""


@dataclass
class OtherUsersServer(SshServer):
    """A server for a user that only its processes know, with a password and a login shell. Needs root."""

    def start(self) -> None:
        entry = f"{OTHER_NAME}:x:{OTHER}:{OTHER}::{self.home}:{self.shell}\n"
        self._write("passwd", Path("/etc/passwd").read_text() + entry)
        self._write("shadow", f"{Path('/etc/shadow').read_text()}{OTHER_NAME}:{HASH}:19000:0:99999:7:::\n")
        super().start()

    def _write(self, name: str, text: str) -> None:
        with (self.folder / name).open("w") as file:  # the same file, since it is mounted
            file.write(text)

    def options(self) -> str:
        lines = [line for line in super().options().splitlines() if not line.startswith("ForceCommand")]
        return "\n".join(lines).replace("PasswordAuthentication no", "PasswordAuthentication yes") + "\n"

    def command(self) -> list[str]:
        (self.folder / "python").mkdir(exist_ok=True)
        space = ["unshare", "-m", "--propagation", "slave", "sh", "-c", IN_NAMESPACE, str(self.folder)]
        return [*space, *closed_interpreter(), str(self.folder / "python"), *super().command()]

    def make_home(self) -> None:
        super().make_home()
        os.chown(self.home, OTHER, OTHER)


@contextmanager
def running_ssh(folder: Path, kind: type[SshServer] = SshServer) -> Iterator[SshServer]:
    """A server in *folder*. Raises FileNotFoundError if this machine has no sshd."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or not shutil.which("ssh"):
        raise FileNotFoundError("sshd and ssh of OpenSSH")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd needs it to separate privileges
    home = folder / "far home"
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port("127.0.0.1")
    server = kind(folder, home, port)
    server.make_home()
    known = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {known}")
    user = OTHER_NAME if kind is OtherUsersServer else pwd.getpwuid(os.geteuid()).pw_name
    server.settings.write_text(
        f"Host box gpubox\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n"
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
