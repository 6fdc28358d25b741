"""Installation of a shell's completion script, and of the line that loads it."""

from __future__ import annotations

import codecs
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import DiskFailed, NotFound
from himl_cli.core.files import home_folder, write_atomic
from himl_cli.core.processes import detached, end_detached
from himl_cli.core.records import dataclass
from himl_cli.core.text import UTF16_MARKS

PATIENCE = 20.0  # seconds for a shell to start and answer
MARK = "# completion of himl"
# Without the folder's name, because Windows PowerShell misreads non-ASCII letters in some files
POWERSHELL_LINE = f'. "$PSScriptRoot/himl-completion.ps1" {MARK}'
ASK_POWERSHELL = "[Console]::OutputEncoding = New-Object Text.UTF8Encoding $false; $PROFILE"


@dataclass(frozen=True)
class ScriptPlace:
    """The path of the `script`. `start_file` is the shell's startup file that must contain `line`, or None if the shell
    finds the script without it."""

    script: Path
    start_file: Path | None = None
    line: str = ""

    @property
    def is_loaded(self) -> bool:
        """Whether new shells load the script once it exists."""
        try:
            return self.start_file is None or self.line in _text_of(self.start_file.read_bytes()).splitlines()
        except OSError:
            return False


def place_of(shell: str, variables: Mapping[str, str], *, patience: float = PATIENCE) -> ScriptPlace:
    """The place of the script for *shell* on this machine. If necessary, start the shell to find it, for at most
    *patience* seconds.

    Raises NotFound without PowerShell or without a home folder.
    """
    if shell == "powershell":
        programs = [program for program in ("pwsh", "powershell") if shutil.which(program)]
        for program in programs:
            profile = _last_line_of([program, "-NoProfile", "-NonInteractive", "-Command", ASK_POWERSHELL], patience)
            if profile:
                return ScriptPlace(Path(profile).with_name("himl-completion.ps1"), Path(profile), POWERSHELL_LINE)
        what = "PowerShell does not print the path of its $PROFILE." if programs else "There is no PowerShell on PATH."
        raise NotFound(what, hint="To load it from your $PROFILE, print the script: himl completion powershell")
    home = home_folder()
    if home is None:
        raise NotFound(
            "The script needs a home folder, but this user has none.",
            hint=f"Set HOME, or print the script: himl completion {shell}",
        )
    if shell == "fish":
        config = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
        return ScriptPlace(config / "fish" / "completions" / "himl.fish")
    if shell == "bash":
        # The folder that bash-completion searches. If Bash starts without bash-completion, `.bashrc` loads the script.
        data = Path(variables.get("XDG_DATA_HOME") or home / ".local" / "share")
        folder = Path(variables.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion")
        script = folder / "completions" / "himl"
        version = _last_line_of(["bash", "-i", "-c", 'echo "<${BASH_COMPLETION_VERSINFO-}>"'], patience)
        if version.endswith(("<2>", "<3>")):
            return ScriptPlace(script)
        return ScriptPlace(script, home / ".bashrc", f". {_quoted(script)} {MARK}")
    # himl's own folder. Unless it is in zsh's fpath and zsh starts its completion system, `.zshrc` loads the script.
    script = home / ".zfunc" / "_himl"
    question = 'print -r -- "<${+functions[compdef]}>${(j.:.)fpath}:<${ZDOTDIR:-$HOME}>"'
    answer = _last_line_of(["zsh", "-i", "-c", question], patience)
    has_system, _, rest = answer.removeprefix("<").partition(">")
    folders, _, dot_folder = rest.removesuffix(">").rpartition(":<")
    if has_system == "1" and str(script.parent) in folders.split(":"):
        return ScriptPlace(script)
    line = f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}; source {_quoted(script)} {MARK}"
    return ScriptPlace(script, Path(dot_folder or home) / ".zshrc", line)


def write_script(place: ScriptPlace, text: str) -> None:
    """Write *text* to the script. Raises DiskFailed."""
    try:
        place.script.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place.script, text)
    except OSError as err:
        raise DiskFailed(
            f"Cannot write '{place.script}': {err.strerror or err}.", hint="Print the script: himl completion SHELL"
        ) from err


def add_line(place: ScriptPlace) -> None:
    """Append the line to the shell's startup file, in that file's encoding, unless it is already there. Raises
    DiskFailed."""
    if place.is_loaded or place.start_file is None:
        return
    try:
        place.start_file.parent.mkdir(parents=True, exist_ok=True)
        with place.start_file.open("a+b") as stream:
            stream.seek(0)
            content = stream.read()
            text = _text_of(content)
            newline = "\r\n" if "\r\n" in text else "\n" if "\n" in text else os.linesep
            before = "" if not text or text.endswith("\n") else newline
            stream.write(f"{before}{place.line}{newline}".encode(*_encoding_of(content)))
    except OSError as err:
        raise DiskFailed(
            f"Cannot write '{place.start_file}': {err.strerror or err}.", hint=f"Add this line to it: {place.line}"
        ) from err


def _last_line_of(command: Sequence[str], patience: float) -> str:
    """The last line that a shell prints, stripped, or an empty text if the shell is missing or does not answer."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    with (
        tempfile.TemporaryFile() as output
    ):  # a pipe would stay open for processes that its startup files leave running
        try:
            process = subprocess.Popen(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                **detached(),
            )
        except OSError:
            return ""
        try:
            process.wait(patience)
            output.seek(0)
            lines = os.fsdecode(output.read()).strip().splitlines()
        except (subprocess.TimeoutExpired, UnicodeDecodeError):  # the latter only on Windows
            return ""
        finally:
            if process.returncode is None:
                end_detached(process)
    return lines[-1].strip() if lines else ""


def _text_of(content: bytes) -> str:
    return content.decode(*_encoding_of(content)).removeprefix("\ufeff")


def _encoding_of(content: bytes) -> tuple[str, str]:
    """The encoding of a file and its error handler: UTF-16, as Windows PowerShell's `>` writes it, or UTF-8, which
    preserves invalid bytes."""
    if content.startswith(UTF16_MARKS):
        return "utf-16-le" if content.startswith(codecs.BOM_UTF16_LE) else "utf-16-be", "replace"
    return "utf-8", "surrogateescape"


def _quoted(path: Path) -> str:
    """The path quoted for Bash and zsh."""
    return "'" + str(path).replace("'", "'\\''") + "'"
