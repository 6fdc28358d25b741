"""How fast files move, next to azcopy, rclone, azure-storage-blob and azureml-core's way: 2,000 small ones and a large one, down and up, in one run.

Downloads come from nginx and from Azurite (small ones go to memory where there is /dev/shm), uploads go to Azurite. All over plain HTTP on the loopback.
`himl engine`, `azure-storage-blob` and `as azureml-core` are timed inside their processes, after imports; all others as whole processes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from benchmarks import raw
from benchmarks.blobs import nginx
from benchmarks.blobs.clients import CLIENTS, ONLY_SMALL, ONLY_UP
from benchmarks.blobs.course import SCENARIOS, Course, Scenario
from benchmarks.blobs.himl_workspace import himl_workspace
from benchmarks.blobs.sample import LARGE_SIZE, SMALL_FILES, Sample, make_sample
from benchmarks.blobs.tools import fetch_tools
from benchmarks.spent import Spent, median

CACHE = Path(__file__).parent.parent / ".cache" / "benchmarks"
FLOOR = "MD5 alone"


def print_table(scenario: Scenario, spent: Mapping[str, Sequence[Spent]]) -> None:
    """A row a client: medians, and how many times the first one's wall time."""
    unit = median(next(iter(spent.values()))).wall
    print(f"{scenario.name:32} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'ratio':>7}")
    for name, rounds in spent.items():
        middle = median(rounds)
        print(f"  {name:30} {middle.wall:8.3f} {middle.cpu:8.2f} {middle.memory / 1e6:8.0f} {middle.wall / unit:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="at most; some scenarios and clients have fewer")
    parser.add_argument("--files", type=int, default=SMALL_FILES, help="how many small files")
    parser.add_argument("--large", type=int, default=LARGE_SIZE >> 20, help="MiB of the large one")
    parser.add_argument("--only", nargs="*", default=[scenario.name for scenario in SCENARIOS], help="names of scenarios")
    parser.add_argument("--clients", nargs="*", default=[*CLIENTS])
    raw.add_option(parser)
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="himl-benchmark-"))
    try:
        with raw.recording("transfer", args.raw) as record:
            run(args, scratch, record)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(args: argparse.Namespace, scratch: Path, record: raw.Raw) -> None:
    """All that was asked for, printed as it becomes known."""
    tools = fetch_tools(CACHE, record)
    record.name_peers(**{"nginx": nginx.version(), "azure-storage-blob": version("azure-storage-blob")})
    names = [name for name in args.clients if name not in record.meta["missing"]]
    sample = make_sample(scratch / "sample", files=args.files, large=args.large << 20)
    with himl_workspace(scratch) as himl:
        with nginx.serving(lying(sample), scratch / "lying") as server:
            who_checks(Course(tools, himl, sample, server, scratch, record), names, record)
        with nginx.serving(sample, scratch / "nginx") as server:
            course = Course(tools, himl, sample, server, scratch, record)
            for scenario in [one for one in SCENARIOS if one.name in args.only]:
                measure(course, scenario, names, args.rounds, record)


def lying(sample: Sample) -> Sample:
    """The same files; each part has one blob whose MD5 is another's."""
    first, second, large = sample.names("small")[0], sample.names("small")[1], sample.names("large")[0]
    return replace(sample, md5s={**sample.md5s, first: sample.md5s[second], large: sample.md5s[second]})


def who_checks(course: Course, names: Sequence[str], record: raw.Raw) -> None:
    """Which clients notice that, by part."""
    for name in (one for one in names if one not in (*ONLY_UP, *ONLY_SMALL)):
        found = {part: course.notices(part, name) for part in ("small", "large")}
        for part, noticed in found.items():
            record.add_fact(f"a wrong MD5, {part}", name, noticed)
        print(f"notices a wrong Content-MD5: {name:26} {', '.join(f'{part}: {noticed}' for part, noticed in found.items())}", flush=True)


def measure(course: Course, scenario: Scenario, names: Sequence[str], rounds: int, record: raw.Raw) -> None:
    spent = course.time(scenario, [name for name in names if scenario.takes(name)], rounds) | {FLOOR: course.floor(scenario, rounds)}
    print_table(scenario, spent)
    for name, rounds_of_it in spent.items():
        record.add_spent(scenario.name, name, rounds_of_it)


if __name__ == "__main__":
    main()
