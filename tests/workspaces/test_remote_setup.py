"""The set-up of other machines and of the jobs there, through a real sshd."""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires, version
from pathlib import Path
from zipfile import ZipFile

import msgspec
import pytest
from packaging.requirements import Requirement

import himl_cli
from tests.support.running import Himl, until, write_files
from tests.support.slurm import Slurm
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import SshServer

pytestmark = pytest.mark.large(STARTS_SSH)

SHOW = (
    "import os, sys\n"
    "print(os.environ.get('FROM_SETUP'), os.environ.get('FROM_RUN_WITH'), os.environ.get('PYTHON_OF'))\n"
)


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
    assert himl(
        "runs", "logs", f"{himl('runs', 'list', '-q', '-w', 'ssh:box').stdout.split()[0]}_1", "-w", "ssh:box"
    ).stdout.endswith("yes None modules\n")
    again = (
        "import os\nprint(os.environ['FROM_SETUP'], os.environ['PYTHON_OF'])\n"
        "raise SystemExit(os.environ['HIML_TRY'] == '1')\n"
    )
    write_files(project, {"again.py": again})
    assert logged(lines, "again.py")[0] == 1
    resumed = himl("submit", "--resume", "latest", "--follow")
    assert (resumed.code, "yes modules" in resumed.stdout) == (0, True), resumed.stderr
    code, text = logged(lines + 'python = "image/python-of-image"\n')  # a named one wins
    assert (code, "yes None image" in text) == (0, True), text
    inside = 'run_with = "env FROM_RUN_WITH=too PATH=/no"\n'
    code, text = logged(f"{inside}python = '{box.home}/image/python-of-image'\n")
    assert (code, "None too image" in text) == (0, True), text
    code, text = logged('setup = ["echo before", "ls /nonexistent", "echo after"]\n')
    assert (code, "the setup line 'ls /nonexistent' ended with exit code 2" in text, "before\n" in text) == (
        1,
        True,
        True,
    ), text
    assert not list((box.home / ".himl").rglob("*.setup"))
    code, text = logged('setup = ["if true"]\n')
    assert (code, "error: bash rejects the setup lines" in text) == (2, True), text
    assert logged("setup = 3\n") == (
        2,
        f"error: '{project}/himl.toml', line 1: 'box' has a 'setup' that is not a text, or for lines a list "
        "of texts.\n",
    )


def test_slurm_behind_a_login_node(box: SshServer, himl: Himl, project: Path, cluster: Slurm) -> None:
    """The machine of the user has no Slurm. The login node submits with the options of the settings here."""
    write_files(project, {"show.py": SHOW, "sleep.py": "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"})
    own = f'[remote.box]\nhiml_python = "{sys.executable}"\n'
    table = (
        '[slurm.lab]\nhost = "box"\npartition = "short"\nsetup = "export FROM_SETUP=yes"\n'
        'run_with = "env FROM_RUN_WITH=too"\n'
    )
    (project / "himl.toml").write_text(own + table)
    box.environment = {"PATH": f"{cluster.programs}:/usr/bin:/bin"}
    box.restart()
    there = ("-w", "ssh:box")
    try:
        sent = himl("submit", "show.py", "--cluster", "slurm:lab", "--follow")
        assert (sent.code, "yes too None" in sent.stdout) == (0, True), sent.stderr
        assert "himl runs show -w ssh:box" in sent.stderr + sent.stdout
        asleep = himl("submit", "sleep.py", "--cluster", "slurm:lab", "-q").stdout.strip()
        until(lambda: himl("runs", "logs", asleep).stdout == "asleep\n", "it runs")
        assert himl("runs", "list", "-q", "--status", "Running", *there).stdout.split() == [asleep]
        assert cluster("squeue", "-h", "-o", "%j %P") == f"{asleep} short"
        assert himl("runs", "cancel", asleep).code == 0  # by its pointer
        until(lambda: himl("runs", "show", asleep, "--json", *there).json()["status"] == "Canceled", "it ends")
        dry = himl("submit", "show.py", "--cluster", "slurm:lab", "--dry_run")
        assert (dry.code, "--dry_run cannot be used on another machine" in dry.stderr) == (2, True), dry.stderr
        checked = himl("doctor", "--slurm", "lab", "--json").json()[-1]
        assert (checked["name"], checked["remedy"]) == ("slurm", "Check the connection: himl doctor --ssh box")
        assert himl("doctor", "--ssh", "box").code == 0
        alone = himl("submit", "show.py", "--cluster", "slurm:short")
        assert (alone.code, "[slurm.NAME] host =" in alone.stderr) == (3, True), alone.stderr
    finally:
        box.environment = {}
        box.restart()


def add_packages(folder: Path) -> None:
    """Wheels with the names of the packages that himl needs, which make those of the tests importable."""
    here = Path(msgspec.__file__).parents[1]
    for line in requires("himl-cli") or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            name = f"{need.name.replace('-', '_')}-{version(need.name)}"
            with ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
                for file, text in {
                    "METADATA": f"Metadata-Version: 2.1\nName: {need.name}\nVersion: {version(need.name)}\n",
                    "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                    "RECORD": "",
                }.items():
                    wheel.writestr(f"{name}.dist-info/{file}", text)
                if need.name == "msgspec":
                    wheel.writestr("packages_of_tests.pth", f"{here}\n")


def test_init_installs_the_himl_that_runs_here(box: SshServer, himl: Himl, project: Path, tmp_path: Path) -> None:
    """First without internet at the other end. The second call changes nothing, and a call of another himl updates."""
    packages = tmp_path / "packages"
    packages.mkdir()
    add_packages(packages)
    (project / "himl.toml").write_text('[submit]\nexperiment = "digits"\n')
    box.environment = {"PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1"}
    box.restart()
    try:
        missing = himl("runs", "list", "-w", "ssh:box")
        assert (missing.code, "Install himl there: himl init --ssh box" in missing.stderr) == (2, True), missing.stderr
        (project / "below").mkdir()
        words, env = ("init", "--ssh", "box"), {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)}
        made = himl(*words, env=env, cwd=project / "below")  # the settings are the project's
        assert made.code == 0, made.stderr
        said = r"pip at 'box' says: Could not find a version .*[^.]\. himl brings the packages from here\.\n"
        assert re.search(said, made.stderr), made.stderr
        settings = (project / "himl.toml").read_text()
        assert settings.startswith('[submit]\nexperiment = "digits"\n\n[remote.box]')
        write_files(project, {"show.py": SHOW})
        sent = himl("submit", "show.py", "--cluster", "ssh:box", "--follow")
        assert (sent.code, "None None None" in sent.stdout) == (0, True), sent.stderr
        again = himl("init", "--ssh", "box", "--json")
        assert (again.code, again.json()["files"][0]["is_new"], "is up to date" in again.stderr) == (0, False, True)
        assert (project / "himl.toml").read_text() == settings
        (box.home / ".cache/himl/ssh/himl.digest").write_text("of another himl")
        box.environment["PIP_FIND_LINKS"] = str(packages)
        box.restart()
        updated = himl("init", "--ssh", "box")
        assert (updated.code, "brings" in updated.stderr) == (0, False), updated.stderr
        assert himl("runs", "list", "-q", "-w", "ssh:box").stdout.startswith("digits_")
    finally:
        box.environment = {}
        box.restart()


OTHER_VERSION = '''#!{python}
"""Another version of himl, whose workspace has no datastores."""
import struct, sys
import msgspec
out, source, pack = sys.stdout.buffer, sys.stdin.buffer, msgspec.msgpack.encode
def send(kind, value):
    body = pack(value)
    out.write(kind + struct.pack(">I", len(body)) + body); out.flush()
def receive():
    kind, length = struct.unpack(">cI", source.read(5)); return source.read(length)
out.write(b"\\0himl remote\\n")
send(b"R", {{"newest": {newest}, "oldest": {oldest}, "version": "9.9"}})
receive()
while True:
    method = msgspec.msgpack.decode(receive())["method"]
    if method == "list": send(b"P", [])
    send(b"R", {{"datastore": {{"label": "files", "origin": "files"}}, "datastores": []}}.get(method))
'''


@pytest.mark.parametrize(("oldest", "newest", "works"), [(1, 1, True), (1, 2, True), (2, 3, False), (0, 0, False)])
def test_both_ends_speak_a_protocol_that_both_know(
    oldest: int, newest: int, works: bool, box: SshServer, himl: Himl, project: Path, tmp_path: Path
) -> None:
    program = tmp_path / "other"
    program.write_text(OTHER_VERSION.format(python=sys.executable, oldest=oldest, newest=newest))
    program.chmod(0o755)
    box.set(project, himl_python=str(program))
    listed = himl("datastore", "list", "-w", "ssh:box")
    remedy = f"ssh box {program} -m pip install himl-cli=={himl_cli.__version__}"
    expected = "himl 9.9 runs at 'box'" if works else "himl 9.9 at 'box' and himl"
    assert (listed.code, expected in listed.stderr, remedy in listed.stderr) == (0 if works else 2, True, True), listed


def test_doctor_checks_another_machine(box: SshServer, himl: Himl, project: Path) -> None:
    def checked(code: int, **settings: str) -> dict[str, tuple[str, str]]:
        box.set(project, **settings)
        done = himl("doctor", "--ssh", "box", "--json")
        assert done.code == code, done.stderr
        return {check["name"]: (check["state"], check["message"] + check["remedy"]) for check in done.json()}

    found = checked(0)
    names = ("ssh", "remote himl", "remote python", "remote disk")
    assert {name: state for name, (state, _) in found.items()} == dict.fromkeys(names, "ok")
    assert re.search(r"took [\d.]+ s, a second one [\d.]+ s", found["ssh"][1])
    state, text = checked(1, python="no-python")["remote python"]
    assert (state, "There is no 'no-python' there" in text, "python in [remote.box]" in text) == ("failed", True, True)
    (project / "himl.toml").write_text(f'[remote.box]\nhiml_python = "{sys.executable}"\n[slurm.gpu]\nhost = "box"\n')
    without_slurm = himl("doctor", "--ssh", "box")
    assert (without_slurm.code, "There is no 'sbatch' there" in without_slurm.stdout) == (1, True), without_slurm.stdout
    (project / "himl.toml").write_text("")
    without = himl("doctor", "--ssh", "box", "--json")
    assert without.code == 1
    assert without.json()[-1]["remedy"] == "Install himl there: himl init --ssh box"
    away = himl("doctor", "--ssh", "nowhere.invalid")
    assert (away.code, "ssh nowhere.invalid true" in away.stdout) == (1, True), away.stdout


def test_init_does_not_hide_the_settings_of_the_project(box: SshServer, himl: Himl, project: Path) -> None:
    (project / "himl.toml").unlink()
    (project / "pyproject.toml").write_text('[tool.himl.submit]\nexperiment = "digits"\n')
    made = himl("init", "--ssh", "box")
    assert (made.code, "Add to that file: [tool.himl.remote.box]" in made.stderr) == (2, True), made.stderr
    assert not (project / "himl.toml").exists()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "{",
        '{"is_installed": 3}',
        '{"said": "x", "facts": {"tags": 1}}',
        '{"facts": {"tags": [], "markers": {}, "python": ["-x", 1]}}',
        None,
    ],
)
def test_a_hostile_python_is_an_error(answer: str | None, box: SshServer, himl: Himl, project: Path) -> None:
    found = f"himl-python\t{box.home}/python\t3.11.0\t"
    last = "exit 7" if answer is None else f"echo 'himl-setup: {answer}'"
    (box.home / "python").write_text(f"#!/bin/sh\necho '{found}'\n{last}\n")
    (box.home / "python").chmod(0o755)
    (project / "himl.toml").write_text("")
    made = himl("init", "--ssh", "box", "--python", "~/python")
    said = "ended with exit code 7 while it installed himl" if answer is None else "sent an invalid answer"
    assert (made.code, said in made.stderr) == (5, True), made.stderr
    assert (project / "himl.toml").read_text() == ""


def test_a_lost_connection_of_init_names_the_remedy(box: SshServer, himl: Himl, project: Path) -> None:
    found = f"himl-python\t{box.home}/python\t3.11.0\t"
    ends = f"case $* in *himl-python*) echo '{found}';; *) kill -9 $PPID;; esac"
    (box.home / "python").write_text(f"#!/bin/sh\n{ends}\n")
    (box.home / "python").chmod(0o755)
    (project / "himl.toml").write_text("")
    made = himl("init", "--ssh", "box", "--python", "~/python")
    assert made.code == 5
    assert made.stderr.splitlines() == [
        "error: The connection to 'box' was lost.",
        "hint: Run the command again. Installed packages stay.",
    ]


def test_a_python_that_cannot_run_himl_is_named(box: SshServer, himl: Himl, project: Path) -> None:
    (project / "himl.toml").write_text("")
    (box.home / "old").write_text(
        f"#!/bin/sh\nprintf 'himl-python\\t%s\\t3.8.1\\tis older than 3.10\\n' '{box.home}/old'; exit 1\n"
    )
    without_venv = "import sys; sys.modules['ensurepip'] = None; code = sys.argv[3]; del sys.argv[1:4]; exec(code, {})"
    (box.home / "bare").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{without_venv}" "$@"\n')
    for name, reason, remedy in (
        ("old", "(3.8.1) is older than 3.10", "Install one there, or name it"),
        ("bare", "has no venv", "sudo apt install python3-venv"),
    ):
        (box.home / name).chmod(0o755)
        made = himl("init", "--ssh", "box", "--python", f"~/{name}")
        assert (made.code, reason in made.stderr, remedy in made.stderr) == (2, True, True), made.stderr


def test_a_job_for_a_machine_that_is_not_there_is_not_noted(himl: Himl, project: Path, box: SshServer) -> None:
    """No try follows the first one, since nothing was sent."""
    write_files(project, {"show.py": SHOW})
    sent = himl("submit", "show.py", "--cluster", "ssh:nowhere.invalid")
    assert (sent.code, "ssh cannot connect" in sent.stderr, "may have started" in sent.stderr) == (5, True, False)
    assert [*(project / ".himl").rglob("pointers/*")] == []
