"""Where the completion script of a shell goes, and how the shell comes to load it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import DiskFailed, NotFound
from himl_cli.core.whole_file import write_whole

PATIENCE = 20.0
"""Seconds that a shell has to start and to answer."""
MARK = "# completion of himl"


@dataclass(frozen=True)
class Place:
    """Where the `script` goes; `start_file` is the shell's own one that has to hold `line`, or None where the shell finds the script by itself."""

    script: Path
    start_file: Path | None = None
    line: str = ""

    @property
    def is_loaded(self) -> bool:
        """Whether new shells load the script, once it is there."""
        return self.start_file is None or self.line in _text_of(self.start_file).splitlines()


def place_of(shell: str, home: Path, variables: Mapping[str, str]) -> Place:
    """Where the script for *shell* goes on this machine; the shell is asked, where only it knows. Raises NotFound for a PowerShell that is not there."""
    if shell == "fish":
        return Place(_folder(variables, "XDG_CONFIG_HOME", home / ".config") / "fish" / "completions" / "himl.fish")
    if shell == "powershell":
        return _powershell_place()
    return _bash_place(home, variables) if shell == "bash" else _zsh_place(home)


def write_script(place: Place, text: str) -> None:
    """Put *text* where the script goes. Raises DiskFailed."""
    try:
        place.script.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place.script, text)
    except OSError as err:
        raise DiskFailed(f"Cannot write '{place.script}': {err.strerror or err}.", hint="'himl completion SHELL' prints the script.") from err


def add_line(place: Place) -> None:
    """Put the line at the end of the shell's own file, unless it is there. Raises DiskFailed."""
    if place.is_loaded or place.start_file is None:
        return
    text = _text_of(place.start_file)
    try:
        place.start_file.parent.mkdir(parents=True, exist_ok=True)
        with place.start_file.open("a", encoding="utf-8") as stream:
            stream.write(f"{'' if not text or text.endswith(chr(10)) else chr(10)}{place.line}\n")
    except OSError as err:
        raise DiskFailed(f"Cannot write '{place.start_file}': {err.strerror or err}.", hint=f"Add this line to it: {place.line}") from err


def _bash_place(home: Path, variables: Mapping[str, str]) -> Place:
    """The folder in which bash-completion looks; where Bash is started without that, its own file has to load the script."""
    folder = _folder(variables, "BASH_COMPLETION_USER_DIR", _folder(variables, "XDG_DATA_HOME", home / ".local" / "share") / "bash-completion")
    script = folder / "completions" / "himl"
    if _asked(["bash", "-i", "-c", 'echo "<${BASH_COMPLETION_VERSINFO-}>"']).endswith(("<2>", "<3>")):
        return Place(script)
    return Place(script, home / ".bashrc", f". {_quoted(script)} {MARK}")


def _zsh_place(home: Path) -> Place:
    """A folder of our own; unless zsh has it in its fpath and starts its completion system, `.zshrc` has to load the script."""
    script = home / ".zfunc" / "_himl"
    told = _asked(["zsh", "-i", "-c", 'print -r -- "<${+functions[compdef]}>${(j.:.)fpath}:<${ZDOTDIR:-$HOME}>"'])
    has_system, _, rest = told.rpartition("\n")[2].removeprefix("<").partition(">")
    folders, _, dot_folder = rest.removesuffix(">").rpartition(":<")
    if has_system == "1" and str(script.parent) in folders.split(":"):
        return Place(script)
    line = f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}; source {_quoted(script)} {MARK}"
    return Place(script, (Path(dot_folder) if dot_folder else home) / ".zshrc", line)


def _powershell_place() -> Place:
    for program in ("pwsh", "powershell"):
        profile = _asked([program, "-NoProfile", "-NonInteractive", "-Command", "$PROFILE"])
        if profile:
            script = Path(profile).with_name("himl-completion.ps1")
            quoted = str(script).replace("'", "''")
            return Place(script, Path(profile), f". '{quoted}' {MARK}")
    raise NotFound("There is no PowerShell on PATH.", hint="'himl completion powershell' prints the script, for your $PROFILE to load.")


def _folder(variables: Mapping[str, str], name: str, default: Path) -> Path:
    return Path(variables[name]) if variables.get(name) else default


def _asked(command: Sequence[str]) -> str:
    """The last line that a shell prints, without blanks around it; nothing where it is not there or does not answer."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    with tempfile.TemporaryFile() as told:  # and no pipe, which what its start files leave running would hold open
        try:
            subprocess.run(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.DEVNULL, timeout=PATIENCE, start_new_session=True, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        told.seek(0)
        lines = os.fsdecode(told.read()).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _text_of(path: Path) -> str:
    """The text of a file, whatever its encoding; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _quoted(path: Path) -> str:
    """As Bash and zsh read it."""
    return "'" + str(path).replace("'", "'\\''") + "'"
