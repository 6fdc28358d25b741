"""Workspaces on other machines, through a real sshd."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.azure import write_program
from tests.support.folders import contents
from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import SshServer
from tests.support.ssh_cuts import CutSsh, drawn_cuts

pytestmark = pytest.mark.large(STARTS_SSH)

THERE = ("-w", "ssh:box")
FILES: dict[str, str | bytes] = {
    "outputs/model.bin": b"m" * 10,
    "outputs/a b/größe.txt": "ü",
    "user_logs/std_log.txt": "hello",
}


def recorded(box: SshServer) -> RecordedRuns:
    runs = RecordedRuns(box.home)
    runs.add("train_1_aa", tags={"team": "blue"}, files=FILES)
    runs.add("train_2_bb")
    runs.log("train_1_aa", [("loss", 1.0, 1, 1), ("loss", 0.5, 2, 2)], {"lr": "0.1"})
    return runs


def test_commands_use_the_runs_of_another_machine(box: SshServer, himl: Himl, project: Path) -> None:
    recorded(box)
    listed = himl("runs", "list", "--json", *THERE).json()
    assert [(run["id"], run["workspace"]) for run in listed] == [("train_2_bb", "ssh:box"), ("train_1_aa", "ssh:box")]
    shown = himl("runs", "show", "train_1_aa", "--json", *THERE).json()
    assert (shown["parameters"], shown["status"]) == ({"lr": "0.1"}, "Completed")
    assert himl("runs", "logs", "train_1_aa", *THERE).stdout == "hello"
    assert himl("runs", "logs", "--follow", "train_1_aa", *THERE).stdout == "hello"
    assert himl("download", "train_1_aa", *THERE).code == 0
    assert contents(project / "outputs" / "train_1_aa") == {
        name: body.encode() if isinstance(body, str) else body for name, body in FILES.items()
    }
    assert "loss" in himl("runs", "aggregate", "train_1_aa", "train_2_bb", *THERE).stdout
    assert himl("runs", "tag", "train_1_aa", "team=red", *THERE).code == 0
    assert himl("runs", "list", "--tags", "team=red", "-q", *THERE).stdout == "train_1_aa\n"
    assert himl("runs", "delete", "train_1_aa", "--yes", *THERE).code == 0
    assert himl("runs", "show", "train_1_aa", *THERE).code == 3
    write_files(project, {"data/a.txt": b"a", "data/b.txt": b"b" * 3_000_000})
    assert himl("datastore", "upload", "data", "set", *THERE).code == 0
    assert contents(box.home / ".himl" / "datastores" / "local" / "set") == contents(project / "data")
    # nothing is written to a folder that another one names
    assert himl("runs", "list", "-w", "ssh:box:elsewhere").code == 3
    assert not (box.home / "elsewhere").exists()


@pytest.mark.parametrize("shell", ["/bin/bash", "fish", "a shell that greets", "no shared connection"])
def test_any_login_shell_will_do(
    shell: str,
    box: SshServer,
    himl: Himl,
    monkeypatch: pytest.MonkeyPatch,
    require_program: Callable[[str], str],
    tmp_path: Path,
) -> None:
    recorded(box)
    box.shell = "/bin/sh"
    if shell == "a shell that greets":
        greeting = tmp_path / "greeting"
        greeting.write_text('#!/bin/sh\necho "Welcome to $0"; printf "\\0himl rem"; exec /bin/sh "$@"\n')
        greeting.chmod(0o755)
        box.shell = str(greeting)
    elif shell == "no shared connection":
        long = tmp_path / ("long" * 30)
        long.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    else:
        box.shell = require_program(shell)
    box.restart()
    try:
        assert himl("runs", "list", "-q", *THERE).stdout == "train_2_bb\ntrain_1_aa\n"
    finally:
        box.shell = "/bin/sh"
        box.restart()


# An ssh that ends after the other end has greeted
KILLED = r"""
import os, sys
os.close(0)
print("ssh was killed", file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"\0himl remote\nR\0\0\0\1\x80")
"""


def test_errors_name_the_cause_and_the_remedy(
    box: SshServer, himl: Himl, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(box)
    settings = box.settings.read_text()

    def says(code: int, *parts: str, spec: str = "ssh:box") -> None:
        failed = himl("runs", "list", "-w", spec)
        assert (failed.code, [part for part in parts if part not in failed.stderr]) == (code, []), failed.stderr
        assert len(failed.stderr.splitlines()) <= 2

    says(2, "names no host", "ssh:HOST:FOLDER", spec="ssh:-oProxyCommand=false")
    says(2, "names no host", spec="ssh:")
    says(3, "no folder", "elsewhere/.himl", "himl submit SCRIPT -w ssh:box:elsewhere", spec="ssh:box:elsewhere")
    says(5, "ssh cannot connect to 'nowhere.invalid'", "ssh nowhere.invalid true", spec="ssh:nowhere.invalid")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(write_program(tmp_path / "killed", "ssh", KILLED)), prepend=os.pathsep)
        says(5, "The connection to 'box' was lost: ssh was killed")
    box.set(project, himl_python="/no/python")
    says(2, "does not start at 'box' with '/no/python'", "[remote.box] himl_python =")
    (project / "himl.toml").write_text('[remote]\nhiml_python = "python3"\n')
    says(2, "'himl_python' must be a table", "Write [remote.HOST]")
    no_host = himl("submit", "train.py", "--cluster", "ssh")
    assert (no_host.code, "Write ssh:HOST, or" in no_host.stderr) == (2, True), no_host.stderr
    box.set(project, pyhton="python3")
    says(2, "unknown key 'pyhton'", "Did you mean 'python'")
    box.set(project)
    box.forget()
    try:
        box.settings.write_text(settings.replace("user_key", "host_key"))  # a key that the server does not know
        says(4, "Permission denied", "ssh box true", "ssh-add KEY")
        locked = tmp_path / "locked"
        shutil.copy(box.folder / "user_key", locked)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", locked], check=True)
        box.settings.write_text(
            settings.replace(str(box.folder / "user_key"), str(locked)) + "  BatchMode yes\n"
        )  # as without a terminal
        says(4, "Permission denied", "ssh box true", "ssh-add KEY")
        other = box.folder / "other_hosts"
        other.write_text(
            (box.folder / "known_hosts").read_text().replace("AAAAC3", "AAAAC3", 1)[:-30] + "A" * 20 + "\n"
        )
        box.settings.write_text(settings.replace("known_hosts", "other_hosts"))
        says(4, "ost key verification failed")
    finally:
        box.settings.write_text(settings)


@contextmanager
def killed_ssh(chance: random.Random, most: int = 3) -> Iterator[None]:
    """Kill the ssh processes of this one at random moments, *most* times at most."""
    done = threading.Event()

    def kill() -> None:
        for _ in range(most):
            while not done.wait(chance.uniform(0.05, 0.4)):
                found = [child for child in psutil.Process().children() if child.name() == "ssh"]
                for child in found:
                    with suppress(psutil.Error):
                        child.kill()
                if found:
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()


@pytest.mark.parametrize("seed", range(3))
def test_a_download_goes_on_after_lost_connections(seed: int, box: SshServer, himl: Himl, project: Path) -> None:
    """ssh is killed at random moments. No file is incomplete."""
    chance = random.Random(seed)
    files: dict[str, str | bytes] = {
        f"outputs/{number}.bin": chance.randbytes(4_000_000 * (number < 5) + 10) for number in range(60)
    }
    RecordedRuns(box.home).add("train_1_aa", files=files)
    with killed_ssh(chance, most=20):
        for _ in range(50):  # a failed handshake is an error, after which the command is repeated
            result = himl("download", "train_1_aa", *THERE)
            assert result.code in (0, 1, 5), result.stderr
            if result.code == 0:
                break
    assert contents(project / "outputs" / "train_1_aa") == files


HOSTILE = '''#!{python}
"""Answers calls with frames of random kinds and contents, some of them well formed."""
import os, random, struct, sys
import msgspec
chance = random.Random({seed})
out, source = sys.stdout.buffer, sys.stdin.buffer
def send(kind, body):
    out.write(kind + struct.pack(">I", len(body)) + body); out.flush()
def receive():
    kind, length = struct.unpack(">cI", source.read(5)); return source.read(length)
evil = ["../evil", "/tmp/himl_evil", "a/../../evil", "..", "", "outputs/ok.bin", "x\\0y", "e\\x1b[31mvil", "C:\\\\evil"]
def value(deep=0):
    one = chance.randrange(9)
    if one < 3: return chance.choice(evil)
    if one < 4: return chance.randrange(-5, 2**63)
    if one < 5: return None
    if one < 6 or deep > 4: return bytes(chance.randrange(30))
    if one < 7: return [value(deep + 1) for _ in range(chance.randrange(4))]
    return {{chance.choice(["id", "name", "size", "kind", "message", "status", *evil]):
        value(deep + 1) for _ in range(4)}}
def run(): return {{"id": chance.choice(["train_1_aa", *evil]), "experiment": chance.choice(evil),
    "status": "Completed"}}
def blob(): return {{"name": chance.choice(evil), "size": chance.choice([0, 3, 2**60]), "etag": "e"}}
pack = msgspec.msgpack.encode
def pieces(one):
    head = pack([one])
    return struct.pack(">I", len(head)) + head + b"abc"
out.write(b"\\0himl remote\\n")
send(b"R", pack({{}}))
receive()
while True:
    call = msgspec.msgpack.decode(receive())
    if {seed} == 0:  # follows the protocol, with names that lead elsewhere
        far = {{"id": "../../evil", "experiment": "train", "status": "Completed"}}
        if call["method"] == "fetch":
            for number in range(len(call["arguments"]["requests"])):
                send(b"X", pieces([number, 0, 3, True, None]))
        pages = {{"runs": [far], "list": [{{"name": "../evil", "size": 3}}, {{"name": "ok", "size": 3}}]}}
        if call["method"] in pages: send(b"P", pack(pages[call["method"]]))
        send(b"R", pack({{"run": far, "run_files": {{"label": "l", "origin": "o"}},
            "datastore": {{"label": "l", "origin": "o"}}}}.get(call["method"])))
        continue
    for _ in range(chance.randrange(6)):
        body = chance.choice([
            lambda: pack(value()), lambda: pack([blob()] * 3), lambda: pack([run()]), lambda: os.urandom(20),
            lambda: pieces([0, 0, 3, chance.random() < 0.5, None]), lambda: pieces(value()),
            lambda: pack("warn\\x1b[2J"),
        ])()
        send(bytes([chance.choice(b"PPPDXXFWN?")]), body)
    if chance.random() < 0.1:
        out.write(b"R" + struct.pack(">I", 2**31)); out.flush()
    method = call["method"]
    if chance.random() < 0.2:
        send(b"E", pack({{"kind": chance.choice(["RunNotFound", "os", "Exception", "HimlError"]),
            "message": chance.choice(evil)}}))
    elif method in ("run_files", "datastore"):
        send(b"R", pack({{"label": chance.choice(evil), "origin": chance.choice(evil)}}))
    elif method == "run":
        send(b"R", pack(run()))
    else:
        if method == "runs": send(b"P", pack([run(), run()]))
        if method == "list": send(b"P", pack([blob(), blob(), {{"name": "outputs/ok.bin", "size": 3}}]))
        send(b"R", pack(chance.choice([None, {{}}, [], value()])))
'''


@pytest.mark.parametrize("seed", range(8))
def test_a_hostile_end_writes_nothing_elsewhere(
    seed: int, box: SshServer, himl: Himl, project: Path, tmp_path: Path
) -> None:
    """Its frames end in an error, or in files below the folder of the download."""
    program = tmp_path / "hostile"
    program.write_text(HOSTILE.format(python=sys.executable, seed=seed))
    program.chmod(0o755)
    box.set(project, himl_python=str(program))
    before = {name for name in contents(tmp_path) if not name.startswith("home/")}
    for words in (
        ["runs", "list"],
        ["runs", "show", "train_1_aa"],
        ["runs", "logs", "train_1_aa"],
        ["download", "train_1_aa", "--output_dir", "here"],
        ["download", "--experiment", "train", "--num_runs", "all", "--output_dir", "here"],
        ["datastore", "download", "set", "here"],
    ):
        for _ in range(4):
            ended = himl(*words, *THERE)
            assert ended.code in range(7), ended.stderr
            assert "\x1b" not in ended.stdout + ended.stderr
            assert "Traceback" not in ended.stderr
    new = {name for name in contents(tmp_path) if not name.startswith("home/")} - before
    assert all(name.startswith("project/here/") for name in new), new
    assert not Path("/tmp/himl_evil").exists()


SCRIPT = """
import os, sys, time
from pathlib import Path
import himl_cli
print(os.environ["TOKEN"][::-1], Path("lib/part.py").read_text(), *sys.argv[1:], flush=True)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/result.txt").write_text("done")
if "--wait" in sys.argv:
    while not Path("go").exists():
        time.sleep(0.05)
"""


def test_a_job_runs_on_the_other_machine(box: SshServer, himl: Himl, project: Path, tmp_path: Path) -> None:
    """Its files are sent once, its variables are in no file, and the printed commands work there."""
    write_files(project, {"train.py": SCRIPT, "lib/part.py": "part", "run.sh": "echo $TOKEN | wc -c"})
    (project / "run.sh").chmod(0o755)
    job = ("submit", "train.py", "--cluster", "ssh:box", "--env_var", "TOKEN=terces-yrev")
    ended = himl(*job, "--follow", "--", "a b")
    assert (ended.code, "very-secret part a b" in ended.stdout) == (0, True), ended.stderr
    (hint,) = re.findall(r"himl download [^\n]*", ended.stderr)
    assert himl(*hint.split()[1:]).code == 0
    (result,) = (project / "outputs").rglob("result.txt")
    assert result.read_text() == "done"
    stored = {
        name: body
        for name, body in contents(box.home / ".himl" / "store").items()
        if "/" in name and "latest" not in name
    }
    assert len(stored) == len([*project.rglob("*.py"), "run.sh", "himl.toml"])
    assert himl(*job, "--follow").code == 0
    assert [name for name, body in contents(box.home).items() if b"terces-yrev" in body] == []
    left = himl(*job, "--json", "--", "--wait").json()
    assert himl("runs", "list", "-q", *THERE).stdout.splitlines()[0] == left["id"]
    (box.home / ".himl" / "runs" / left["id"] / "code" / "go").touch()
    assert himl("runs", "logs", "--follow", left["id"], *THERE).code == 0
    failed = himl("submit", "--command", "exit 3", "--cluster", "ssh:box", "--wait")
    assert (failed.code, "himl runs logs -w ssh:box exit_" in failed.stderr) == (1, True), failed.stderr
    for words, part in {
        ("train.py", "--cluster", "ssh:box", "-w", "local"): "cannot be combined",
        ("train.py", "--cluster", "ssh:box", "--in_place"): "--in_place cannot be used on another machine",
        ("train.py", "--cluster", "ssh:box", "--python", "python3"): "python in the table [remote.HOST]",
        ("--resume", left["id"], "--new_code", "-w", "ssh:box"): "--new_code cannot be used on another machine",
        ("train.py", "--cluster", "ssh:box", "--input", "a=b,local=no-folder"): "does not exist",
        ("train.py", "--cluster", "ssh:box", "--record_in", "azure"): "--record_in azure cannot be used",
    }.items():
        refused = himl("submit", *words)
        assert (refused.code, part in refused.stderr) == (3 if "exist" in part else 2, True), refused.stderr
    box.set(project, python="no-python")
    unknown = himl(*job)
    assert (unknown.code, "There is no Python 'no-python' there" in unknown.stderr) == (2, True), unknown.stderr


READS_INPUTS = """
import os
from pathlib import Path
data, one = Path(os.environ["AZURE_ML_INPUT_data"]), Path(os.environ["AZURE_ML_INPUT_one"])
print(*sorted(path.read_text() for path in data.rglob("*.txt")), one.read_text(), flush=True)
"""


def test_ctrl_c_while_a_job_starts_there_names_it(box: SshServer, himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print(1)\n"})
    ended = himl.interrupted("submit", 1, "submit", "train.py", "--cluster", "ssh:box", "-q")
    (run_id,) = himl("runs", "list", "-q", *THERE).stdout.split()
    said = f"error: Interrupted during the start of run '{run_id}', which may exist.\n"
    assert (ended.code, ended.stdout, said in ended.stderr) == (130, "", True), ended.stderr


def test_local_inputs_are_sent_once(box: SshServer, himl: Himl, project: Path, tmp_path: Path) -> None:
    """A changed one goes to another folder, so that jobs that read the earlier one go on."""
    write_files(tmp_path / "my data", {"a.txt": "a", "b/c.txt": "c"})
    write_files(project, {"train.py": READS_INPUTS, "one.txt": "one"})
    job = (
        "submit",
        "train.py",
        "--cluster",
        "ssh:box",
        "--follow",
        "--input",
        f"data=d,local={tmp_path / 'my data'}",
        "--input",
        "one=o,local=one.txt",
    )
    first = himl(*job)
    assert ("a c one\n" in first.stdout, first.stderr.count("sent ")) == (True, 2), first.stderr
    again = himl(*job)
    assert ("a c one\n" in again.stdout, again.stderr.count("all is there already")) == (True, 2), again.stderr
    write_files(tmp_path / "my data", {"a.txt": "A"})
    assert "A c one\n" in himl(*job).stdout
    stored = contents(box.home / ".himl" / "datastores" / "local")
    assert sorted(stored.values()) == [b"A", b"a", b"c", b"c", b"one"]


FAILS_ONCE = """
import os
from pathlib import Path
marker = Path("outputs/marker")
if not marker.exists():
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    raise SystemExit(3)
print("resumed with", os.environ["TOKEN"], flush=True)
"""


def test_a_run_is_resumed_on_the_other_machine(box: SshServer, himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": FAILS_ONCE})
    failed = himl("submit", "train.py", "--cluster", "ssh:box", "--wait", "--env_var", "TOKEN=one")
    assert failed.code == 1, failed.stderr
    resumed = himl("submit", "--resume", "latest", "--env_var", "TOKEN=two", "--follow")
    assert (resumed.code, "resumed with two\n" in resumed.stdout) == (0, True), resumed.stderr
    assert len(himl("runs", "list", "--json").json()) == 1
    assert himl("submit", "--resume", "latest").code == 2  # it is complete
    repeated = himl("submit", "--from", "latest", "--cluster", "ssh:box", "--env_var", "TOKEN=three", "--wait")
    assert repeated.code == 1, repeated.stderr  # in a folder of its own


@pytest.fixture
def cut(box: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CutSsh:
    made = CutSsh(box, tmp_path / "cut")
    monkeypatch.setenv("PATH", str(made.programs), prepend=os.pathsep)
    return made


@pytest.mark.parametrize("seed", range(6))
def test_a_job_is_recorded_once_or_not_at_all(
    seed: int, box: SshServer, cut: CutSsh, himl: Himl, project: Path
) -> None:
    """ssh dies within any message. A submission that succeeds has one run, and one that fails none, or one that it
    names.
    """
    chance = random.Random(seed)
    write_files(project, {"train.py": "print('ran')", "large.bin": chance.randbytes(3_000_000)})
    told = ""
    for number in range(2):
        cut.plan(drawn_cuts(chance, 1 + number))
        submitted = himl("submit", "train.py", "--cluster", "ssh:box", "-q")
        cut.forget()
        listed = himl("runs", "list", "-q", *THERE)
        assert submitted.code in (0, 5), submitted.stderr
        assert listed.code in (0, 3), listed.stderr
        known = listed.stdout.split()
        assert submitted.code != 0 or submitted.stdout.strip() in known
        told += submitted.stdout + submitted.stderr
        assert [run for run in known if run not in told] == []
        assert len(known) == len({*known})
        assert himl("runs", "list", "-q").stdout.split() == known  # with the pointers
    assert himl("submit", "train.py", "--cluster", "ssh:box", "-q").code == 0


@pytest.mark.parametrize("way", [">", "|"], ids=["killed", "half-closed"])
def test_a_half_sent_snapshot_is_finished(box: SshServer, cut: CutSsh, himl: Himl, project: Path, way: str) -> None:
    """Each attempt sends only the files that no earlier one sent."""
    size, count = 300_000, 10
    write_files(
        project,
        {
            "train.py": "print('ran')",
            **{f"{number}.bin": random.Random(number).randbytes(size) for number in range(count)},
        },
    )
    cut.plan([(way, 4 * size), (way, 4 * size)])
    done = himl("submit", "train.py", "--cluster", "ssh:box", "--follow")
    assert (done.code, done.stdout) == (0, "ran\n"), done.stderr
    assert cut.cuts == 2
    assert count * size < sum(cut.sent()) < (count + 3) * size


def test_an_upload_that_is_cut_says_so(box: SshServer, cut: CutSsh, himl: Himl, project: Path) -> None:
    """The next command sends what is missing."""
    assert himl("submit", "--command", "true", "--cluster", "ssh:box", "--wait", "-q").code == 0
    files = {f"data/{number}.bin": random.Random(number).randbytes(300_000) for number in range(10)}
    write_files(project, files)
    cut.plan([("|", 2_900_000)] * 3)  # the rest is in the pipe already
    ended = himl("datastore", "upload", "data", "data", *THERE)
    cut.forget()
    assert ended.code == 5
    assert "The connection to 'box' was lost" in ended.stderr
    assert himl("datastore", "upload", "data", "data", *THERE).code == 0
    assert contents(box.home / ".himl" / "datastores" / "local" / "data") == {
        name.removeprefix("data/"): data for name, data in files.items()
    }


def test_following_goes_on_after_lost_connections(box: SshServer, cut: CutSsh, himl: Himl, project: Path) -> None:
    """Each line of the log is printed once."""
    lines = [f"line {number} {'x' * 200}" for number in range(300)]
    write_files(
        project,
        {
            "train.py": "import time\nfor number in range(300):\n    print('line', number, 'x' * 200, flush=True)\n"
            "    time.sleep(0.01)\n"
        },
    )
    run = himl("submit", "train.py", "--cluster", "ssh:box", "-q").stdout.strip()
    cut.plan([("<", 2_000), ("<", 20_000), (">", 300)])
    followed = himl("runs", "logs", "--follow", run)
    assert (followed.code, followed.stdout.splitlines()) == (0, lines), followed.stderr
    assert cut.cuts > 1


MAKES = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--output", type=pathlib.Path)
parser.add_argument("--input_data", type=pathlib.Path)
args = parser.parse_args()
text = (args.input_data / "made.txt").read_text() if args.input_data else "made"
if args.output:
    (args.output / "made.txt").write_text(text)
print("has", text, flush=True)
"""


def test_a_pipeline_and_a_job_file_run_on_the_other_machine(box: SshServer, himl: Himl, project: Path) -> None:
    """Steps that share a folder send its files once."""
    shared = {"type": "PythonScriptStep", "script": "makes.py", "source_directory": ".", "arguments": []}
    steps = {
        "step1": {**shared, "name": "first", "output": "made"},
        "step2": {**shared, "name": "second", "input_dataset_name": "made"},
    }
    write_files(
        project, {"makes.py": MAKES, "pipe.json": json.dumps(steps), "job.yml": "command: python makes.py\ncode: .\n"}
    )
    run = himl("submit", "pipe.json", "--cluster", "ssh:box", "--wait", "--json").json()
    assert (run["status"], run["workspace"]) == ("Completed", "ssh:box")
    assert himl("runs", "logs", f"{run['id']}_step2").stdout == "has made\n"
    assert himl("runs", "list", "-q").stdout.split() == [run["id"]]
    followed = himl("submit", "job.yml", "--cluster", "ssh:box", "--follow")
    assert (followed.code, "has made\n" in followed.stdout) == (0, True), followed.stderr
    # Both can be repeated with their own code, also one step with its data, which stays there
    (project / "makes.py").write_text("raise SystemExit(3)")
    step = f"{run['id']}_step2"
    for words, is_there in (([run["id"]], True), ([step], True), ([run["id"], "--cluster", "local"], False)):
        again = himl("submit", "--from", *words, "--wait", "--json")
        assert (again.code, "sent" in again.stderr) == (0, False), again.stderr
        found = again.json()
        assert (found["status"], found["workspace"] == "ssh:box") == ("Completed", is_there)
    assert himl("runs", "diff", run["id"], found["id"], "--json").json()["code"] == []


def test_a_run_is_repeated_where_it_ran_or_where_the_user_says(box: SshServer, himl: Himl, project: Path) -> None:
    """`--cluster ssh:box` names the place of the new run only."""
    write_files(project, {"train.py": "import sys\nprint(*sys.argv[1:])"})
    here = himl.ok("submit", "train.py", "-q", "--", "--lr", "1").stdout.split()[-1]
    for reference, words, shown in (
        (here, ("--cluster", "ssh:box", "--", "--lr", "2"), "--lr 2"),
        ("latest", ("--", "--lr", "3"), "--lr 3"),
        ("latest", ("--cluster", "ssh:box"), "--lr 3"),
    ):
        sent = himl("submit", "--from", reference, "--follow", *words)
        assert (sent.code, f"{shown}\n" in sent.stdout) == (0, True), sent.stderr
        assert himl("runs", "show", "--json").json()["workspace"] == "ssh:box"
    (project / ".himl" / "pointers").rename(project / "gone")
    run = himl("runs", "list", "-q", *THERE).stdout.split()[0]
    assert himl("submit", "--from", run, "--cluster", "ssh:box", "--wait").code == 0
    refused = himl("submit", "--from", "latest", "--python", sys.executable)
    assert (refused.code, "--python names a Python of this machine" in refused.stderr) == (2, True)
    back = himl("submit", "--from", "latest", "--cluster", "local")
    assert (back.code, back.stdout) == (0, "--lr 3\n"), back.stderr


def test_tensorboard_gets_new_bytes_only(box: SshServer, cut: CutSsh, himl: Himl, project: Path) -> None:
    name = "outputs/logs/events.out.tfevents.1.host.1.0"
    files: dict[str, str | bytes] = {name: random.Random(1).randbytes(2_000_000)}
    RecordedRuns(box.home).add("train_1_aa", files=files)
    folder = Path(himl.ok("tb", "train_1_aa", "--sync_only", "-q", *THERE).stdout.strip())
    first = sum(cut.received())
    (stored,) = (box.home / ".himl" / "runs" / "train_1_aa").rglob("events.*")
    with stored.open("ab") as events:
        events.write(b"x" * 5000)
    himl.ok("tb", "train_1_aa", "--sync_only", "-q", *THERE)
    assert (first > 2_000_000, sum(cut.received()) - first < 200_000) == (True, True)
    (copy,) = folder.rglob("events.*")
    assert copy.read_bytes() == stored.read_bytes()


WAITS = """
import os, time
from pathlib import Path
assert os.environ["TOKEN"].startswith("marked")
import himl_cli
himl_cli.RUN_CONTEXT.log("loss", 1.0)
print("began", flush=True)
while not Path("go").exists():
    time.sleep(0.05)
"""
MARKS = ("marked-secret-of-the-job", "marked-secret-of-mlflow", "marked-secret-of-a-proxy")


def test_secrets_are_in_no_command_line_file_or_log(
    box: SshServer, himl: Himl, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a job's variables, of MLflow's token here and of the token of the job's server, at both ends and at any
    moment.
    """
    write_files(project, {"train.py": WAITS})
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARKS[1])
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{MARKS[2]}@127.0.0.1:1")
    job = ("submit", "train.py", "--cluster", "ssh:box", "--env_var", f"TOKEN={MARKS[0]}")
    seen, done = set[str](), threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))
            done.wait(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        submitted = himl(*job, "-v", "--json")
        run = submitted.json()["id"]
        until(lambda: "began" in himl("runs", "logs", run).stdout, lambda: himl("runs", "logs", run).stderr)
        tokens = {
            process.environ().get("MLFLOW_TRACKING_TOKEN", "")
            for process in psutil.process_iter()
            if is_job_of(process, box)
        }
        (box.home / ".himl" / "runs" / run / "code" / "go").touch()
        assert himl("runs", "logs", "--follow", run).code == 0
        assert himl("runs", "show", run, "--json").json()["status"] == "Completed"
    finally:
        done.set()
        watcher.join()
    assert len(tokens) == 1, tokens
    assert any("himl_cli.remote" in words for words in seen)
    marks = [*MARKS, *tokens]
    assert [words for words in seen for mark in marks if mark in words] == []
    for folder in (box.home, box.folder, project, tmp_path):
        assert [name for name, body in contents(folder).items() for mark in marks if mark.encode() in body] == []
    assert [mark for mark in marks if mark in submitted.stdout + submitted.stderr] == []


def is_job_of(process: psutil.Process, box: SshServer) -> bool:
    with suppress(psutil.Error):
        return process.cmdline()[-1:] == ["train.py"] and bool(process.cwd().startswith(str(box.home)))
    return False


# himl, stopped once it has read so many bytes
STOPS = """#!{python}
import io, os, runpy, signal
class Stops(io.FileIO):
    left = {left}
    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.left -= count
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return count
io.FileIO = Stops
runpy.run_module("himl_cli.remote", run_name="__main__")
"""
# himl, whose pauses take a hundredth of their time, and which notes each of them
HASTY = """#!{python}
import os, runpy, threading
wait = threading.Event.wait
def hasty(self, seconds=None):
    found = wait(self, None if seconds is None else seconds / 100)
    with open("pauses", "a") as pauses:
        pauses.write(".")
    return found
threading.Event.wait = hasty
runpy.run_module("himl_cli.remote", run_name="__main__")
"""


@contextmanager
def clock_after(count: Callable[[], int], seconds: float) -> Iterator[None]:
    """Put the clock of this process forward by *seconds* for each thing that *count* counts, half a second after it."""
    now, done = time.monotonic, threading.Event()
    passed = 0.0

    def watch() -> None:
        nonlocal passed
        seen = count()
        while not done.wait(0.05):
            if (found := count()) > seen:
                done.wait(0.5)
                seen, passed = found, passed + seconds

    watcher = threading.Thread(target=watch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now() + passed)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def program_there(box: SshServer, project: Path, text: str, **values: object) -> None:
    """Have the other end run the program *text* as himl."""
    program = box.home / "program"
    program.write_text(text.format(python=sys.executable, **values))
    program.chmod(0o755)
    box.set(project, himl_python=str(program))


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (60, ("runs", "show", "train_1_aa")),
        (60, ("runs", "tag", "train_1_aa", "a=b")),
        (2_000_000, ("datastore", "upload", "large", "set")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value),
)
def test_a_call_ends_if_himl_there_hangs(
    left: int, words: Sequence[str], box: SshServer, himl: Himl, project: Path
) -> None:
    """sshd goes on to answer for the process, which is stopped."""
    recorded(box)
    write_files(project, {"large/file.bin": bytes(20_000_000)})
    program_there(box, project, STOPS, left=left)

    def stopped() -> int:
        return len(
            [each for each in processes_below(box.home) if psutil.Process(each).status() == psutil.STATUS_STOPPED]
        )

    try:
        with clock_after(stopped, 60):
            ended = himl(*words, *THERE)
    finally:
        for process in processes_below(box.home):
            os.kill(process, signal.SIGKILL)
    assert (ended.code, "himl there has not answered for 45 seconds" in ended.stderr) == (5, True), ended.stderr
    assert len(ended.stderr.splitlines()) <= 3


def steps(pauses: Path) -> int:
    """How often five pauses have passed."""
    return pauses.stat().st_size // 5 if pauses.exists() else 0


def test_a_long_call_goes_on(box: SshServer, himl: Himl, project: Path) -> None:
    """It waits for another process at the other end, for longer than a silent himl may."""
    recorded(box)
    program_there(box, project, HASTY)
    pauses = box.home / "pauses"
    with closing(
        sqlite3.connect(box.home / ".himl" / "workspace.db", isolation_level=None, check_same_thread=False)
    ) as database:
        database.execute("BEGIN EXCLUSIVE")

        def release() -> None:
            while steps(pauses) < 10:  # more than two calls would wait for
                time.sleep(0.05)
            time.sleep(1)
            database.rollback()

        other = threading.Thread(target=release, daemon=True)
        other.start()
        with clock_after(lambda: steps(pauses), 20):
            assert himl("runs", "tag", "train_1_aa", "team=red", *THERE).code == 0
        other.join()
