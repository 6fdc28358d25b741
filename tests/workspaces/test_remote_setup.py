"""The set-up of other machines and of the jobs there, through a real sshd."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.running import Himl, until, write_files
from tests.support.slurm import Slurm
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import SshServer

pytestmark = pytest.mark.large(STARTS_SSH)

SHOW = "import os, sys\nprint(os.environ.get('FROM_SETUP'), os.environ.get('FROM_RUN_WITH'), os.environ.get('PYTHON_OF'))\n"


def add_python(folder: Path, name: str, mark: str) -> None:
    """A Python of this name in *folder*, whose jobs see *mark*."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\nPYTHON_OF={mark} exec {sys.executable} "$@"\n')
    (folder / name).chmod(0o755)


def test_setup_and_run_with_precede_jobs_on_the_other_machine(box: SshServer, himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    add_python(box.home / "modules", "python", "modules")
    add_python(box.home / "image", "python-of-image", "image")
    own = f'himl_python = "{sys.executable}"\n'

    def logged(table: str, *words: str) -> tuple[int, str]:
        (project / "himl.toml").write_text(f"[remote.box]\n{own}{table}")
        ended = himl("submit", *(words or ("show.py",)), "--cluster", "ssh:box", "--follow")
        return ended.code, ended.stdout + ended.stderr

    lines = 'setup = """\necho hello from setup\ncat\nexport FROM_SETUP=yes PATH="$HOME/modules:$PATH"\n"""\n'
    code, text = logged(lines)
    assert (code, "hello from setup\nyes None modules" in text) == (0, True), text
    code, text = logged(lines, "show.py", "--sweep", "x=1,2")
    assert code == 0, text
    assert himl("runs", "logs", f"{himl('runs', 'list', '-q', '-w', 'ssh:box').stdout.split()[0]}_1", "-w", "ssh:box").stdout.endswith("yes None modules\n")
    code, text = logged(lines + 'python = "image/python-of-image"\n')  # a named one wins
    assert (code, "yes None image" in text) == (0, True), text
    inside = 'run_with = "env FROM_RUN_WITH=too PATH=/no"\n'
    code, text = logged(f"{inside}python = '{box.home}/image/python-of-image'\n")
    assert (code, "None too image" in text) == (0, True), text
    code, text = logged('setup = ["echo before", "ls /nonexistent", "echo after"]\n')
    assert (code, "the setup line 'ls /nonexistent' ended with exit code 2" in text, "before\n" in text) == (1, True, True), text
    assert not list((box.home / ".himl").rglob("*.setup"))
    code, text = logged('setup = ["if true"]\n')
    assert (code, "error: bash rejects the setup lines" in text) == (2, True), text
    assert logged("setup = 3\n") == (2, f"error: '{project}/himl.toml', line 1: 'box' has a 'setup' that is not a text, or for lines a list of texts.\n")


def test_slurm_behind_a_login_node(box: SshServer, himl: Himl, project: Path, cluster: Slurm) -> None:
    """The machine of the user has no Slurm. The login node submits with the options of the settings here."""
    write_files(project, {"show.py": SHOW, "sleep.py": "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"})
    own = f'[remote.box]\nhiml_python = "{sys.executable}"\n'
    table = '[slurm.lab]\nhost = "box"\npartition = "short"\nsetup = "export FROM_SETUP=yes"\nrun_with = "env FROM_RUN_WITH=too"\n'
    (project / "himl.toml").write_text(own + table)
    box.environment = {"PATH": f"{cluster.programs}:/usr/bin:/bin"}
    box.restart()
    there = ("-w", "ssh:box")
    try:
        sent = himl("submit", "show.py", "--cluster", "slurm:lab", "--follow")
        assert (sent.code, "yes too None" in sent.stdout) == (0, True), sent.stderr
        assert "himl runs show -w ssh:box" in sent.stderr + sent.stdout
        asleep = himl("submit", "sleep.py", "--cluster", "slurm:lab", "-q").stdout.strip()
        until(lambda: himl("runs", "logs", asleep, *there).stdout == "asleep\n", "it runs")
        assert himl("runs", "list", "-q", "--status", "Running", *there).stdout.split() == [asleep]
        assert cluster("squeue", "-h", "-o", "%j %P") == f"{asleep} short"
        assert himl("runs", "cancel", asleep, *there).code == 0
        until(lambda: himl("runs", "show", asleep, "--json", *there).json()["status"] == "Canceled", "it ends")
        dry = himl("submit", "show.py", "--cluster", "slurm:lab", "--dry_run")
        assert (dry.code, "--dry_run cannot be used on another machine" in dry.stderr) == (2, True), dry.stderr
        alone = himl("submit", "show.py", "--cluster", "slurm:short")
        assert (alone.code, "[slurm.NAME] host =" in alone.stderr) == (3, True), alone.stderr
    finally:
        box.environment = {}
        box.restart()
