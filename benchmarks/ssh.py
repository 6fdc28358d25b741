"""Move files from and to a machine by SSH, next to scp and rsync, and run a job there, next to ssh. Needs sshd of OpenSSH.

The machine is this one, by the loopback interface. All candidates share a connection that is open before, as himl keeps one. `small` are 1,000 files of 16 KiB,
`large` is one of 256 MiB. `job`: from the command until the output of a script of one line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import HIML, clean_environment, new_parser, recording, spend, turns
from benchmarks.raw import Raw
from himl_cli.core.files import remove_tree
from himl_cli.workspaces.remote.connection import ssh_command
from tests.support.running import write_files
from tests.support.ssh import SshServer, running_ssh

SMALL, SMALL_BYTES, LARGE_BYTES = 1_000, 16 << 10, 256 << 20
PLACES = {"small": f"{SMALL:,} files of {SMALL_BYTES >> 10} KiB", "large": f"a file of {LARGE_BYTES >> 20} MiB"}
JOB = "a script of one line"
SAID = "trained"


class Server(SshServer):
    """With the program that scp needs there."""

    def options(self) -> str:
        return f"{super().options()}\nSubsystem sftp /usr/lib/openssh/sftp-server\n"


class Lab:
    """A machine with a run whose `outputs/small` and `outputs/large` have the files, and the folders with which the candidates begin."""

    def __init__(self, folder: Path, box: SshServer, sockets: str) -> None:
        self.folder, self.box, self.project = folder, box, folder / "project"
        write_files(self.project, {"train.py": f"print({SAID!r})\n"})
        box.set(self.project)
        path = f"{box.programs}{os.pathsep}{os.environ['PATH']}"
        self.env: Mapping[str, str] = clean_environment() | {"HOME": str(folder), "XDG_RUNTIME_DIR": sockets, "PATH": path}
        self.run = self._himl("submit", "train.py", "--cluster", "ssh:box", "--wait", "-q")
        self.there = box.home / ".himl" / "runs" / self.run / "code" / "outputs"
        write_files(self.there / "small", {f"{number // 100}/{number}.bin": os.urandom(SMALL_BYTES) for number in range(SMALL)})
        write_files(self.there / "large", {"large.bin": os.urandom(LARGE_BYTES)})

    def shared_ssh(self) -> Sequence[str]:
        """The words of an ssh that uses the connection which himl keeps."""
        os.environ["XDG_RUNTIME_DIR"] = self.env["XDG_RUNTIME_DIR"]
        program, *words = ssh_command("box")
        return [str(self.box.programs / program), *words[: words.index("--")]]

    def downloads(self, size: str, target: Path) -> dict[str, Sequence[str]]:
        options = [word for word in self.shared_ssh()[1:] if word.startswith("-o")]
        source = f"box:{self.there / size}"
        every = {
            "himl download": [HIML, "download", self.run, "--prefix", f"outputs/{size}", "-o", str(target), "-q"],
            "scp": ["scp", "-S", str(self.box.programs / "ssh"), "-q", "-r", *options, source, str(target)],
            "rsync": ["rsync", "-a", "-e", " ".join(self.shared_ssh()), source, str(target)],
        }
        return {name: words for name, words in every.items() if shutil.which(words[0])}

    def jobs(self) -> dict[str, Sequence[str]]:
        write_files(self.box.home, {"train.py": f"print({SAID!r})\n"})
        plain = [*self.shared_ssh(), "--", "box", f"{sys.executable} train.py"]
        return {"himl submit": [HIML, "submit", "train.py", "--cluster", "ssh:box", "--follow", "-q"], "ssh": plain}

    def _himl(self, *words: str) -> str:
        return subprocess.run([HIML, *words], cwd=self.project, env=self.env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def measure(lab: Lab, rounds: int, record: Raw) -> None:
    target = lab.folder / "target"
    for size, scenario in PLACES.items():
        for number, name in turns(lab.downloads(size, target), rounds):
            target.mkdir()
            found = spend(lab.downloads(size, target)[name], dict(lab.env), lab.project)
            files = list(target.rglob("*.bin"))
            assert sum(path.stat().st_size for path in files) == (SMALL * SMALL_BYTES if size == "small" else LARGE_BYTES), f"{name}: {len(files)} files"
            record.add(scenario, name, number, **found)
            remove_tree(target)
    for number, name in turns(lab.jobs(), rounds):
        record.add(JOB, name, number, **spend(lab.jobs()[name], dict(lab.env), lab.project))


if __name__ == "__main__":
    args = new_parser(__doc__, 5).parse_args()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="himl-ssh-")))
        (place / "server").mkdir()
        record = stack.enter_context(recording("ssh", args.raw))
        lab = Lab(place, stack.enter_context(running_ssh(place / "server", Server)), stack.enter_context(tempfile.TemporaryDirectory(prefix="t")))
        measure(lab, args.rounds, record)
