"""Measure `himl submit --cluster slurm:NAME`, next to sbatch, submitit and Hydra's launcher, on a real Slurm on this
machine.

It times commands until they return, with jobs that are held for an hour, and until jobs that print a line end. Hydra's
launcher supports only the latter. Requests are calls of Slurm's programs (`ASKING`) that contact the controller
(`sbatch --help` does not), including those of the jobs. Finally, it lists many open runs."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import HIML, PROGRAMS, clean_environment, new_parser, peer_python, recording, spend, turns
from benchmarks.raw import Raw
from tests.support.clients import SUBMITIT
from tests.support.running import until
from tests.support.slurm import Slurm, running_cluster

ASKING = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
OURS, LIST, SBATCH, HYDRA = "himl submit", "himl runs list", "sbatch", "Hydra's launcher"
TRIALS, AT_ONCE = 100, 8
HELD = "begin=now+1hour"
Commands = Mapping[str, Sequence[str]]


@dataclass
class Bench:
    record: Raw
    slurm: Slurm
    folder: Path

    def environment(self) -> dict[str, str]:
        return {**clean_environment(), "PATH": f"{self.slurm.programs}{os.pathsep}{os.environ['PATH']}"}

    def measure(
        self, scenario: str, commands: Commands, rounds: int, *, left: int, unmeasured: int = 0, keep: bool = False
    ) -> None:
        """Time *commands* in turns. Each leaves *left* jobs in the queue, which are then canceled, unless *keep* is
        set.
        """
        for number, name in turns(commands, rounds + unmeasured):
            self.slurm.calls.write_text("")
            spent = spend(commands[name], self.environment(), self.folder)
            calls = [line.split()[0] for line in self.slurm.calls.read_text().splitlines() if "--help" not in line]
            self.wait_for(left)
            if number > unmeasured:
                self.record.add(
                    scenario,
                    name,
                    number - unmeasured,
                    wall=spent["wall"],
                    requests=sum(calls.count(program) for program in ASKING),
                )
            if left and not keep:
                self.empty()

    def wait_for(self, left: int) -> None:
        def in_queue() -> int:
            return len(self.slurm("squeue", "--noheader", "--array").splitlines())

        until(lambda: in_queue() == left, lambda: f"{left} jobs are in the queue (now {in_queue()})")

    def empty(self) -> None:
        self.slurm("scancel", "--user", getpass.getuser())
        self.wait_for(0)


def candidates(folder: Path, python: str, trials: int, *, held: bool) -> dict[str, list[str]]:
    """The commands that send *trials* jobs from *folder*. The others write beside it, since himl takes each file of the
    folder into the snapshot of each trial."""
    is_many, how = trials > 1, "held" if held else "wait"
    ours = [
        HIML,
        "submit",
        "job.py",
        "--cluster",
        "slurm:gpu",
        "--quiet",
        *(["--sbatch", HELD] if held else ["--wait"]),
    ]
    array = ["--array", f"0-{trials - 1}%{AT_ONCE}"] if is_many else []
    sweep = ["--sweep", f"x={','.join(map(str, range(trials)))}", "--max_concurrent", str(AT_ONCE)] if is_many else []
    found = {
        SBATCH: [
            "sbatch",
            "--partition=gpu",
            "--output=/dev/null",
            *array,
            f"--{HELD}" if held else "--wait",
            "job.sh",
        ],
        OURS: [*ours, *sweep],
    }
    if python:
        found[SUBMITIT] = [python, PROGRAMS, "submitit", f"{folder}-submitit", str(trials), how]
    if python and not held:
        launcher = [f"hydra.launcher.{name}" for name in ("partition=gpu", f"array_parallelism={AT_ONCE}")]
        launcher.append(f"hydra.sweep.dir={folder}-hydra/${{now:%H-%M-%S}}")
        values = f"+x={f'range({trials})' if is_many else 0}"
        found[HYDRA] = [python, PROGRAMS, "hydra", "--multirun", "hydra/launcher=submitit_slurm", *launcher, values]
    return found


if __name__ == "__main__":
    parser = new_parser(__doc__, 7)
    parser.add_argument("--open", type=int, default=500, metavar="NUMBER", help="number of open runs to list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, recording("slurm", args.raw) as record:
        project, many, state = (Path(name, one) for one in ("project", "many", "slurm"))
        for folder in (project, many, state):
            folder.mkdir()
            (folder / "job.py").write_text("print('done')\n")
        (project / "job.sh").write_text(f"#!/bin/sh\nexec {sys.executable} job.py\n")
        python = peer_python(record, SUBMITIT, SUBMITIT, "submitit", "hydra-core", "hydra-submitit-launcher")
        if not python:
            record.leave_out(HYDRA, record.meta["missing"][SUBMITIT])
        with running_cluster(state) as slurm:
            record.name_peers(slurm=slurm("sbatch", "--version").split()[-1])
            bench = Bench(record, slurm, project)
            for trials, label, rounds in ((1, "a job", args.rounds), (TRIALS, f"{TRIALS} trials", min(args.rounds, 3))):
                for held, time in ((True, "until the command returns"), (False, "until all have ended")):
                    commands, unmeasured = candidates(project, python, trials, held=held), int(trials == 1)
                    bench.measure(
                        f"{label}, {time}", commands, rounds, left=trials if held else 0, unmeasured=unmeasured
                    )
            send = [HIML, "submit", "job.py", "--cluster", "slurm:gpu", "--quiet", "--sbatch", HELD]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda _: spend(send, bench.environment(), many), range(args.open)))
            looks = {
                "squeue": ["squeue", "--me"],
                LIST: [HIML, "runs", "list"],
                f"{LIST} --num_runs all": [HIML, "runs", "list", "--num_runs", "all"],
            }
            Bench(record, slurm, many).measure(
                f"{args.open} open runs", looks, args.rounds, left=args.open, unmeasured=1, keep=True
            )
