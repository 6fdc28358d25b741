"""Run all benchmarks in sequence and render the pages of their figures. Run nothing else on the machine in the
meantime.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import RESULTS, pages, verdict_lines

ROOT = Path(__file__).parent.parent
BENCHES = (
    "startup",
    "submit_local",
    "runs_list",
    "find",
    "tracking",
    "system_metrics",
    "azure_start",
    "submit_azure",
    "aggregate",
    "tb",
    "ui",
    "slurm",
    "ssh",
    "transfer",
    "montage",
    "tiles",
    "tissue",
    "scale",
    "cost",
)
QUICK = {
    **dict.fromkeys(BENCHES, ("--rounds", "1")),
    "slurm": ("--rounds", "1", "--open", "20"),
    "ssh": ("--rounds", "1", "--large", "64"),
    "montage": ("--rounds", "1", "--width", "20000"),
    "scale": ("--rounds", "1", "--largest", "10"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run one round of each, only montages of width 20,000 and small sizes, and render no page",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHES,
        default=BENCHES,
        metavar="NAME",
        help=f"run only these benchmarks ({', '.join(BENCHES)})",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="folder for raw results (default: benchmarks/results, with the pages in docs)",
    )
    args = parser.parse_args()
    results: Path = args.results or (ROOT / ".cache" / "benchmarks" / "results" if args.quick else RESULTS)
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="himl-benchmarks-") as name:
        for bench in BENCHES:
            if bench in args.only:
                print(f"\n=== {bench}", flush=True)
                options = QUICK[bench] if args.quick else ()
                command = [
                    sys.executable,
                    "-m",
                    f"benchmarks.{bench}",
                    *options,
                    "--raw",
                    str(Path(name, f"{bench}.jsonl")),
                ]
                failed += [bench] if subprocess.run(command, cwd=ROOT, check=False).returncode else []
        # Copy only after the last benchmark: each one records whether the checkout has changes.
        for path in Path(name).glob("*.jsonl"):
            shutil.copyfile(path, results / path.name)
    if results == RESULTS:
        for path, text in pages(results).items():
            path.write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(verdict_lines(results)), f"\nraw results: {results}")
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
