"""Plant faults in himl_cli, one at a time, and report which of them the tests detect.

    python -m stress.mutation record         # run the whole suite with coverage, and record in .cache/mutation which
                                             # test reaches which line
    python -m stress.mutation run --seed 7   # plant 60 faults in all packages (--last 200: more; --list: only print)

A fault is an inverted comparison, a removed `not`, or a removed statement. Runs only tests that reach the line, those
that reach least first."""

from __future__ import annotations

import argparse
import ast
import os
import pickle
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path.cwd()
PACKAGE = "himl_cli"
OPPOSITES = ((ast.Eq, ast.NotEq), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {one: other for pair in OPPOSITES for one, other in (pair, pair[::-1])}
REMOVED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Delete, ast.Continue, ast.Break)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider")
FIRST, MOST = 12, 240  # tests in the first run of a fault, and at most

ENDLESS = "tests/services/transfer/test_interruptions.py::test_interrupted_threads_leave_no_lock_behind"
"""A test that interrupts coverage itself in its own lock, so that the record would not end."""

Reach = dict[str, dict[tuple[int, int], set[int]]]


@dataclass(frozen=True)
class Fault:
    """Replace *file* from *begin* to *end* (line from 1, column in bytes) by *text*. Tests that reach *lines* may
    detect it.
    """

    file: str
    begin: tuple[int, int]
    end: tuple[int, int]
    text: str
    lines: range

    def __str__(self) -> str:
        return f"{self.file}:{self.begin[0]}:{self.begin[1]}"

    def planted(self, source: bytes) -> bytes:
        lines = source.splitlines(keepends=True)
        begin, end = (sum(map(len, lines[: line - 1])) + column for line, column in (self.begin, self.end))
        return source[:begin] + self.text.encode() + source[end:]


def faults_of(path: Path) -> Iterator[tuple[str, Fault]]:
    file = path.relative_to(ROOT).as_posix()

    def fault(node: ast.expr | ast.stmt, text: str, lines: range) -> Fault:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Fault(file, (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), text, lines)

    def expressions(node: ast.AST, lines: range) -> Iterator[tuple[str, Fault]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.JoinedStr, ast.excepthandler, ast.match_case)):
                continue  # statements are handled separately; expressions in an f-string have no position
            if isinstance(child, ast.Compare) and len(child.ops) == 1:
                turned = ast.Compare(child.left, [TURNED[type(child.ops[0])]()], child.comparators)
                yield "comparison", fault(child, f"({ast.unparse(turned)})", lines)
            elif isinstance(child, ast.UnaryOp) and isinstance(child.op, ast.Not):
                yield "not", fault(child, f"({ast.unparse(child.operand)})", lines)
            yield from expressions(child, lines)

    def statements(node: ast.AST) -> Iterator[tuple[str, Fault]]:
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            for child in getattr(node, name, []) if not isinstance(node, (ast.Lambda, ast.IfExp)) else []:
                if isinstance(child, ast.stmt):
                    inner = getattr(child, "body", None)
                    last = inner[0].lineno - 1 if inner else child.end_lineno or child.lineno
                    lines = range(child.lineno, max(last, child.lineno) + 1)
                    is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
                    if isinstance(child, REMOVED) and not is_text:
                        yield "statement", fault(child, "pass", lines)
                    if not isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.AnnAssign)):
                        yield from expressions(child, lines)
                yield from statements(child)

    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef):
            yield from statements(node)


def drawn(seed: int, count: int) -> list[Fault]:
    found: dict[str, dict[str, dict[str, Fault]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for kind, fault in faults_of(path):
            found[str(path.parent.relative_to(ROOT))][kind][str(fault)] = fault
    source = random.Random(seed)
    chosen: dict[str, Fault] = {}
    while len(chosen) < count:
        for package in sorted(found):
            kind = source.choice(sorted(found[package]))
            place = source.choice(sorted(found[package][kind]))
            if len(chosen) < count:
                chosen.setdefault(place, found[package][kind][place])
    return list(chosen.values())


def record(folder: Path, processes: int, arguments: list[str]) -> int:
    """Run the suite, record the arcs of each test and the failed tests, and return pytest's exit code."""
    site = Path(sysconfig.get_paths()["purelib"])
    hook, plugin = site / "himl_reach.pth", site / "himl_reach.py"
    shutil.copy(Path(__file__).with_name("reach.py"), plugin)
    hook.write_text('import os; os.environ.get("HIML_TEST_REACH") and __import__("himl_reach")\n')
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as traces:
            variables = os.environ | {"HIML_TEST_REACH": traces, "HIML_TEST_REACH_SOURCE": str(ROOT / PACKAGE)}
            options = [
                "--all",
                "-p",
                "himl_reach",
                "-n",
                str(processes),
                "--dist",
                "worksteal",
                f"--junitxml={folder / 'suite.xml'}",
                f"--deselect={ENDLESS}",
            ]
            code = subprocess.run([*PYTEST, *options, *arguments], env=variables).returncode
            tests: dict[str, int] = {}
            reach: Reach = defaultdict(lambda: defaultdict(set))
            for path in Path(traces).glob("*.arcs"):
                test, arcs = pickle.loads(path.read_bytes())
                number = tests.setdefault(test, len(tests))
                for file, taken in arcs.items():
                    for arc in taken:
                        reach[file][arc].add(number)
    finally:
        hook.unlink()
        plugin.unlink()
    (folder / "reach").write_bytes(pickle.dumps((list(tests), {file: dict(arcs) for file, arcs in reach.items()})))
    return code


def tests_for(fault: Fault, tests: list[str], reach: Reach, source: random.Random) -> list[str]:
    """Tests that reach the fault, first those that reach least of himl_cli, with few per file among the first."""
    taken = reach.get(fault.file, {})
    chosen = {
        number
        for arc, who in taken.items()
        if abs(arc[0]) in fault.lines or abs(arc[1]) in fault.lines
        for number in who
    }
    sizes = Counter(number for arcs in reach.values() for who in arcs.values() for number in who & chosen)
    ordered = sorted((number for number in chosen if tests[number]), key=lambda number: (sizes[number], tests[number]))
    files: Counter[str] = Counter()
    first: list[str] = []
    rest: list[str] = []
    for number in ordered:
        file = tests[number].partition("::")[0]
        files[file] += 1
        (first if files[file] <= 4 and len(first) < FIRST else rest).append(tests[number])
    return [*first, *(rest if len(rest) <= MOST - FIRST else source.sample(rest, MOST - FIRST))]


def is_caught(tests: list[str], processes: int) -> str:
    for batch, options in ((tests[:FIRST], []), (tests[FIRST:], ["-n", str(processes)])):
        if batch:
            with tempfile.TemporaryDirectory() as folder:
                command = [*PYTEST, "-x", "--timeout=120", f"--basetemp={folder}/t", *options, *batch]
                variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
                try:
                    done = subprocess.run(
                        command,
                        capture_output=True,
                        text=True,
                        errors="replace",
                        timeout=900,
                        env=variables,
                        stdin=subprocess.DEVNULL,
                    )
                except subprocess.TimeoutExpired:
                    return "(no end)"
            if done.returncode not in (0, 5):
                failed = [
                    line for line in done.stdout.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))
                ]
                return (
                    failed[0].split(" - ")[0]
                    if failed
                    else f"(exit {done.returncode}: {done.stdout[-200:]!r} {done.stderr[-200:]!r})"
                )
    return ""


def run(folder: Path, seed: int, first: int, last: int, processes: int, *, only_list: bool) -> None:
    tests, reach = pickle.loads((folder / "reach").read_bytes()) if not only_list else ([], {})
    survived = 0
    faults = drawn(seed, last)[first - 1 :]
    for number, fault in enumerate(faults, first):
        path = ROOT / fault.file
        source = path.read_bytes()
        planted = fault.planted(source)
        place = ast.Constant(
            None, lineno=fault.begin[0], col_offset=fault.begin[1], end_lineno=fault.end[0], end_col_offset=fault.end[1]
        )
        before = ast.get_source_segment(source.decode(), place) or ""
        print(f"{seed}.{number} {fault} `{' '.join(before.split())[:100]}` -> `{fault.text[:100]}`", flush=True)
        if only_list:
            continue
        compile(planted, str(path), "exec")
        candidates, start = tests_for(fault, tests, reach, random.Random(seed)), time.monotonic()
        try:
            path.write_bytes(planted)
            noticed = is_caught(candidates, processes) if candidates else ""
        finally:
            path.write_bytes(source)
        survived += not noticed
        print(
            f"    {'caught by ' + noticed if noticed else 'SURVIVED'} ({len(candidates)} tests, "
            f"{time.monotonic() - start:.0f} s)",
            flush=True,
        )
    if not only_list:
        print(f"seed {seed}: {len(faults) - survived} of {len(faults)} caught", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stress.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("record", "run"))
    parser.add_argument("--folder", type=Path, default=Path(".cache/mutation"), help="where the record is")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--first", type=int, default=1, help="number of the first fault, to continue an interrupted run"
    )
    parser.add_argument("--last", type=int, default=60, help="number of the last fault")
    parser.add_argument("-n", "--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name the faults and run nothing")
    arguments, others = parser.parse_known_args()
    if arguments.do == "record":
        sys.exit(record(arguments.folder, arguments.processes, others))
    if others:
        parser.error(f"unknown arguments: {' '.join(others)}")
    run(
        arguments.folder, arguments.seed, arguments.first, arguments.last, arguments.processes, only_list=arguments.list
    )


if __name__ == "__main__":
    main()
