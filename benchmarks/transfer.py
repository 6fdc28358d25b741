"""How fast files move, next to azcopy, rclone and azure-storage-blob: 2,000 small ones and a large one, down and up, in one run.

Downloads come from nginx (small ones go to memory where there is /dev/shm), uploads go to Azurite. All over plain HTTP on the loopback.
`himl engine` and `azure-storage-blob` are timed inside their processes, after imports; all others as whole processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.blobs import clients
from benchmarks.blobs.azurite import azurite
from benchmarks.blobs.clients import CLIENTS, ONLY_UP, Task
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.blobs.nginx import BlobServer, free_port, serving
from benchmarks.blobs.proof import check_download, check_upload
from benchmarks.blobs.sample import LARGE_SIZE, SMALL_FILES, Sample, make_sample
from benchmarks.blobs.tools import Tools, fetch_tools
from benchmarks.spent import Spent, median, spend

CACHE = Path(".cache/benchmarks")


@dataclass(frozen=True)
class Scenario:
    """What moves; `late` adds 30 ms to each download of a blob."""

    name: str
    direction: str
    part: str
    late: bool = False


SCENARIOS = [
    Scenario("small down", "down", "small"),
    Scenario("small down, 30 ms", "down", "small", late=True),
    Scenario("small up", "up", "small"),
    Scenario("large down", "down", "large"),
    Scenario("large up", "up", "large"),
]


class Course:
    """Runs each client through each scenario."""

    def __init__(self, tools: Tools, himl: HimlWorkspace, sample: Sample, server: BlobServer, scratch: Path) -> None:
        self._tools = tools
        self._himl = himl
        self._sample = sample
        self._server = server
        self._scratch = scratch
        self._upload_port = free_port()
        self._environment = clients.environment(os.environ, himl, scratch)

    def time(self, scenario: Scenario, names: Sequence[str], rounds: int) -> dict[str, list[Spent]]:
        """Each of *names* once unmeasured, then *rounds* times in turns, every other round backwards."""
        spent: dict[str, list[Spent]] = {name: [] for name in names}
        for name in names:
            self._once(scenario, name, is_first=True)
        for number in range(rounds):
            for name in list(names)[:: -1 if number % 2 else 1]:
                spent[name].append(self._once(scenario, name, is_first=False))
        return spent

    def _once(self, scenario: Scenario, name: str, *, is_first: bool) -> Spent:
        os.sync()  # what the one before has not yet written would slow this one
        return (self._down if scenario.direction == "down" else self._up)(scenario, name, is_first)

    def _down(self, scenario: Scenario, name: str, is_first: bool) -> Spent:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if scenario.part == "small" and memory.is_dir() else self._scratch) as folder:
            port = self._server.slow_port if scenario.late else self._server.port
            task = Task(self._tools, self._himl, "down", scenario.part, port, Path(folder))
            spent = spend(CLIENTS[name](task), self._environment)
            check_download(self._sample, scenario.part, task.folder, is_read=is_first)
        return spent

    def _up(self, scenario: Scenario, name: str, is_first: bool) -> Spent:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder, azurite(self._upload_port, Path(folder)):
            task = Task(self._tools, self._himl, "up", scenario.part, self._upload_port, self._sample.folder)
            spent = spend(CLIENTS[name](task), self._environment)
            with_md5 = check_upload(self._sample, scenario.part, self._upload_port)
            if is_first:
                print(f"  {name}: stored with MD5: {with_md5} of {len(self._sample.names(scenario.part))}")
        return spent

    def notices(self, part: str, name: str) -> bool:
        """Whether a download fails when a blob's MD5 is not that of its content: to be asked of a server that lies."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            try:
                spend(CLIENTS[name](Task(self._tools, self._himl, "down", part, self._server.port, Path(folder))), self._environment)
            except SystemExit:
                return True
        return False

    def floor(self, scenario: Scenario, rounds: int) -> list[Spent]:
        """The MD5 of the same bytes on one thread."""
        return [spend(clients.md5_floor(self._sample.folder / scenario.part), self._environment) for _ in range(rounds)]


def print_table(scenario: Scenario, spent: Mapping[str, Sequence[Spent]]) -> None:
    """A row a client: medians, and how many times the first one's wall time."""
    unit = median(next(iter(spent.values()))).wall
    print(f"{scenario.name:28} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'ratio':>7}")
    for name, rounds in spent.items():
        middle = median(rounds)
        print(f"  {name:26} {middle.wall:8.3f} {middle.cpu:8.2f} {middle.memory / 1e6:8.0f} {middle.wall / unit:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=SMALL_FILES, help="how many small files")
    parser.add_argument("--large", type=int, default=LARGE_SIZE >> 20, help="MiB of the large one")
    parser.add_argument("--only", nargs="*", default=[scenario.name for scenario in SCENARIOS], help="names of scenarios")
    parser.add_argument("--clients", nargs="*", default=[*CLIENTS])
    parser.add_argument("--json", type=Path, help="where to keep every single figure")
    args = parser.parse_args()
    tools = fetch_tools(CACHE.absolute())
    print(", ".join(tools.versions().values()))
    scratch = Path(tempfile.mkdtemp(prefix="himl-benchmark-"))
    try:
        sample = make_sample(scratch / "sample", files=args.files, large=args.large << 20)
        with himl_workspace(scratch) as himl:
            with serving(lying(sample), scratch / "lying") as server:
                who = who_checks(Course(tools, himl, sample, server, scratch), args.clients)
            with serving(sample, scratch / "nginx") as server:
                found = run(Course(tools, himl, sample, server, scratch), args)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps({"versions": tools.versions(), "notices a wrong MD5": who, "scenarios": found}, indent=1) + "\n")


def lying(sample: Sample) -> Sample:
    """The same files; each part has one blob whose MD5 is another's."""
    first, second, large = sample.names("small")[0], sample.names("small")[1], sample.names("large")[0]
    return replace(sample, md5s={**sample.md5s, first: sample.md5s[second], large: sample.md5s[second]})


def who_checks(course: Course, names: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Which clients notice that, by part."""
    found = {}
    for name in (one for one in names if one not in ONLY_UP):
        found[name] = {part: course.notices(part, name) for part in ("small", "large")}
        said = ", ".join(f"{part}: {'yes' if noticed else 'NO'}" for part, noticed in found[name].items())
        print(f"notices a wrong Content-MD5: {name:26} {said}", flush=True)
    return found


def run(course: Course, args: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """All that was asked for, printed as it becomes known."""
    found = {}
    for scenario in SCENARIOS:
        if scenario.name in args.only:
            names = [name for name in args.clients if scenario.direction == "up" or name not in ONLY_UP]
            spent = course.time(scenario, names, args.rounds) | {"MD5 alone": course.floor(scenario, args.rounds)}
            print_table(scenario, spent)
            found[scenario.name] = {name: [asdict(one) for one in rounds] for name, rounds in spent.items()}
    return found


if __name__ == "__main__":
    main()
