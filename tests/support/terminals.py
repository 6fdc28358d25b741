"""Commands in a separate terminal (POSIX), and a workspace with data for every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, SWEPT, TRIAL, values_text
from tests.support.running import write_files
from tests.support.runs import RecordedRuns
from tests.support.slides import write_kind


class Terminal:
    """A command in a terminal of *columns*. `screen` has its output with colour codes."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, columns: int = 80, env: Mapping[str, str] | None = None
    ) -> None:
        assert sys.platform != "win32"
        import fcntl
        import pty
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment | {"TERM": "xterm-256color"} | dict(env or {}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def screen(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until the command prints *text*. Fails the test after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while text not in self.screen:
            assert time.monotonic() < deadline, f"'{text}' was not printed in {timeout} s:\n{self.screen}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def finish(self, timeout: float = 100) -> int:
        """Wait for the command's end, and return its exit code."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        os.close(self._ours)
        return code

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # on Linux, all writers have closed the terminal
                return
            if not chunk:
                return
            self._chunks.append(chunk)


RUN, FAILED, SWEEP, PIPELINE = (
    "train_1772366400_0a1b2c3d",
    "train_1772366401_1b2c3d4e",
    "search_1772366402_2c3d4e5f",
    "prepare_1772366403_3d4e5f60",
)
OLD = "old_1772366390_4e5f6071"
SCRIPT = "print('epoch 1, loss 0.5')\n"
SAID_OF_A_JOB = ("Snapshot of '", " (experiment train) in ", "Completed in ", "himl left out one file")
LONG_LINE = " ".join(f"word{number}" for number in range(60))


class View(NamedTuple):
    """A command line, a text in its output, and its exit code. `folder` is its folder in the world, `after` an earlier
    command line.

    Without `is_folded`, lines have any length, such as a job's own and values to copy. `said` are parts of lines that
    may also have any length: messages with names, paths or a command to copy are not folded, and the terminal wraps
    them. `is_laid_out`: it has columns that depend on the width, or colours. Other output is the same at any sufficient
    width."""

    arguments: list[str]
    shows: str
    code: int = 0
    folder: str = "."
    is_folded: bool = True
    is_laid_out: bool = True
    said: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


VIEWS = {
    "no arguments": View(["runs"], "Commands:", 2, is_laid_out=False),
    "runs": View(["runs", "list"], PIPELINE[-8:-3]),
    "no runs": View(["runs", "list", "--experiment", "never_heard_of"], "No runs", is_laid_out=False),
    "a run": View(["runs", "show", RUN], "train/loss"),
    "a run that failed": View(["runs", "show", FAILED], "Outcome", is_laid_out=False),
    "a sweep": View(["runs", "show", SWEEP], "Trials: 6 Completed, 1 Failed"),
    "a pipeline": View(["runs", "show", PIPELINE], "Steps", said=("himl submit --resume",)),
    "metrics side by side": View(["runs", "aggregate", SWEEP], "val/accuracy", said=("runs did not complete:",)),
    "metrics of two runs": View(
        ["runs", "aggregate", "--run", f"{RUN},{FAILED}"], "median", said=("runs do not fit.", "runs did not complete:")
    ),
    "two runs": View(["runs", "diff", RUN, FAILED], "FIRST", said=("has no copy of its code",)),
    "code": View(["runs", "code"], "train.py", after=("submit", "train.py")),
    "garbage": View(["gc"], "stored code that no run has"),
    "a log": View(["runs", "logs", RUN], LONG_LINE, is_folded=False, is_laid_out=False),
    "tagged": View(["runs", "tag", RUN, "team=blue"], "Tagged", is_laid_out=False),
    "not canceled": View(["runs", "cancel", RUN], "had already ended", is_laid_out=False, said=("had already ended",)),
    "archived": View(["runs", "archive", RUN], "Archived", is_laid_out=False),
    "exported": View(["runs", "export", RUN, "--to", "run.zip"], "Wrote", is_laid_out=False),
    "imported": View(["runs", "import", "none.zip"], "There is no file", 3, is_laid_out=False),
    "restored": View(["runs", "restore", RUN], "Restored", is_laid_out=False),
    "deleted": View(["runs", "delete", OLD, "--yes"], "Deleted", is_laid_out=False),
    "files": View(["download", RUN, "--list"], "last.ckpt"),
    "files of several runs": View(["download", "--run", f"{RUN},{FAILED}", "--list"], "last.ckpt"),
    "downloaded": View(["download", RUN], "Downloaded 4 files", is_laid_out=False, said=("Downloaded 4 files",)),
    "no such port": View(["ui", "--port", "70000"], "--port must be", 2, is_laid_out=False),
    "event files": View(["tb", RUN, "--sync_only", "--run_logs_dir", "boards"], "FOLDER"),
    "a checkpoint": View(["checkpoint", "fetch", RUN], "last.ckpt", is_laid_out=False, said=("Fetched '",)),
    "pushed": View(
        ["checkpoint", "push", "weights/last.ckpt", "--from", RUN],
        "Start from it",
        is_laid_out=False,
        said=("1 file in run", "Start from it: "),
    ),
    "stored files": View(["datastore", "list"], "digits/train.csv"),
    "uploaded": View(
        ["datastore", "upload", "weights", "weights"], "Uploaded 1 file", is_laid_out=False, said=("Uploaded 1 file",)
    ),
    "stored files here": View(["datastore", "download", "digits", "data"], "Downloaded 2 files", is_laid_out=False),
    "a montage": View(["montage", "slides", "--width", "200"], "2 slides in 2 columns", is_laid_out=False),
    "tiles": View(
        ["tiles", "slides", "--output_path", "tiles"],
        "tiles of 2 slides",
        is_laid_out=False,
        said=("its background is not white",),
    ),
    "set up": View(["init", "--from", "settings.yml"], "Left out:", folder="settings", is_laid_out=False),
    "checks": View(["doctor"], "python"),
    "a workspace": View(["workspace", "show"], "Default datastore", is_folded=False, is_laid_out=False),
    "completion": View(["completion", "bash", "--install", "--yes"], "Wrote", is_laid_out=False, said=("Wrote '",)),
    "a skill": View(["skill", "--install"], "Wrote", is_laid_out=False, said=("Wrote '",)),
    "documents": View(["schema"], "runs aggregate", is_laid_out=False),
    "a job": View(["submit", "train.py"], "epoch 1, loss 0.5", is_laid_out=False, said=SAID_OF_A_JOB),
    "a job beside downloads": View(
        ["submit", "train.py"],
        "epoch 1, loss 0.5",
        is_laid_out=False,
        said=(*SAID_OF_A_JOB, "Not in the snapshot"),
        after=("checkpoint", "fetch", RUN),
    ),
    "settings": View(["submit", "train.py", "--cluster", "gpu", "--description", LONG_LINE, "--show_settings"], "gpu"),
    "an error": View(["runs", "show", f"{RUN}x"], "error: No run", 3, said=("error: ", "hint: ")),
    "a wrong option": View(
        ["runs", "list", "--exprement", "train"], "error: No such option", 2, is_laid_out=False, said=("error: ",)
    ),
}


def make_world(folder: Path) -> None:
    """A project with a script, settings, slides, a datastore, and runs of all kinds."""
    runs = RecordedRuns(folder)
    _add_runs(runs)
    _add_sweep(runs)
    _add_pipeline(runs)
    (folder / "slides").mkdir()
    for number, name in enumerate("ab"):
        write_kind("png", folder / "slides", seed=number, name=name)
    write_files(
        folder,
        {
            "train.py": SCRIPT,
            "weights/last.ckpt": b"w" * 70_000,
            "settings/settings.yml": "variables:\n  subscription_id: 01234567-89ab-cdef-0123-456789abcdef\n"
            "  resource_group: research\n  workspace_name: lab\n"
            "  cluster: gpu\n  model: Lung\n  log_level: INFO\n",
            ".himl/datastores/local/digits/train.csv": "1,2\n" * 5000,
            ".himl/datastores/local/digits/a folder with a long "
            "name/and/another/below/it/validation_images.tar.gz": b"x" * 1_234_567,
        },
    )


def _add_runs(runs: RecordedRuns) -> None:
    text = (
        "A first try with the small data set, to see whether anything is learned at all, before the long runs "
        "of the weekend."
    )
    files: dict[str, str | bytes] = {
        "user_logs/std_log.txt": f"epoch 1\n{LONG_LINE}\n",
        "outputs/checkpoints/last.ckpt": b"c" * 300_000,
        "outputs/checkpoints/epoch=012-val_loss=0.1234567-and-a-rather-long-name.ckpt": b"c" * 200_000,
        "logs/events.out.tfevents.1772366400.host.1.0": b"",
    }
    tags = {"team": "blue", "data": "digits", "note": text}
    runs.add(
        RUN,
        exit_code=0,
        display_name="A rather long display name of a first try",
        command=f"python train.py --lr 0.1 {LONG_LINE}",
        tags=tags,
        files=files,
    )
    points = [
        (name, 0.123456789 / (step + 1), step, step)
        for name in ("train/loss", "val/loss", "val/accuracy_of_the_macro_average_over_all_classes")
        for step in range(3)
    ]
    runs.log(RUN, points, {"lr": "0.1", "name_of_a_parameter_that_is_long_enough": "a value " * 12})
    runs.add(f"{RUN}_child", parent=RUN, display_name="evaluate")
    runs.add(
        FAILED,
        status=RunStatus.failed,
        exit_code=1,
        reason="ValueError: the shapes (3, 224, 224) and (1, 224, 224) do not go together in the first layer",
    )
    runs.add(
        "base_1772366399_00112233",
        experiment="baseline_of_a_longer_name",
        status=RunStatus.canceled,
        tags={"team": "red"},
    )
    runs.add(OLD, experiment="old", display_name="old")


def _add_sweep(runs: RecordedRuns) -> None:
    runs.add(
        SWEEP,
        experiment="search",
        tags={
            MANY: "sweep",
            PRIMARY_METRIC: "val/loss",
            GOAL: "minimize",
            SWEPT: "lr=loguniform(-10,-2) opt=adam,sgd, random",
        },
        exit_code=0,
    )
    for index in range(7):
        values = {
            "lr": 0.0123456789 * (index + 1),
            "opt": "adam" if index % 2 else "sgd",
            "dropout": index / 10,
            "encoder": "densenet121",
        }
        trial = f"{SWEEP}_{index}"
        status = RunStatus.failed if index == 3 else RunStatus.completed
        runs.add(
            trial,
            experiment="search",
            parent=SWEEP,
            status=status,
            tags={HYPERPARAMETERS: json.dumps(values), TRIAL: str(index)},
            display_name=values_text(values),
        )
        if index != 3:
            runs.log(
                trial,
                [
                    ("val/loss", abs(index - 2.25), 1, 2),
                    ("val/accuracy", 0.9 / (index + 1), 1, 2),
                    ("train/loss", 1.0, 1, 2),
                ],
            )


def _add_pipeline(runs: RecordedRuns) -> None:
    runs.add(PIPELINE, experiment="prepare", tags={MANY: "pipeline"}, status=RunStatus.failed)
    for key, after in {
        "fetch": "",
        "resize": "fetch",
        "normalise the colours": "fetch",
        "train": "resize,normalise the colours",
    }.items():
        status = RunStatus.failed if key == "train" else RunStatus.completed
        runs.add(
            f"{PIPELINE}_{key[:3]}",
            experiment="prepare",
            parent=PIPELINE,
            display_name=key,
            status=status,
            tags={STEP: key, STEP_AFTER: after},
        )
