"""Machines of another user that are odd or broken, through a real sshd. Each case is a login, a home or a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import lacking
from tests.support.running import Himl, write_files
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import OTHER, PASSWORD, OtherUsersServer, SshServer, running_ssh
from tests.support.terminals import Terminal
from tests.support.users import shared_folder

pytestmark = pytest.mark.large(STARTS_SSH)

SHOW = "import getpass, os\nprint('user', os.geteuid(), 'in', os.environ['HOME'])\n"
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture(scope="module")
def shared_far() -> Iterator[SshServer]:
    with ExitStack() as stack:
        folder = stack.enter_context(shared_folder())
        if folder is None:
            return lacking("root")
        try:
            made = stack.enter_context(running_ssh(folder, OtherUsersServer))
        except FileNotFoundError as err:
            lacking(str(err))
        yield made


@pytest.fixture
def far(shared_far: SshServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    with shared_far.used(project, monkeypatch):
        before = shared_far.settings.read_text()
        write_files(project, {"show.py": SHOW})
        try:
            yield shared_far
        finally:
            shared_far.settings.write_text(before)


def submit(himl: Himl, *words: str) -> tuple[int, str]:
    done = himl("submit", *(words or ("show.py",)), "--cluster", "ssh:box", "--follow")
    assert "Traceback" not in done.stderr
    return done.code, done.stdout + done.stderr


@contextmanager
def served(far: SshServer, shell: str = "/bin/sh", **environment: str) -> Iterator[None]:
    """The server with another login shell, and more variables."""
    far.shell, far.environment = shell, environment
    far.restart()
    try:
        yield
    finally:
        far.shell, far.environment = "/bin/sh", {}
        far.restart()


def with_a_key(far: SshServer, himl: Himl, project: Path) -> None:
    code, text = submit(himl)
    assert (code, f"user {OTHER} in {far.home}" in text) == (0, True), text
    assert {path.stat().st_uid for path in far.home.rglob("*")} == {OTHER}


def with_a_password_at_the_terminal(far: SshServer, himl: Himl, project: Path) -> None:
    far.settings.write_text(
        far.settings.read_text() + "  PreferredAuthentications password\n  NumberOfPasswordPrompts 1\n"
    )
    words = [sys.executable, "-c", IN_TERMINAL, str(himl.program), "runs", "show", "no_run", "-w", "ssh:box"]
    (far.home / ".himl").mkdir()
    os.chown(far.home / ".himl", OTHER, OTHER)
    for password, code, text in (("wrong", 4, "Permission denied"), (PASSWORD, 3, "no_run")):
        terminal = Terminal(words, cwd=project)
        terminal.wait_for("password:")
        terminal.type(f"{password}\n")
        assert (terminal.finish(), text in terminal.screen, password in terminal.screen) == (code, True, False), (
            terminal.screen
        )
    # the next command shares the connection, and asks no more
    assert himl("runs", "show", "no_run", "-w", "ssh:box").code == 3


def behind_a_jump_host(far: SshServer, himl: Himl, project: Path) -> None:
    folder = project.parent / "second"
    folder.mkdir()
    with running_ssh(folder) as second:
        known = (folder / "host_key.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{second.port} {known}")
        jump = (
            f"Host jump\n  HostName 127.0.0.1\n  Port {second.port}\n  IdentityFile {folder}/user_key\n"
            f"  UserKnownHostsFile {folder}/known\n"
        )
        far.settings.write_text(f"{jump}{far.settings.read_text()}  ProxyJump jump\n")
        code, text = submit(himl)
        assert (code, f"user {OTHER}" in text) == (0, True), text
        assert "Accepted publickey" in (folder / "log").read_text()


def without_a_shared_connection(far: SshServer, himl: Himl, project: Path) -> None:
    os.environ["XDG_RUNTIME_DIR"] = str(project / ("long" * 12))
    Path(os.environ["XDG_RUNTIME_DIR"]).mkdir()
    assert submit(himl)[0] == 0
    shown = himl("doctor", "--ssh", "box").stdout
    assert "Calls do not share a connection" in shown


def with_a_greeting(far: SshServer, himl: Himl, project: Path) -> None:
    with served(far, "/bin/bash"):
        (far.home / ".bashrc").write_text("echo Welcome; echo to this machine >&2; printf 'no newline'\n")
        assert submit(himl)[0] == 0


def with_csh(far: SshServer, himl: Himl, project: Path) -> None:
    csh = shutil.which("tcsh") or shutil.which("csh")
    if csh is None:
        return lacking("csh")
    with served(far, csh):
        (far.home / ".cshrc").write_text("echo Welcome\nset noclobber\n")
        assert submit(himl)[0] == 0
        assert himl("doctor", "--ssh", "box").code == 0
        (project / "himl.toml").write_text("")
        unknown = himl("init", "--ssh", "box", "--python", "no-python")
        assert (unknown.code, "There is no Python 'no-python' at 'box'" in unknown.stderr) == (2, True), unknown.stderr


def without_programs(far: SshServer, himl: Himl, project: Path) -> None:
    """Neither rsync nor another program is on PATH, and no Python."""
    with served(far, PATH="/nonexistent"):
        assert submit(himl)[0] == 0
        (project / "himl.toml").write_text("")
        made = himl("init", "--ssh", "box", "--python", "python3")
        assert (made.code, "There is no Python 'python3' at 'box'" in made.stderr) == (2, True), made.stderr
        assert "hint: Install one there, or name it: himl init --ssh box --python PATH" in made.stderr


def with_a_read_only_home(far: SshServer, himl: Himl, project: Path) -> None:
    os.chown(far.home, 0, 0)
    far.home.chmod(0o555)
    code, text = submit(himl)
    assert (code, "Permission denied" in text, f"'{far.home}/.himl'" in text) == (1, True, True), text
    (project / "himl.toml").write_text("")
    made = himl("init", "--ssh", "box")
    assert (made.code, "Cannot install himl at 'box': Permission denied" in made.stderr) == (1, True), made.stderr
    far.home.chmod(0o755)


def with_a_full_home(far: SshServer, himl: Himl, project: Path) -> None:
    """What arrived stays for the next call, which succeeds once there is space."""
    write_files(project, {"large.bin": os.urandom(3_000_000)})
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=2m,uid={OTHER},mode=755", "tmpfs", far.home], check=True)
    far.restart()  # with this mount
    try:
        code, text = submit(himl)
        assert (code, bool(re.search("full|No space", text))) == (1, True), text
        (project / "himl.toml").write_text("")
        made = himl("init", "--ssh", "box")
        assert (made.code, bool(re.search("No space", made.stderr))) == (1, True), made.stderr
        far.set(project)
        subprocess.run(["mount", "-o", "remount,size=64m", far.home], check=True)
        assert submit(himl)[0] == 0
    finally:
        subprocess.run(["umount", "-l", far.home], check=True)
        far.restart()


def with_another_host_key(far: SshServer, himl: Himl, project: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", project / "other"], check=True)
    (project / "known").write_text(f"[127.0.0.1]:{far.port} {(project / 'other.pub').read_text()}")
    far.settings.write_text(far.settings.read_text().replace(f"{far.folder}/known_hosts", str(project / "known")))
    (project / "himl.toml").write_text("")
    for words in (
        ["runs", "list", "-w", "ssh:box"],
        ["init", "--ssh", "box"],
        ["submit", "show.py", "--cluster", "ssh:box"],
    ):
        done = himl(*words)
        assert (done.code, "ost key verification failed" in done.stderr) == (4, True), done.stderr


CASES: list[Callable[[SshServer, Himl, Path], None]] = [
    with_a_key,
    with_a_password_at_the_terminal,
    behind_a_jump_host,
    without_a_shared_connection,
    with_a_greeting,
    with_csh,
    without_programs,
    with_a_read_only_home,
    with_a_full_home,
    with_another_host_key,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_machines_of_another_user(
    case: Callable[[SshServer, Himl, Path], None], far: SshServer, himl: Himl, project: Path
) -> None:
    case(far, himl, project)
