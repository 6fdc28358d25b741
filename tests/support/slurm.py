"""A real Slurm on this machine: Debian's packages in .cache, and in a test a controller with two nodes, as the current
user, without munge.

`python -m tests.support.slurm` fetches the packages.
"""

from __future__ import annotations

import getpass
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock

from himl_cli.core.ports import free_port
from tests.support.running import until

CACHE = Path(__file__).parents[2] / ".cache" / "slurm"
PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "libmunge2",
    "libhwloc15",
    "libnuma1",
    "munge",
)
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PROGRAMS = ("sacct", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
CONFIGURATION = """
ClusterName=himl
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
LaunchParameters=disable_send_gids
KillWait=2
MessageTimeout=3
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
PluginDir={root}/{libraries}/slurm-wlm
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=4000
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=n1,n2 MaxTime=5 State=UP
"""


@dataclass
class Programs:
    """`programs` is the folder for PATH with programs that use a cluster. `calls` is a file with a line per call."""

    folder: Path
    root: Path

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    @property
    def calls(self) -> Path:
        return self.folder / "calls"

    def __call__(self, program: str, *arguments: str, may_fail: bool = False) -> str:
        done = subprocess.run([str(self.programs / program), *arguments], capture_output=True, text=True, check=False)
        assert may_fail or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def add_program(self, name: str, settings: Path) -> None:
        libraries, place = self.root / LIBRARIES, "sbin" if name.startswith("slurm") else "bin"
        lines = [
            "#!/bin/sh",
            f'echo "{name}" "$@" >>{self.calls}',
            f"export LD_LIBRARY_PATH={libraries}/slurm-wlm:{libraries} SLURM_CONF={settings}",
        ]
        (self.programs / name).write_text("\n".join([*lines, f'exec {self.root}/usr/{place}/{name} "$@"', ""]))
        (self.programs / name).chmod(0o755)

    def start_requeued(self, name: str) -> bool:
        """Start requeued jobs of this name in two seconds. Always True.

        Slurm waits for two minutes. A node refuses a job that starts within the second in which it ended.
        """
        for line in self("squeue", "-h", "-t", "PENDING", "-n", name, "-o", "%A %S").splitlines():
            number, start = line.split()
            if start != "N/A" and datetime.fromisoformat(start) - datetime.now() > timedelta(seconds=30):
                self("scontrol", "update", f"JobId={number}", "StartTime=now+2", may_fail=True)
        return True


@dataclass
class Slurm(Programs):
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        self._start("slurmctld-wlm")
        for node in ("n1", "n2"):
            self._start("slurmd-wlm", "-N", node, "-d", str(self.root / "usr/sbin/slurmstepd-wlm"))
        self._wait_for_nodes()

    def start_controller(self) -> None:
        """Restart the controller, and wait until it can use both nodes."""
        self._start("slurmctld-wlm")
        self._wait_for_nodes()

    def _wait_for_nodes(self) -> None:
        def states() -> list[str]:
            return self("sinfo", "-h", "-N", "-o", "%t", may_fail=True).split()

        # For some seconds, a restarted controller reports its nodes as 'unk'.
        until(
            lambda: sum(state in ("idle", "mix", "alloc", "comp") for state in states()) == 4,
            lambda: f"two nodes in two partitions answer: {states()}",
        )

    def stop_controller(self) -> None:
        controller = self.daemons.pop(0)
        controller.terminate()
        controller.wait()

    def _start(self, name: str, *arguments: str) -> None:
        process = subprocess.Popen(
            [str(self.programs / name), "-D", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.daemons.insert(0 if name == "slurmctld-wlm" else len(self.daemons), process)

    def stop(self) -> None:
        if all(process.poll() is None for process in self.daemons):
            self("scancel", "--user", getpass.getuser())
            until(lambda: not self("squeue", "-h"), "all jobs have ended")
        for process in reversed(self.daemons):
            process.send_signal(signal.SIGTERM)
            process.wait()


def fetch(cache: Path = CACHE, packages: Sequence[str] = PACKAGES) -> Path | None:
    """The folder below *cache* with the unpacked packages, None if they are not available."""
    root = cache / "root"
    if sys.platform != "linux" or not (shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    cache.mkdir(parents=True, exist_ok=True)
    own = ["-o", f"Dir::State={cache / 'state'}", "-o", f"Dir::Cache={cache / 'cache'}"]  # any user can write to it
    with FileLock(cache / "lock"):
        if root.exists():
            return root
        for commands in ([["download"]], [[*own, "update"], [*own, "download"]]):
            done = [
                subprocess.run(
                    ["apt-get", "-qq", *command, *(packages if command[-1] == "download" else ())],
                    cwd=cache,
                    capture_output=True,
                    check=False,
                )
                for command in commands
            ]
            if done[-1].returncode == 0:
                break
        else:
            return None
        for package in cache.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, root.with_name("part")], check=True)
        root.with_name("part").rename(root)
        return root


@contextmanager
def running_cluster(folder: Path) -> Iterator[Slurm]:
    """A cluster with its files in *folder*. Raises FileNotFoundError if Debian's packages are not available."""
    root = fetch()
    if root is None:
        raise FileNotFoundError("Slurm (Debian's packages)")
    made = Slurm(folder, root)
    for name in ("state", "spool-n1", "spool-n2", "bin"):
        (folder / name).mkdir()
    facts = {
        "folder": folder,
        "root": root,
        "ports": [free_port("127.0.0.1") for _ in range(3)],
        "user": getpass.getuser(),
        "libraries": LIBRARIES,
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # which does not look for them before it needs one
    for name in (*PROGRAMS, "slurmctld-wlm", "slurmd-wlm"):
        made.add_program(name, folder / "slurm.conf")
    try:
        made.start()
        yield made
    finally:
        made.stop()


if __name__ == "__main__":
    fetch()
