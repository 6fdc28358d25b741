"""What a job runs on: its interpreter, the installed packages with their versions, and the machine. himl reads files
that installers and the system leave, and starts no process of the job's environment."""

from __future__ import annotations

import os
import platform
import re
import site
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from himl_cli.core.records import dataclass

_PACKAGES = ("lib*/{}/site-packages", "lib/{}/dist-packages", "local/lib/{}/dist-packages", "Lib/site-packages")
SECONDS_TO_ASK = 10.0
NOT_LISTED = "Azure ML stores the files of an environment, not its packages"


@dataclass(frozen=True)
class RunEnvironment:
    """What a run ran on. Empty fields are unknown.

    `python` is the path of the interpreter, `version` that of Python, `packages` the versions of the installed packages
    by their normalized names (None if they are unknown, for the reason in `problem`), and `machine` has facts such as
    `cpu` by name. On Azure ML, `name` is the registered environment, `image` its Docker image, and `conda` the text of
    its Conda file. `changes` is the diff of the code against its commit, or `Unknown: ` and the reason.
    """

    python: str = ""
    version: str = ""
    packages: Mapping[str, str] | None = None
    problem: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    image: str = ""
    conda: str = ""
    changes: str = ""


def environment_of(python: str, path: str = "") -> RunEnvironment:
    """The interpreter *python* and this machine. *path* is the job's PYTHONPATH."""
    machine = machine_facts()
    if not os.path.isfile(python):
        return RunEnvironment(python, problem="this machine does not have the interpreter", machine=machine)
    installed = [*package_folders(python)]
    if not installed:
        return RunEnvironment(python, problem="the folders of the interpreter's packages are unknown", machine=machine)
    folders = [*map(Path, filter(os.path.isabs, path.split(os.pathsep))), *installed]
    return RunEnvironment(python, _version_of(python, installed), packages_in(folders), machine=machine)


def packages_in(folders: Iterable[Path]) -> dict[str, str]:
    """The versions of the packages in *folders* of Python's path by their normalized names, sorted. The first folder
    with a package counts. Packages of conda that are none of Python are included."""
    found: dict[str, str] = {}
    prefixes = dict[Path, None]()
    for folder in folders:
        prefixes |= dict.fromkeys(each for each in folder.parents[1:3] if (each / "conda-meta").is_dir())
        with suppress(OSError):
            for name in sorted(os.listdir(folder)):
                stem, _, ending = name.rpartition(".")
                if ending in ("dist-info", "egg-info"):
                    project, _, version = stem.partition("-")
                    found.setdefault(normalized_name(project), version.partition("-")[0] or _stated(folder / name))
    for prefix in prefixes:
        for path in (prefix / "conda-meta").glob("*-*-*.json"):
            project, version, _ = path.name.rsplit("-", 2)
            found.setdefault(normalized_name(project), version)
    return dict(sorted(found.items()))


def normalized_name(project: str) -> str:
    """The name of a package in the form that indexes use."""
    return re.sub(r"[-_.]+", "-", project).lower()


def _stated(place: Path) -> str:
    """The version in the metadata at *place*, a folder or a file, or an empty text."""
    with suppress(OSError):
        path = place / "PKG-INFO" if place.is_dir() else place
        stated = re.search(r"^Version: *(\S+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return stated[1] if stated else ""
    return ""


def package_folders(python: str) -> Iterator[Path]:
    """The folders of packages of the interpreter *python*: those of its environment, by their usual places, or else
    those that it names."""
    program, real = Path(python), Path(os.path.realpath(python))
    found = _usual_folders(program, real)
    if not found:
        import subprocess  # imported late, since few commands need it

        with suppress(OSError, subprocess.SubprocessError):
            question = [python, "-c", "import sys; print(*sys.path, sep='\\n')"]
            answer = subprocess.run(question, capture_output=True, text=True, timeout=SECONDS_TO_ASK, check=True).stdout
            found = [Path(line) for line in answer.splitlines() if line.endswith("-packages")]
    yield from (folder for folder in dict.fromkeys(map(Path.resolve, found)) if folder.is_dir())


def _prefix_of(program: Path) -> Path:
    return program.parent.parent if program.parent.name.lower() in ("bin", "scripts") else program.parent


def _config_of(program: Path) -> str:
    """The settings of the virtual environment of *program*, or an empty text."""
    with suppress(OSError, ValueError):
        return (_prefix_of(program) / "pyvenv.cfg").read_text(encoding="utf-8")
    return ""


def _usual_folders(program: Path, real: Path) -> list[Path]:
    prefixes: Sequence[Path] = [_prefix_of(program)]
    config = _config_of(program)
    if not config or re.search(r"^include-system-site-packages\s*=\s*true", config, re.MULTILINE | re.IGNORECASE):
        prefixes = [*prefixes, _prefix_of(real), Path(site.getuserbase())]
    version = re.search(r"python\d+\.\d+", real.name)
    names = [version[0], version[0].partition(".")[0]] if version else ["python3*"]
    patterns = dict.fromkeys(pattern.format(name) for pattern in _PACKAGES for name in names)
    return [folder for prefix in prefixes for pattern in patterns for folder in prefix.glob(pattern)]


def _version_of(python: str, folders: Sequence[Path]) -> str:
    """The version of the interpreter, as its environment states it, else as its folders are called."""
    real = os.path.realpath(python)
    if real == os.path.realpath(sys.executable):
        return platform.python_version()
    stated = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", _config_of(Path(python)), re.MULTILINE)
    names = [path.name for path in (Path(real).parent.parent / "conda-meta").glob("python-3.*.json")]
    named = re.search(r"python-?(3\.\d[\d.]*)", " ".join([*names, os.path.basename(real), *map(str, folders)]))
    return stated[1] if stated else named[1] if named else ""


def machine_facts() -> dict[str, str]:
    """The name, system, processor and memory of this machine, as far as they are known."""
    found, cpu = {"host": platform.node(), "os": f"{platform.system()} {platform.release()}"}, ""
    with suppress(OSError, AttributeError):
        release = platform.freedesktop_os_release()
        found["os"] = f"{release.get('PRETTY_NAME', '')} ({found['os']})"
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found["cpu"] = cpu or platform.processor()  # which starts a program on Linux
    with suppress(OSError, ValueError):
        if hasattr(os, "sysconf"):  # not on Windows
            found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    found["cpus"] = str(os.cpu_count() or "")
    return {name: value for name, value in found.items() if value}
