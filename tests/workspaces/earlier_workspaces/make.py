"""Make `0.1.0.tar.gz` with himl 0.1.0: `python make.py HIML`, where HIML is its program.

The archive has a project with its local workspace, and `said.json`, what that himl says of the runs. Words stand for
the folder of the project and for the interpreter. A checkout of commit 771067be has himl 0.1.0."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing, suppress
from pathlib import Path

ARCHIVE = Path(__file__).with_name("0.1.0.tar.gz")
PROJECT, PYTHON = "/PROJECT-OF-0.1.0", "/PYTHON-OF-0.1.0"

FILES = {
    "train.py": """
import argparse
import os
import sys
from pathlib import Path

from himl_cli import RUN_CONTEXT

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--crossval_index", type=int, default=0)
args, _ = parser.parse_known_args()
for step in range(3):
    RUN_CONTEXT.log("loss", args.lr * (3 - step), step=step)
print("lr", args.lr)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.txt").write_text(f"model of {args.lr}")
if args.lr > 1 and "IS_FIXED" not in os.environ:
    sys.exit("lr is too large")
""",
    "himl.toml": '[submit]\ntag = ["team=blue"]\n',
    "pipeline.json": """
{"step1": {"type": "PythonScriptStep", "name": "first", "script": "train.py",
    "source_directory": ".", "output": "model"},
 "step2": {"type": "PythonScriptStep", "name": "second", "script": "train.py",
     "source_directory": ".", "arguments": "--lr 0.3", "output": "more"}}
""",
}
COMMANDS = {
    "a run": "submit train.py -- --lr 0.5",
    "a failed run": "submit train.py -- --lr 5",
    "a sweep": "submit train.py --sweep lr=0.1,0.2 --primary_metric loss --goal minimize",
    "a cross-validation": "submit train.py --crossval 2",
    "a pipeline": "submit pipeline.json --experiment steps",
    "an archived run": "submit train.py --experiment other",
}


def main(program: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        project, home = Path(place, "project"), Path(place, "home")
        home.mkdir()
        for name, text in FILES.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text.lstrip())
        env = {name: value for name, value in os.environ.items() if not name.startswith("HIML_")} | {"HOME": str(home)}

        def himl(words: str) -> str:
            done = subprocess.run(
                [program, *words.split()], cwd=project, env=env, stdout=subprocess.PIPE, text=True, check=False
            )
            return done.stdout

        runs = {}
        for what, words in COMMANDS.items():
            himl(words)
            runs[what] = (project / "most_recent_run.txt").read_text().partition(":")[2].strip()
        himl(f"runs tag {runs['a run']} best=yes")
        himl(f"runs archive {runs['an archived run']}")
        shown = {what: json.loads(himl(f"runs show {run} --json")) for what, run in runs.items()}
        listed = json.loads(himl("runs list --num_runs all --json"))
        (project / "said.json").write_text(
            json.dumps({"version": himl("--version").strip(), "runs": shown, "list": listed}, indent=1)
        )
        rename(project, str(project), PROJECT)
        rename(project, str(Path(program).with_name("python")), PYTHON)
        with tarfile.open(ARCHIVE, "w:gz") as archive:
            archive.add(project, ".", filter=without_owner)


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def rename(project: Path, old: str, new: str) -> None:
    """Replace the path *old* in the files and in the database of the workspace, as if it had always been *new*."""
    for path in project.rglob("*"):
        with suppress(UnicodeDecodeError):
            if path.is_file() and old in (text := path.read_text(encoding="utf-8")):
                path.write_text(text.replace(old, new), encoding="utf-8")
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as database, database:
        for table, column in (("runs", "folder"), ("runs", "command"), ("tags", "value")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))


if __name__ == "__main__":
    main(sys.argv[1])
