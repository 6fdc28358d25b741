"""What `himl montage` costs, next to hi-ml's: hi-ml-cpath 0.5.2 with the versions that it pins.

200 seeded slides of three levels (level 1: 2000 x 1500) to montage.png and montage.jpg, at each width; whole processes, start-up included, in turns.
Memory is the peak of the largest process: hi-ml-cpath's worker processes come on top of its figure. Where no Python 3.9 is at hand, or that environment cannot
be installed, hi-ml-cpath is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import raw
from benchmarks.measure import HIML, clean_environment
from benchmarks.montages.made_slides import make_slides
from benchmarks.peers import peer_python
from benchmarks.spent import Spent, median, spend
from tests.support.clients import HI_ML_CPATH

PREDECESSOR_PROGRAM = str(Path(__file__).with_name("montages") / "predecessor.py")
SLIDES, PATTERN = 200, "*.tiff"
OURS, SAME_PICTURE, THEIRS = "himl montage", "himl montage --layout hi-ml", "hi-ml-cpath 0.5.2"
WIDTHS = (20_000, 60_000)
PICTURES = ("png", "jpg")


def commands(slides: Path, result: Path, width: int, workers: int, python: str | None) -> dict[str, list[str]]:
    """The command of each candidate."""
    ours = [HIML, "montage", str(slides), "--image_glob", PATTERN, "--width", str(width), "--workers", str(workers), "--output_path", str(result), "-q"]
    found = {OURS: ours, SAME_PICTURE: [*ours, "--layout", "hi-ml"]}
    if python is not None:
        found[THEIRS] = [python, PREDECESSOR_PROGRAM, str(slides), PATTERN, str(width), str(workers), str(result)]
    return found


class Contest:
    """The candidates at one width after the other; *rounds* says how often each has its turn."""

    def __init__(self, slides: Path, scratch: Path, workers: int, rounds: Mapping[str, int], python: str | None, record: raw.Raw) -> None:
        self._slides, self._scratch, self._workers = slides, scratch, workers
        self._rounds, self._python, self._record = rounds, python, record

    def at(self, width: int) -> None:
        """What each spends, in turns, every other round backwards; and what its pictures have in bytes."""
        result = self._scratch / "result"
        ways = commands(self._slides, result, width, self._workers, self._python)
        found: dict[str, list[Spent]] = {name: [] for name in ways}
        sizes: dict[str, dict[str, int]] = {}
        for number in range(max(self._rounds[name] for name in ways)):
            for name in [one for one in list(ways)[:: -1 if number % 2 else 1] if number < self._rounds[one]]:
                found[name].append(spend(ways[name], {**clean_environment(), "TMPDIR": str(self._scratch)}))
                sizes[name] = {kind: (result / f"montage.{kind}").stat().st_size for kind in PICTURES}
                self._keep(width, name, number + 1, found[name][-1], sizes[name])
                shutil.rmtree(result)
                os.sync()
        show(width, {name: median(spent) for name, spent in found.items()}, sizes)

    def _keep(self, width: int, name: str, number: int, spent: Spent, sizes: Mapping[str, int]) -> None:
        scenario = f"{width:,} wide"
        self._record.add(scenario, name, number, **asdict(spent))
        for kind, size in sizes.items():
            self._record.add(f"{scenario}, {kind}", name, number, bytes=size)


def show(width: int, medians: Mapping[str, Spent], sizes: Mapping[str, Mapping[str, int]]) -> None:
    theirs = medians.get(THEIRS)
    print(f"\n{SLIDES} slides, width {width:,}{'':13} {'wall s':>8} {'CPU s':>8} {'peak MB':>9} {'PNG MB':>8} {'JPG MB':>8} {'times as fast':>14}")
    for name, spent in medians.items():
        ratio = f"{theirs.wall / spent.wall:14.1f}" if theirs else f"{'':14}"
        png, jpg = (sizes[name][kind] / 1e6 for kind in PICTURES)
        print(f"{name:34} {spent.wall:8.2f} {spent.cpu:8.2f} {spent.memory / 1e6:9.0f} {png:8.0f} {jpg:8.0f} {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of himl")
    parser.add_argument("--their_rounds", type=int, default=1, help="of hi-ml-cpath, which takes minutes each")
    parser.add_argument("--width", type=int, action="append", help="repeated: several; default: 20,000 and 60,000")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads of himl, processes of hi-ml-cpath")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--slides", type=Path, help="a folder to keep the slides in, and to find them again")
    raw.add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, raw.recording("montage", args.raw) as record:
        python = peer_python(record, HI_ML_CPATH, THEIRS, "hi-ml-cpath", "pillow")
        slides = args.slides or Path(name) / "slides"
        if not slides.is_dir():
            make_slides(slides, SLIDES, args.seed)
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {args.workers} workers, seed {args.seed}")
        rounds = {OURS: args.rounds, SAME_PICTURE: args.rounds, THEIRS: args.their_rounds}
        contest = Contest(slides, Path(name), args.workers, rounds, str(python) if python else None, record)
        for width in args.width or WIDTHS:
            contest.at(width)


if __name__ == "__main__":
    main()
