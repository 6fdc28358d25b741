"""Let ssh die within the messages of commands that use a machine by SSH: `ssh/<command>/cut/NN`. Needs sshd of
OpenSSH.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.folders import contents
from tests.support.running import Outcome as Ended
from tests.support.running import write_files
from tests.support.ssh import SshServer, running_ssh
from tests.support.ssh_cuts import CutSsh, drawn_cuts

NUMBERS = {"submit": 10, "download": 6, "follow": 4}
CUTS = 10  # connections that die in a case, at least
ATTEMPTS = 40  # calls of a case, at most
LIMIT = 180.0
THERE = ("-w", "ssh:box")
LINES = 200
Call = Callable[..., Ended]


def ssh_cases() -> Sequence[Case]:
    return [
        Case(f"ssh/{command}/cut/{number:02d}", partial(cut_off, command))
        for command, count in NUMBERS.items()
        for number in range(count)
    ]


def cut_off(command: str, world: World, dice: random.Random) -> Result:
    """Call the command until enough connections have died. It may fail, and must leave nothing twice or in part."""
    (world.folder / "server").mkdir()
    try:
        with running_ssh(world.folder / "server") as box, tempfile.TemporaryDirectory(prefix="t") as sockets:
            project, cut, begun = world.folder / "project", CutSsh(box, world.folder / "cut"), time.monotonic()
            project.mkdir()
            box.set(project)
            env = world.environment() | {"XDG_RUNTIME_DIR": sockets}
            path = f"{cut.programs}:{box.programs}:{env.get('PATH') or '/usr/local/bin:/usr/bin:/bin'}"
            longest = 0.0

            def himl(*words: str) -> Ended:
                nonlocal longest
                started = time.monotonic()
                ended = world.himl(*words, cwd=project, env=env | {"PATH": path}, limit=LIMIT)
                longest = max(longest, time.monotonic() - started)
                return ended

            problems = JUDGES[command](himl, box, cut, project, dice)
            facts = {"cuts": cut.cuts, "longest_call_seconds": round(longest, 1)}
            return world.result(problems, 0, time.monotonic() - begun, cut.cuts, facts)
    except FileNotFoundError as err:
        return Result(Outcome.not_met, None, 0.0, why=f"needs {err}")


def submits(himl: Call, box: SshServer, cut: CutSsh, project: Path, dice: random.Random) -> list[str]:
    write_files(project, {"train.py": "print('ran')", "large.bin": dice.randbytes(2_000_000)})
    told, problems = "", list[str]()
    while cut.cuts < CUTS and not problems:
        cut.plan(drawn_cuts(dice, 2))
        submitted = himl("submit", "train.py", "--cluster", "ssh:box", "-q")
        cut.forget()
        listed, pointed = himl("runs", "list", "-q", "-n", "all", *THERE), himl("runs", "list", "-q", "-n", "all")
        known, told = listed.stdout.split(), told + submitted.stdout + submitted.stderr
        problems += (
            [] if submitted.code in (0, 5) else [f"submit: exit code {submitted.code}: {submitted.stderr[-200:]}"]
        )
        problems += (
            ["a submission that succeeded has no run"]
            if submitted.code == 0 and submitted.stdout.strip() not in known
            else []
        )
        problems += [f"nobody told of run {run}" for run in known if run not in told]
        problems += ["a run is recorded twice"] if len(known) != len({*known}) else []
        problems += ["the pointers are not those of the runs"] if pointed.stdout.split() != known else []
    return problems


def downloads(himl: Call, box: SshServer, cut: CutSsh, project: Path, dice: random.Random) -> list[str]:
    write_files(project, {"train.py": "print('ran')"})
    run = himl("submit", "train.py", "--cluster", "ssh:box", "--wait", "-q").stdout.strip()
    files: dict[str, str | bytes] = {
        f"{number}.bin": dice.randbytes(dice.choice((10, 100_000, 2_000_000))) for number in range(30)
    }
    write_files(box.home / ".himl" / "runs" / run / "code" / "outputs", files)
    for attempt in range(ATTEMPTS):
        cut.plan(drawn_cuts(dice, min(3, CUTS - cut.cuts)))
        ended = himl("download", run, "--include", "outputs/*", "--output_dir", f"here_{attempt}")
        if ended.code not in (0, 1, 5):
            return [f"download: exit code {ended.code}: {ended.stderr[-200:]}"]
        found = {
            name.rpartition("/")[2]: body
            for name, body in contents(project / f"here_{attempt}").items()
            if "/outputs/" in name and ".himl" not in name
        }
        wrong = [name for name, body in found.items() if files.get(name) != body]
        if wrong or (ended.code == 0 and found.keys() != files.keys()):
            return [f"download: {', '.join(wrong) or 'not all files'}"]
        if cut.cuts >= CUTS:
            cut.forget()
            ended = himl("download", run, "--include", "outputs/*", "--output_dir", f"here_{attempt}")
            return [] if ended.code == 0 else [f"after the cuts: exit code {ended.code}: {ended.stderr[-200:]}"]
    return [f"only {cut.cuts} connections died"]


def follows(himl: Call, box: SshServer, cut: CutSsh, project: Path, dice: random.Random) -> list[str]:
    script = (
        f"import time\nfor number in range({LINES}):\n    print('line', number, 'x' * 200, flush=True)\n"
        "    time.sleep(0.05)\n"
    )
    write_files(project, {"train.py": script})
    problems = list[str]()
    while cut.cuts < CUTS and not problems:
        run = himl("submit", "train.py", "--cluster", "ssh:box", "-q").stdout.strip()
        cut.plan([(way, min(size, 50_000)) for way, size in drawn_cuts(dice, 3)])
        followed = himl("runs", "logs", "--follow", run)
        cut.forget()
        if followed.code == 5 and not followed.stdout:  # the first connection died before the log
            continue
        if followed.code != 0 or followed.stdout.splitlines() != [
            f"line {number} {'x' * 200}" for number in range(LINES)
        ]:
            problems.append(
                f"follow: exit code {followed.code}, {len(followed.stdout.splitlines())} lines: "
                f"{followed.stderr[-200:]}"
            )
    return problems


JUDGES = {"submit": submits, "download": downloads, "follow": follows}
