"""The installation of himl on another machine: a virtual environment there, with the himl that runs here."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Timer
from typing import IO, cast

import msgspec
from packaging.requirements import Requirement

from himl_cli.core.errors import BadUsage, DiskFailed, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.installation import PACKAGE, packed_wheel
from himl_cli.core.records import dataclass
from himl_cli.workspaces.remote import far_setup
from himl_cli.workspaces.remote.address import INSTALLED, RemoteAddress
from himl_cli.workspaces.remote.connection import (
    LOGIN_SECONDS,
    ChannelClosed,
    NotConnected,
    error_of_ssh,
    last_line,
    started_ssh,
)

# Prints the first Python from 3.10 on that can make environments, else the reasons against each. Programs that a login
# shell would find, such as those of conda, are often not on the PATH of a command
FIND = r"""
for python in PYTHONS; do
    found=$(command -v "$python") || continue
    "$found" -I -c '
import sys
name, version = sys.argv[1], sys.version.split()[0]
try:
    import ensurepip, venv
    lacks = ""
except ImportError:
    lacks = "has no venv"
lacks = lacks if sys.version_info >= (3, 10) else "is older than 3.10"
print("himl-python", name, version, lacks, sep="\t")
sys.exit(bool(lacks))
' "$found" 2>/dev/null && exit 0
done
exit 0
"""
USUAL = """python3 python3.14 python3.13 python3.12 python3.11 python3.10 python "$HOME"/miniforge3/bin/python
"$HOME"/miniconda3/bin/python "$HOME"/mambaforge/bin/python "$HOME"/anaconda3/bin/python /opt/conda/bin/python
"$HOME"/.local/bin/python3 "$HOME"/.local/share/uv/python/*/bin/python3 /usr/local/bin/python3"""


INSTALL_SECONDS = 3600.0
FULL = "No space|quota"  # in the messages of pip


@dataclass(frozen=True)
class Installed:
    """himl on another machine: whether this call installed it, and the version and path of the Python that it uses."""

    is_new: bool
    version: str
    python: str


@dataclass(frozen=True)
class FarFacts:
    """What `pip download` needs for another machine: the tags of its platform, the variables of its markers, and the
    version of its Python."""

    tags: Sequence[str]
    markers: Mapping[str, str]
    python: tuple[int, int]


@dataclass(frozen=True)
class FarAnswer:
    """The answer of `far_setup`: whether himl is installed, or what pip *said* and the *facts* of the machine, or an
    *error*. Without files, also the free bytes of the home folder, the version of Python, and the lacking programs."""

    is_installed: bool = False
    said: str = ""
    facts: FarFacts | None = None
    error: str = ""
    free: int = 0
    python: str = ""
    lacking: Sequence[str] = ()


def install(address: RemoteAddress, python: str | None, notify: Notify) -> Installed:
    """Install the himl that runs here at *address*, unless it is there, with *python* or one that himl finds there.

    What has been installed before an error stays for the next call. Raises BadUsage if there is no Python that himl can
    use, DiskFailed, ServiceFailed, and the errors of ssh.
    """
    if address.himl_python != INSTALLED:
        text = f"The settings name a Python with himl at '{address.host}': '{address.himl_python}'."
        raise BadUsage(text, hint="Remove himl_python from the table, so that himl installs itself there.")
    path, version = find_python_there(address, python)
    with TemporaryDirectory(prefix="himl-") as folder:
        wheel = packed_wheel(Path(folder))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if set_up(address, path, digest, []).is_installed:
            return Installed(False, version, path)
        notify(Notice(f"Installing himl at '{address.host}' with Python {version} ({path})."))
        answer = set_up(address, path, digest, [wheel])
        if answer.facts is not None and not re.search(FULL, answer.said):
            notify(
                Notice(f"pip at '{address.host}' says: {answer.said.rstrip('.')}. himl brings the packages from here.")
            )
            wheels = _downloaded(answer.facts, Path(folder, "wheels"), address.host)
            answer = set_up(address, path, digest, [wheel, *wheels])
        if not answer.is_installed:
            kind = DiskFailed if re.search(FULL, answer.said) else ServiceFailed
            raise kind(f"pip cannot install himl at '{address.host}': {answer.said}", hint="Run the command again.")
    return Installed(True, version, path)


def find_python_there(address: RemoteAddress, python: str | None) -> tuple[str, str]:
    """The path and version of *python*, or of a Python that himl finds there. Raises BadUsage if it cannot be used, and
    the errors of ssh."""
    script = FIND.replace("PYTHONS", " ".join(USUAL.split()) if python is None else _word(python))
    with _process(address, "exec /bin/sh -s") as process:
        said = process.communicate(script.encode())[0].decode(errors="replace")
    found = re.findall(r"^himl-python\t(.+)\t(\S+)\t(.*)$", said, re.MULTILINE)
    if found and not found[-1][2]:
        return found[-1][0], found[-1][1]
    host, again = address.host, f"himl init --ssh {shlex.quote(address.name)} --python PATH"
    reasons = "; ".join(f"'{path}' ({version}) {lacks}" for path, version, lacks in dict.fromkeys(found))
    if any(lacks == "has no venv" for _, _, lacks in found):
        hint = f"Install it there: sudo apt install python3-venv. Or name another Python: {again}"
    else:
        hint = f"Install one there, or name it: {again}"
    what = f"There is no Python '{python}' at '{host}'" if python else f"There is no Python from 3.10 on at '{host}'"
    raise BadUsage(f"No Python at '{host}' can run himl: {reasons}." if found else f"{what}.", hint=hint)


def _word(path: str) -> str:
    """*path* as a word of sh, where `~/` begins at the home folder there."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def set_up(
    address: RemoteAddress, python: str, digest: str, files: Sequence[Path], programs: Sequence[str] = ()
) -> FarAnswer:
    """The answer of `far_setup` there. Raises DiskFailed, ServiceFailed and the errors of ssh."""
    program = Path(far_setup.__file__).read_bytes()
    code = "import sys; exec(sys.stdin.buffer.read(int(sys.argv[1])).decode())"
    sizes = [[path.name, path.stat().st_size] for path in files]
    form = {"digest": digest, "files": sizes, "programs": programs}
    command = f"exec {shlex.quote(python)} -I -c {shlex.quote(code)} {len(program)}"
    try:
        with _process(address, command, INSTALL_SECONDS if files else LOGIN_SECONDS) as process:
            stdin = cast("IO[bytes]", process.stdin)
            with suppress(BrokenPipeError):  # the end of the process explains it
                stdin.write(program + json.dumps(form).encode() + b"\n")
                for path in files:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, stdin, 1 << 20)
            said = process.communicate()[0].decode(errors="replace")
    except NotConnected as err:  # ssh connected for an earlier step
        hint = "Run the command again. Installed packages stay."
        raise ChannelClosed(f"The connection to '{address.host}' was lost.", hint=hint) from err
    lines = [line for line in said.splitlines() if line.startswith(far_setup.ANSWER_MARK)]
    if not lines:
        text = f"'{python}' at '{address.host}' ended with exit code {process.returncode}"
        raise ServiceFailed(f"{text} while it installed himl.", hint="Run the command again.")
    try:
        answer = msgspec.json.decode(lines[-1].removeprefix(far_setup.ANSWER_MARK), type=FarAnswer)
    except msgspec.MsgspecError as err:
        raise ServiceFailed(f"'{python}' at '{address.host}' sent an invalid answer: {err}.") from err
    if answer.error:
        hint = f"Make the home folder there writable, with about 400 MB: ssh {address.host}"
        raise DiskFailed(f"Cannot install himl at '{address.host}': {answer.error}.", hint=hint)
    return answer


@contextmanager
def _process(address: RemoteAddress, command: str, seconds: float = LOGIN_SECONDS) -> Iterator[subprocess.Popen[bytes]]:
    """A command at *address*, which ends after *seconds*, and whose errors of ssh are raised at the end."""
    with TemporaryFile() as errors:
        with started_ssh(address.host, command, errors) as process:
            timer = Timer(seconds, process.kill)
            timer.daemon = True
            timer.start()
            try:
                yield process
                process.communicate()
            finally:
                is_late = timer.finished.is_set()
                timer.cancel()
        said = f"it did not answer within {seconds:.0f} seconds" if is_late else last_line(errors)
        error = error_of_ssh(address.host, process.returncode, said)
        if error is not None:
            raise error


def _downloaded(facts: FarFacts, folder: Path, host: str) -> Sequence[Path]:
    """The wheels of the packages that himl needs on a machine with these *facts*. Raises ServiceFailed."""
    major, minor = facts.python
    # pip reads the markers of this machine, so that some packages would be missing
    needed = [Requirement(line) for line in requires(PACKAGE) or ()]
    wanted = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": "", **facts.markers})]
    for each in wanted:
        each.marker = None
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--only-binary=:all:", f"--python-version={major}.{minor}", f"--dest={folder}", "--implementation=cp"]
    command += [f"--abi={abi}" for abi in (f"cp{major}{minor}", "abi3", "none")]
    command += [f"--platform={tag}" for tag in [*facts.tags, "any"]]
    if (major, minor) < (3, 11):
        wanted.append(Requirement("pip"))  # `far_setup` may have to update it
    done = subprocess.run([*command, *map(str, wanted)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1]).replace("ERROR: ", "")
        text = f"'{host}' cannot download packages, and neither can pip here: {said}"
        raise ServiceFailed(text, hint="Check the internet connection, or the settings of pip, at one of both.")
    return sorted(folder.glob("*.whl"))
