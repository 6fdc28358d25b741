"""Time commands that use a machine by SSH, and files from and to it next to scp and rsync. sshd of OpenSSH runs on the
loopback.

All candidates share an open connection, except for `cold` ones. Processor time is that of the command, of the shared
connection and of the other end. One part passes each packet 5 ms late, in both directions. As root on Linux, the
benchmark runs in its own network, which a part of it limits to 1 Gbit/s."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.aims import SSH_DISTANT, SSH_LARGE, SSH_LIST, SSH_NETWORK, SSH_SMALL, SSH_SUBMIT
from benchmarks.measure import HIML, clean_environment, new_parser, recording, spend, turns
from benchmarks.raw import Raw
from benchmarks.runs_list import record_runs
from benchmarks.submit_local import commit, make_project
from tests.support.ssh import SshServer, running_ssh

MEMORY = Path("/dev/shm")
RUN = "digits_1750000000_00000000"
SFTP = next(
    (
        path
        for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server")
        if Path(path).exists()
    ),
    "",
)
THERE = ("-w", "ssh:box")
OWN_NETWORK = "HIML_BENCHMARK_NETWORK"


class ServerWithSftp(SshServer):
    """A server that scp can use."""

    def options(self) -> str:
        return f"{super().options()}Subsystem sftp {SFTP}\n"


@dataclass(frozen=True)
class Lab:
    """A server, the folder of a project here, and the environment of its commands. `program` is an ssh that uses the
    shared connection.
    """

    box: SshServer
    project: Path
    environment: Mapping[str, str]
    program: Path

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *words, "box"], capture_output=True, text=True)

    def forget(self, name: str) -> None:
        """End the shared connection before a cold candidate."""
        if "cold" in name:
            self.ssh("-O", "exit")

    def others(self) -> float:
        """The processor time so far, in seconds, of the server with its processes, and of the shared connection."""
        assert self.box.process is not None
        server = psutil.Process(self.box.process.pid)
        while True:
            with suppress(psutil.NoSuchProcess):  # one that has just ended counts as time of its parent
                found = [server, *server.children(recursive=True)]
                found += [psutil.Process(int(pid)) for pid in re.findall(r"pid=(\d+)", self.ssh("-O", "check").stderr)]
                return sum(sum(each.cpu_times()[:4]) for each in found)

    def spend(self, command: Sequence[str]) -> dict[str, float]:
        before = self.others()
        spent = spend(command, self.environment, self.project)
        return {"wall": spent["wall"], "cpu": spent["cpu"] + max(0.0, self.others() - before)}

    def compare(
        self,
        record: Raw,
        scenario: str,
        candidates: Mapping[str, Sequence[str]],
        rounds: int,
        prepare: Callable[[str], None],
    ) -> None:
        """Run every candidate once unmeasured, then *rounds* times in turns, each after *prepare*."""
        for number, name in turns(candidates, rounds + 1):
            prepare(name)
            spent = self.spend(candidates[name])
            if number > 1:
                record.add(scenario, name, number - 1, **spent)


def make_files(folder: Path, large: int) -> None:
    """Make 2,000 files of 16 KiB in `small`, and one of *large* MiB in `large`."""
    dice = random.Random(1)
    for number in range(2000):
        path = folder / "small" / f"{number % 20:02d}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(16 << 10))
    (folder / "large").mkdir()
    with (folder / "large" / "model.bin").open("wb") as target:
        for _ in range(large):
            target.write(dice.randbytes(1 << 20))


@contextmanager
def distant(lab: Lab) -> Iterator[None]:
    """A context in which a new connection passes each packet 5 ms late, so that an answer takes 10 ms."""
    settings = lab.box.settings.read_text()
    delay = shlex.join([sys.executable, str(Path(__file__).with_name("delay.py"))])
    lab.ssh("-O", "exit")
    lab.box.settings.write_text(f"{settings}  ProxyCommand {delay} %h %p 5\n")
    try:
        yield
    finally:
        lab.ssh("-O", "exit")
        lab.box.settings.write_text(settings)


def enter_own_network() -> None:
    """Start again in a network of its own, if this user may."""
    if sys.platform == "linux" and os.geteuid() == 0 and OWN_NETWORK not in os.environ and shutil.which("tc"):
        start = 'ip link set lo up && exec "$0" -m benchmarks.ssh "$@"'
        words = ["unshare", "-n", "sh", "-c", start, sys.executable, *sys.argv[1:]]
        os.execvpe("unshare", words, {**os.environ, OWN_NETWORK: "1"})


@contextmanager
def limited_network() -> Iterator[None]:
    """A context in which the network moves at most 1 Gbit/s, in both directions together."""
    terms = ["root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", *terms], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def move(record: Raw, lab: Lab, folder: Path, rounds: int, large: int) -> None:
    """Download and upload small files and a large one."""
    there, here, up = lab.box.home / ".himl" / "runs" / RUN / "code" / "outputs", folder / "here", folder / "up"
    stored = lab.box.home / ".himl" / "datastores" / "local" / "set"
    make_files(there, large)
    make_files(up, large)
    scp, rsync = ["scp", "-q", "-r", "-S", str(lab.program)], ["rsync", "-a", "-s", "-e", str(lab.program)]

    def empty(_: str) -> None:
        for each in (here, stored):
            shutil.rmtree(each, ignore_errors=True)
            each.mkdir(parents=True)

    for part, scenario in (("small", SSH_SMALL), ("large", SSH_LARGE)):
        down = {
            "himl download": [
                HIML,
                "download",
                RUN,
                "--include",
                f"outputs/{part}/**",
                "--output_dir",
                str(here),
                *THERE,
                "-q",
            ],
            "scp -r": [*scp, f"box:{there}/{part}", str(here)],
            "rsync -a": [*rsync, f"box:{there}/{part}", str(here)],
            "MD5 alone": ["sh", "-c", f"find '{there / part}' -type f -exec md5sum {{}} + > /dev/null"],
        }
        above = {
            "himl datastore upload": [HIML, "datastore", "upload", str(up / part), "set", *THERE, "-q"],
            "scp -r": [*scp, str(up / part), f"box:{stored}"],
            "rsync -a": [*rsync, str(up / part), f"box:{stored}"],
        }
        lab.compare(record, f"{scenario}, down", down, rounds, empty)
        lab.compare(record, f"{scenario}, up", above, rounds, empty)
        if part == "small":
            del down["MD5 alone"]
            with distant(lab):
                lab.compare(record, SSH_DISTANT, down, 1, empty)  # scp waits for an answer several times for each file
    if OWN_NETWORK in os.environ:
        del down["MD5 alone"]
        with limited_network():
            lab.compare(record, SSH_NETWORK, down, rounds, empty)


def run(record: Raw, folder: Path, sockets: str, only: Sequence[str], rounds: int, large: int) -> None:
    (folder / "server").mkdir()
    project, program = folder / "project", folder / "ssh"
    make_project(project, 100)
    commit(project)
    with running_ssh(folder / "server", ServerWithSftp) as box:
        shared = f"-oControlPath={sockets}/himl/%C -oControlMaster=auto -oControlPersist=600"
        program.write_text(f'#!/bin/sh\nexec {box.programs}/ssh {shared} "$@"\n')
        program.chmod(0o755)
        box.set(project)
        environment = {
            **clean_environment(),
            "XDG_RUNTIME_DIR": sockets,
            "PATH": f"{box.programs}:{os.environ['PATH']}",
        }
        lab = Lab(box, project, environment, program)
        rsync = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
        record.name_peers(OpenSSH=lab.ssh("-V").stderr.split()[0].rstrip(",").removeprefix("OpenSSH_"), rsync=rsync)
        record_runs(box.home, 100, "digits")
        lists = {
            "himl runs list -w ssh:HOST": [HIML, "runs", "list", *THERE],
            "ssh HOST true": [str(program), "box", "true"],
        }
        submits = {"himl submit --cluster ssh:HOST": [HIML, "submit", "train.py", "--cluster", "ssh:box", "-q"]}
        for scenario, candidates in ((SSH_LIST, lists), (SSH_SUBMIT, submits)):
            if scenario in only:
                lab.compare(
                    record,
                    scenario,
                    {**candidates, **{f"{name}, cold": words for name, words in candidates.items()}},
                    2 * rounds,
                    lab.forget,
                )
        if "files" in only:
            move(record, lab, folder, rounds, large)


if __name__ == "__main__":
    parser = new_parser(__doc__, 3)
    parser.add_argument("--large", type=int, default=1024, help="size of the large file in MiB")
    parser.add_argument(
        "--only", nargs="+", choices=(SSH_LIST, SSH_SUBMIT, "files"), default=(SSH_LIST, SSH_SUBMIT, "files")
    )
    args = parser.parse_args()
    enter_own_network()
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="himl-", dir=memory) as name,
        tempfile.TemporaryDirectory(prefix="t") as sockets,
        recording("ssh", args.raw) as record,
    ):
        run(record, Path(name), sockets, args.only, args.rounds, args.large)
