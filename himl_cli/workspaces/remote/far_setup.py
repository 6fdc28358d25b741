"""The program that `himl init --ssh` sends to another machine, where himl is not installed yet: it makes a virtual
environment, and installs the wheels that follow it on stdin. It imports the standard library only.

stdin has a line of JSON (`digest` of the wheel of himl, and `files`: names and sizes), and then the bytes of the files.
Without files, the program changes nothing, and looks for the `programs`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ANSWER_MARK = "himl-setup: "  # before the answer, which has an `error`, or whether himl of the digest `is_installed`
# Prints what `pip download` needs for this machine
FACTS = """
import json, sys
from pip._vendor.packaging import markers, tags
of_markers = markers.default_environment()
print(json.dumps({"tags": [*tags.platform_tags()], "markers": of_markers, "python": [*sys.version_info[:2]]}))
"""
# pip 23 on Python 3.10 cannot read the markers of himl's extras
NEW_PIP = "import pip, sys; sys.exit(sys.version_info < (3, 11) and int(pip.__version__.partition('.')[0]) < 24)"


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    try:
        answer = set_up(asked, Path.home() / ".cache" / "himl" / "ssh")
    except (OSError, subprocess.SubprocessError, ImportError) as err:
        said = getattr(err, "strerror", None) or str(err)
        answer = {"error": f"{said}: '{name}'" if (name := getattr(err, "filename", None)) else said}
    print(ANSWER_MARK + json.dumps(answer), flush=True)  # noqa: T201  # the answer of a program


def set_up(asked: dict[str, Any], place: Path) -> dict[str, Any]:
    """Make the environment in *place*, and install the files in it, unless it has himl of this digest. Raises OSError
    and others."""
    python, mark = place / "bin" / "python", place / "himl.digest"
    if not asked["files"]:
        is_installed = mark.exists() and mark.read_text() == asked["digest"] and _runs(python, "import himl_cli")
        free, version = shutil.disk_usage(Path.home()).free, sys.version.split()[0]
        lacking = [name for name in asked["programs"] if shutil.which(name) is None]
        return {"is_installed": is_installed, "free": free, "python": version, "lacking": lacking}
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_suffix(".lock").open("w")
    if sys.platform != "win32":  # where this file is only read
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)  # until the end of this process, since an earlier one may still run pip
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="wheels-") as folder:
        wheels = [Path(folder, os.path.basename(name)) for name, _ in asked["files"]]
        for path, (_, size) in zip(wheels, asked["files"], strict=True):
            with path.open("wb") as target:
                while size and (piece := sys.stdin.buffer.read(min(size, 1 << 20))):
                    target.write(piece)
                    size -= len(piece)
            if size:
                raise OSError("the connection ended before all files had arrived")
        if not _runs(python, "import pip, venv"):
            import venv

            venv.create(place, clear=True, with_pip=True)
        mark.unlink(missing_ok=True)
        pip = [str(python), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
        # Wheels that came with that of himl are those of its dependencies, for a machine without internet
        source = ["--no-index", f"--find-links={folder}"] if len(wheels) > 1 else ["--retries=1", "--timeout=15"]
        steps = [[str(wheels[0])]]
        if [*place.glob("lib/python*/site-packages/himl_cli")]:
            steps = [["--no-deps", "--force-reinstall", str(wheels[0])], *steps]
        if not _runs(python, NEW_PIP):
            steps = [["--upgrade", "pip"], *steps]
        for step in steps:
            done = subprocess.run([*pip, *source, *step], capture_output=True, text=True)
            if done.returncode:
                lines = [line.strip() for line in done.stderr.splitlines()] or ["no message"]
                errors = [line[7:] for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
                facts = subprocess.run([str(python), "-I", "-c", FACTS], capture_output=True, text=True, check=True)
                return {"said": (errors or lines[-1:])[0], "facts": json.loads(facts.stdout)}
    mark.write_text(asked["digest"])
    return {"is_installed": True}


def _runs(python: Path, code: str) -> bool:
    if not python.exists():
        return False
    return subprocess.run([str(python), "-I", "-c", code], capture_output=True).returncode == 0


if __name__ == "__main__":
    main()
