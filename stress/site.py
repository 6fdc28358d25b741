"""A site with accounting: munge, slurmdbd with MariaDB, and the clusters `c1` and `c2`, from Debian's packages in
.cache.

`c1` has two nodes and `c2` has one, each with its own client of the file system in `shared` (`client.c`). Partitions:
`gpu`, and `high`, which preempts `low` by requeue, `spare` by cancellation and `soft` likewise, with a time to save.
Jobs run in cgroups (v1) that limit their memory, if this machine has them. Needs root, on Linux. `python -m
stress.site` runs a site until Ctrl-C, and prints the PATH of its programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.ports import free_port
from tests.support.running import until
from tests.support.slurm import CACHE, LIBRARIES, PACKAGES, PROGRAMS, Programs, fetch

MORE = (
    "slurmdbd",
    "slurm-wlm-mysql-plugin",
    "mariadb-server-core",
    "libmariadb3",
    "libaio1",
    "liburing2",
    "libfuse3-3",
    "libfuse3-dev",
)
NODES = {"c1": ("n1", "n2"), "c2": ("n3",)}
OTHER = "backup"
"""Another user of this machine, who may submit as well. Debian has this account."""
FEW = 4
"""So many jobs the QOS `few` allows at a time."""
CGROUPS = Path("/sys/fs/cgroup")
DAEMON = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
PluginDir={root}/{libraries}/slurm-wlm
"""
ACCOUNTING = (
    DAEMON
    + """
DbdHost=localhost
DbdPort={ports[dbd]}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
)
CLUSTER = (
    DAEMON
    + """
ClusterName={cluster}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
CredType=cred/munge
SlurmdUser=root
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports[dbd]}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
{limits}
SwitchType=switch/none
MpiDefault=none
JobAcctGatherFrequency=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=00:00:00
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
KillWait=2
MessageTimeout=5
SlurmdTimeout=5
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
SlurmctldPidFile={folder}/{cluster}.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/{cluster}.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state-{cluster}
SlurmdSpoolDir={folder}/spool-%n
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=spare Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=soft Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
)
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000"
LIMITED = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup"
UNLIMITED = "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/linux"


def can_limit_memory() -> bool:
    """Whether this process can make cgroups (v1) for jobs. Slurm's programs of this version need systemd for v2."""
    return os.access(CGROUPS / "memory" / "memory.limit_in_bytes", os.W_OK) and os.access(CGROUPS / "freezer", os.W_OK)


@dataclass
class Site(Programs):
    """Its programs use the cluster `c1`. `nodes` are the names of the nodes of each cluster."""

    nodes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def all_nodes(self) -> list[str]:
        return [name for names in self.nodes.values() for name in names]

    def start(self) -> None:
        self._start_services()
        for cluster in self.nodes:
            self("sacctmgr", "-i", "add", "cluster", cluster)
        self("sacctmgr", "-i", "add", "account", "lab", "Cluster=c1,c2")
        self("sacctmgr", "-i", "add", "qos", "few", f"MaxSubmitJobsPerUser={FEW}")
        for user in ("root", OTHER):
            self("sacctmgr", "-i", "add", "user", user, "Account=lab", "DefaultAccount=lab", "Cluster=c1,c2")
            self("sacctmgr", "-i", "modify", "user", user, "set", "qos=normal,few")
        for cluster in self.nodes:
            self.start_controller(cluster)
        for node in self.all_nodes:
            self.start_client(node)
            self.start_node(node)
        self.start_client("login")
        self.wait_for_nodes()

    def _start_services(self) -> None:
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        files = [
            f"--{name}={self.folder}/munge.{name.partition('-')[0]}"
            for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
        ]
        self._start("munged", "munged", "--foreground", "--force", *files)
        share, at = self.root / "usr" / "share" / "mysql", self.folder / "database"
        words = [
            "--no-defaults",
            "--user=root",
            f"--datadir={at}",
            f"--tmpdir={at}",
            f"--lc-messages-dir={share}",
            "--innodb-log-file-size=8M",
            "--innodb-use-native-aio=0",
        ]
        tables = "".join(
            (share / f"mysql_{name}.sql").read_text()
            for name in ("system_tables", "performance_tables", "system_tables_data")
        )
        at.mkdir(0o700)
        bootstrap = [str(self.root / "usr/sbin/mariadbd"), *words, "--bootstrap"]
        statements = f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}"
        done = subprocess.run(
            bootstrap, input=statements, text=True, check=False, capture_output=True, env=self._environment()
        )
        assert done.returncode == 0, done.stderr[-500:]
        own = [
            "--skip-grant-tables",
            "--skip-networking",
            f"--socket={self.folder}/database.socket",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        self._start("mariadbd", "mariadbd", *words, *own)
        for name in ("munge.socket", "database.socket"):
            until((self.folder / name).exists, f"{name} exists")
        self.start_accounting()

    def start_accounting(self) -> None:
        self._start("slurmdbd", "slurmdbd", "-D")
        until(lambda: self("sacctmgr", "-n", "list", "account", may_fail=True), "slurmdbd answers")

    def start_controller(self, cluster: str = "c1") -> None:
        self._start(cluster, "slurmctld-wlm", "-D", conf=cluster)
        until(
            lambda: "UP" in self("scontrol", "-M", cluster, "ping", may_fail=True),
            f"the controller of {cluster} answers",
        )

    def start_node(self, name: str) -> None:
        (cluster,) = (cluster for cluster, names in self.nodes.items() if name in names)
        client = self.daemons.get(f"client of {name}")
        space = () if client is None else ("nsenter", f"--mount=/proc/{client.pid}/ns/mnt", f"--wd={self.folder}")
        self._start(
            name, "slurmd-wlm", "-D", "-N", name, "-d", str(self.folder / "slurmstepd"), conf=cluster, before=space
        )

    def start_client(self, name: str) -> None:
        """Mount `backing` at `shared`, for a node in a mount namespace of its own. Does nothing without FUSE and a C
        compiler.
        """
        if not (Path("/dev/fuse").exists() and shutil.which("cc")):
            return
        space = () if name == "login" else ("unshare", "--mount", "--propagation", "private")
        program, options = self.folder / "client", "allow_other,default_permissions,fsname=site,subtype=shared"
        if not program.exists():
            libraries = self.root / "lib" / "x86_64-linux-gnu", self.root / LIBRARIES
            found = next(folder / "libfuse3.so.3" for folder in libraries if (folder / "libfuse3.so.3").exists())
            headers, source = self.root / "usr" / "include" / "fuse3", Path(__file__).with_name("client.c")
            subprocess.run(
                ["cc", "-O1", f"-I{headers}", source, "-o", program, found, "-lpthread", f"-Wl,-rpath,{found.parent}"],
                check=True,
            )
        words = ["-f", "-o", options]
        self._start(
            f"client of {name}",
            str(program),
            str(self.folder / "backing"),
            str(self.folder / "shared"),
            *words,
            before=space,
        )
        mounts = Path(f"/proc/{self.daemons[f'client of {name}'].pid}/mountinfo")
        until(lambda: f" {self.folder}/shared " in mounts.read_text(), f"the file system of {name} is mounted")

    def forget(self, name: str) -> None:
        """Let the controller of `c1` forget ended jobs at once, and wait until squeue lists none of the job *name*."""
        settings = self.folder / "c1" / "slurm.conf"
        settings.write_text(settings.read_text().replace("MinJobAge=300", "MinJobAge=2"))
        self("scontrol", "reconfigure")
        until(lambda: not self("squeue", "-h", "-t", "all", "-n", name), f"squeue forgets {name}", seconds=120)

    def wait_for_nodes(self) -> None:
        def states() -> list[str]:
            return [
                state
                for cluster in self.nodes
                for state in self("sinfo", "-M", cluster, "-h", "-N", "-p", "gpu", "-o", "%t", may_fail=True).split()
            ]

        count = len(self.all_nodes)
        until(
            lambda: sum(state in ("idle", "mix", "alloc", "comp") for state in states()) == count,
            lambda: f"{count} nodes answer: {states()}",
        )

    def stop_daemon(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop `slurmdbd`, a controller (`c1`) or a node (`n1`) by this signal."""
        process = self.daemons.pop(name)
        process.send_signal(number)
        process.wait()

    def _environment(self, conf: str = "c1") -> dict[str, str]:
        libraries = self.root / LIBRARIES
        own = {
            "LD_LIBRARY_PATH": f"{libraries}/slurm-wlm:{libraries}",
            "SLURM_CONF": str(self.folder / conf / "slurm.conf"),
        }
        return {**os.environ, **own, "MYSQL_UNIX_PORT": str(self.folder / "database.socket")}

    def _start(self, name: str, program: str, *arguments: str, conf: str = "c1", before: Sequence[str] = ()) -> None:
        """Start a daemon by the name that Slurm's plugins compare: without `-wlm`. It ends with this process."""
        path = self.folder / "sbin" / program.removesuffix("-wlm")
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.symlink_to(self.root / "usr" / "sbin" / program)
        with (self.folder / f"{name}.out").open("ab") as said:
            words = [*before, "setpriv", "--pdeathsig", "TERM", str(path), *arguments]
            self.daemons[name] = subprocess.Popen(
                words, env=self._environment(conf), stdout=said, stderr=said, stdin=subprocess.DEVNULL
            )

    def stop(self) -> None:
        """Cancel all jobs, stop all daemons, and remove the cgroups of the nodes, with what still runs in them."""
        running = [cluster for cluster in self.nodes if cluster in self.daemons]
        for cluster in running:
            for user in ("root", OTHER):
                self("scancel", "-M", cluster, "-u", user, may_fail=True)
        with suppress(AssertionError):
            until(
                lambda: not any(self("squeue", "-M", cluster, "-h", may_fail=True) for cluster in running), seconds=20
            )
        last = (*(f"client of {name}" for name in ("login", *self.all_nodes)), "slurmdbd", "mariadbd", "munged")
        for process in (process for name, process in self.daemons.items() if name not in last):
            process.terminate()
        for name in [
            *(name for name in self.daemons if name not in last),
            *(name for name in last if name in self.daemons),
        ]:
            self.stop_daemon(name)
        for name in self.all_nodes:
            for hierarchy in CGROUPS.glob(f"*/slurm_{name}"):
                for group in [
                    *sorted((path for path in hierarchy.rglob("*") if path.is_dir()), reverse=True),
                    hierarchy,
                ]:
                    _remove_cgroup(group)


def _remove_cgroup(folder: Path) -> None:
    for process in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    until(lambda: not (folder / "cgroup.procs").read_text(), f"no process is left in {folder}")
    folder.rmdir()


@contextmanager
def running_site() -> Iterator[Site]:
    """A site in a separate folder that every user can read. Raises FileNotFoundError without Debian's packages, or
    PermissionError without root.
    """
    if os.geteuid() != 0:
        raise PermissionError("a site with munge, cgroups and two users needs root")
    root = fetch(CACHE.with_name("site"), (*PACKAGES, *MORE))
    if root is None:
        raise FileNotFoundError("Slurm and MariaDB (Debian's packages)")
    folder = Path(tempfile.mkdtemp(prefix="himl-site-"))
    folder.chmod(0o755)
    try:
        made = _configured(folder, root)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _configured(folder: Path, root: Path) -> Site:
    token = folder.name[-4:].lower().replace("_", "x")
    nodes = {
        cluster: [f"{name}{token}" for name in names] for cluster, names in NODES.items()
    }  # cgroups of the machine have the names of nodes
    ports = {
        name: free_port("127.0.0.1") for name in ["dbd", *nodes, *(name for its in nodes.values() for name in its)]
    }
    facts = {
        "folder": folder,
        "root": root,
        "ports": ports,
        "libraries": LIBRARIES,
        "limits": LIMITED if can_limit_memory() else UNLIMITED,
    }
    for cluster, its in nodes.items():
        lines = "\n".join(NODE.format(name=name, port=ports[name]) for name in its)
        (folder / cluster).mkdir()
        (folder / f"state-{cluster}").mkdir()
        (folder / cluster / "slurm.conf").write_text(
            CLUSTER.format(**facts, cluster=cluster, port=ports[cluster], nodes=lines)
        )
        (folder / cluster / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={CGROUPS}\nConstrainRAMSpace=yes\n"
        )
        for name in its:
            (folder / f"spool-{name}").mkdir(mode=0o755)
    accounting = folder / "c1" / "slurmdbd.conf"
    accounting.write_text(ACCOUNTING.format(**facts))
    accounting.chmod(0o600)
    for name in ("backing", "shared"):
        (folder / name).mkdir()
    (folder / "slurmstepd").symlink_to(root / "usr" / "sbin" / "slurmstepd-wlm")
    made = Site(folder, root, nodes)
    made.programs.mkdir()
    made.calls.touch()
    made.calls.chmod(0o666)
    for name in (*PROGRAMS, "sacctmgr"):
        made.add_program(name, folder / "c1" / "slurm.conf")
    return made


if __name__ == "__main__":
    with running_site() as here, suppress(KeyboardInterrupt):
        print(f"export PATH={here.programs}:$PATH", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
