"""All benchmarks, one after the other, and the pages that their figures make. Nothing else should run on the machine meanwhile."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import RESULTS, verdict_lines, write_pages

ROOT = Path(__file__).parent.parent
BENCHES = (
    *(
        "startup",
        "submit_local",
        "runs_list",
        "tracking",
        "system_metrics",
        "azure_start",
        "submit_azure",
        "aggregate",
        "tb",
        "ui",
        "slurm",
        "transfer",
        "montage",
        "tiles",
    ),
    "image_loading",  # of no part of himl: it has a page of its own, and no aims
)
QUICK = {**dict.fromkeys(BENCHES, ("--rounds", "1")), "slurm": ("--rounds", "1", "--open", "20"), "montage": ("--rounds", "1", "--width", "20000")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each, montages of width 20,000 only; no part of the document")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=BENCHES, metavar="NAME", help=f"these ({', '.join(BENCHES)})")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where raw results go (default: benchmarks/results, and what they make to docs)")
    args = parser.parse_args()
    results: Path = args.results or (ROOT / ".cache" / "benchmarks" / "results" if args.quick else RESULTS)
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="himl-benchmarks-") as name:
        for bench in BENCHES:
            if bench in args.only:
                print(f"\n=== {bench}", flush=True)
                options = QUICK[bench] if args.quick else ()
                command = [sys.executable, "-m", f"benchmarks.{bench}", *options, "--raw", str(Path(name, f"{bench}.jsonl"))]
                failed += [bench] if subprocess.run(command, cwd=ROOT, check=False).returncode else []
        for path in Path(name).glob("*.jsonl"):  # only once all are through: a changed checkout would be told in the figures of the next one
            shutil.copyfile(path, results / path.name)
    if results == RESULTS:
        write_pages(results)
    print("\n".join(verdict_lines(results)), f"\nraw results: {results}")
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
