"""All benchmarks, one after the other, and the document that their figures make. Nothing else should run on the machine meanwhile."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import DOCUMENT, RESULTS, render, verdict_lines

ROOT = Path(__file__).parent.parent
TRIED = ROOT / ".cache" / "benchmarks" / "results"
BENCHES = ("startup", "submit_local", "runs_list", "tracking", "azure_start", "submit_azure", "aggregate", "tb", "transfer", "montage")
QUICK = {**dict.fromkeys(BENCHES, ("--rounds", "1")), "montage": ("--rounds", "1", "--width", "20000")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what *arguments* (default: those of the process) say; 1 where a benchmark failed."""
    args = _parser().parse_args(arguments)
    is_full = not args.quick and args.files is None and args.large is None
    results = args.results or (RESULTS if is_full else TRIED)
    with tempfile.TemporaryDirectory(prefix="himl-benchmarks-") as name:
        failed = [bench for bench in BENCHES if bench in (args.only or BENCHES) and not _run(bench, _options(bench, args), Path(name))]
        _keep(Path(name), results)
    document = DOCUMENT if results.resolve() == RESULTS.resolve() else results / DOCUMENT.name
    document.write_text(render(results), encoding="utf-8")
    print("\n".join(verdict_lines(results)), f"\nraw results: {results}\ndocument: {document}")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each, montages of width 20,000 only; no part of the document")
    parser.add_argument("--only", nargs="+", choices=BENCHES, metavar="NAME", help=f"these ({', '.join(BENCHES)})")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where raw results and document go (default: benchmarks/results and docs)")
    parser.add_argument("--files", type=int, metavar="N", help="for a trial: so many small files are moved")
    parser.add_argument("--large", type=int, metavar="MIB", help="for a trial: the size of the large one")
    return parser


def _options(bench: str, args: argparse.Namespace) -> list[str]:
    sizes = {"--files": args.files, "--large": args.large} if bench == "transfer" else {}
    return [*(QUICK[bench] if args.quick else ()), *(text for name, value in sizes.items() if value is not None for text in (name, str(value)))]


def _run(bench: str, options: Sequence[str], folder: Path) -> bool:
    """Whether it came to its end; its raw figures are in *folder* then."""
    begun = time.monotonic()
    print(f"\n=== {bench}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{bench}", *options, "--raw", str(folder / f"{bench}.jsonl")], cwd=ROOT, check=False)
    print(f"({time.monotonic() - begun:.0f} s)", flush=True)
    return done.returncode == 0


def _keep(folder: Path, results: Path) -> None:
    """Only once all are through: a changed checkout would be told in the figures of the next one."""
    results.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.jsonl"):
        shutil.copyfile(path, results / path.name)


if __name__ == "__main__":
    sys.exit(main())
