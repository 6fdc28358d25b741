"""What `himl montage` costs, next to the predecessor: hi-ml-cpath 0.5.2 with the versions that it pins.

200 seeded slides of three levels (level 1: 2000 x 1500) to montage.png and montage.jpg, at each width; whole processes, start-up included, in turns.
Memory is the peak of the largest process: the predecessor's helpers come on top of its figure. Aims: 10 times as fast in 300 MB at width 20,000, 15 times
in 700 MB at 60,000. Where no Python 3.9 is at hand, or that environment cannot be installed, the predecessor's recorded figures are shown, and said to be such.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import HIML, clean_environment
from benchmarks.montages.made_slides import make_slides
from benchmarks.spent import Spent, median, spend
from tests.clients import HI_ML_CPATH, PythonMissing, client_python

PREDECESSOR_PROGRAM = str(Path(__file__).with_name("montages") / "predecessor.py")
SLIDES, PATTERN = 200, "*.tiff"
OURS, SAME_PICTURE, THEIRS = "himl montage", "himl montage --layout hi-ml", "hi-ml-cpath 0.5.2"
RECORDED = {20_000: Spent(60, 79, 2_570_000_000), 60_000: Spent(339, 416, 18_400_000_000)}
"""Of the predecessor, on two cores of another day: seconds and bytes."""


@dataclass(frozen=True)
class Aim:
    """How many times as fast as the predecessor, and in how many bytes at most."""

    times: float
    memory: int


AIMS = {20_000: Aim(10, 300_000_000), 60_000: Aim(15, 700_000_000)}


def predecessor() -> str | None:
    """Its Python; None, and why on stderr, where it cannot be had."""
    try:
        return str(client_python(HI_ML_CPATH))
    except (PythonMissing, subprocess.SubprocessError, OSError) as err:
        print(f"{THEIRS} cannot be installed here, so its recorded figures are shown: {err}", file=sys.stderr)
        return None


def commands(slides: Path, result: Path, width: int, workers: int, python: str | None) -> dict[str, list[str]]:
    """The command of each candidate."""
    ours = [HIML, "montage", str(slides), "--image_glob", PATTERN, "--width", str(width), "--workers", str(workers), "--output_path", str(result), "-q"]
    found = {OURS: ours, SAME_PICTURE: [*ours, "--layout", "hi-ml"]}
    if python is not None:
        found[THEIRS] = [python, PREDECESSOR_PROGRAM, str(slides), PATTERN, str(width), str(workers), str(result)]
    return found


def measure(slides: Path, scratch: Path, width: int, rounds: Mapping[str, int], workers: int, python: str | None) -> dict[str, list[Spent]]:
    """What each candidate spent in each of its rounds; they take turns. Prints a table."""
    result = scratch / "result"
    found: dict[str, list[Spent]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number in range(max(rounds.values())):
        ways = commands(slides, result, width, workers, python)
        for name in list(ways)[:: -1 if number % 2 else 1]:
            if number < rounds[name]:
                found.setdefault(name, []).append(spend(ways[name], {**clean_environment(), "TMPDIR": str(scratch)}))
                sizes[name] = tuple((result / f"montage.{kind}").stat().st_size for kind in ("png", "jpg"))  # type: ignore[assignment]
                shutil.rmtree(result)
                os.sync()
    show(width, {name: median(spent) for name, spent in found.items()}, sizes)
    return found


def show(width: int, medians: Mapping[str, Spent], sizes: Mapping[str, Sequence[int]]) -> None:
    theirs, recorded = medians.get(THEIRS), RECORDED.get(width)
    print(f"\n{SLIDES} slides, width {width:,}{'':13} {'wall s':>8} {'CPU s':>8} {'peak MB':>9} {'PNG MB':>8} {'JPG MB':>8} {'times as fast':>14}")
    for name, spent in medians.items():
        ratio = f"{theirs.wall / spent.wall:14.1f}" if theirs else f"{'':14}"
        png, jpg = (size / 1e6 for size in sizes[name])
        print(f"{name:34} {spent.wall:8.2f} {spent.cpu:8.2f} {spent.memory / 1e6:9.0f} {png:8.0f} {jpg:8.0f} {ratio}")
    if theirs is None and recorded is not None:
        print(f"{THEIRS + ', recorded':34} {recorded.wall:8.0f} {recorded.cpu:8.0f} {recorded.memory / 1e6:9.0f}")
    aim = AIMS.get(width)
    if aim is not None:
        ours = medians[OURS]
        reference = theirs or recorded
        fast = reference is not None and reference.wall >= aim.times * ours.wall
        print(f"aim {aim.times:.0f} times as fast{'' if theirs else ' as recorded'}: {'kept' if fast else 'MISSED'}")
        print(f"aim {aim.memory / 1e6:.0f} MB: {'kept' if ours.memory <= aim.memory else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of himl")
    parser.add_argument("--their_rounds", type=int, default=1, help="of the predecessor, which takes minutes each")
    parser.add_argument("--width", type=int, action="append", help="repeated: several; default: 20,000 and 60,000")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads of himl, processes of the predecessor")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--slides", type=Path, help="a folder to keep the slides in, and to find them again")
    parser.add_argument("--json", type=Path, help="where to keep every single figure")
    args = parser.parse_args()
    python = predecessor()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        slides = args.slides or Path(name) / "slides"
        if not slides.is_dir():
            make_slides(slides, SLIDES, args.seed)
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {args.workers} workers, seed {args.seed}")
        rounds = {OURS: args.rounds, SAME_PICTURE: args.rounds, THEIRS: args.their_rounds}
        for width in args.width or list(AIMS):
            spent = measure(slides, Path(name), width, rounds, args.workers, python)
            found[str(width)] = {name: [asdict(one) for one in several] for name, several in spent.items()}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
