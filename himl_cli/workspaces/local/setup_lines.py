"""The lines of `setup` in the settings, which prepare a machine for a job: a script for bash that runs them, and then
starts the job's supervisor with what they changed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage

# Variables of the script for the supervisor (`run_process.setup_outcome`)
SETUP_LOG, SETUP_FAILED, SETUP_PYTHON = "HIML_SETUP_LOG", "HIML_SETUP_FAILED", "HIML_SETUP_PYTHON"

# The supervisor starts once, also if a line exits. After SIGTERM, it does not, since the engine has the reason. If the
# lines changed the first `python` on PATH, that is the job's
SETUP = f"""himl_supervisor() {{
trap - EXIT
[ "${{1%% *}}" != 143 ] || exit 143
export {SETUP_LOG} {SETUP_FAILED}=$1
local now=$(command -v python)
[ "$now" = "$himl_python" ] || export {SETUP_PYTHON}=$now
JOB
}}
trap 'exit 143' TERM
trap 'himl_supervisor "$? exit"' EXIT
{SETUP_LOG}=PATH
: >"${SETUP_LOG}"
himl_python=$(command -v python)"""


def after_setup(lines: Sequence[str], job: Sequence[str], log: str) -> list[str]:
    """The lines of a script that run *lines* with their output in the file *log*, a word of bash, and then *job*, with
    the variables of `run_process.setup_outcome`. The first command that fails ends them. Raises BadUsage for lines that
    bash rejects, and without bash."""
    script, group, problem = [SETUP.replace("PATH", log).replace("JOB", "\n".join(job))], "", "incomplete"
    for line in lines:
        group = f"{group}\n{line}" if group else line
        try:
            check = subprocess.run(["bash", "-n"], input=group, capture_output=True, text=True)
        except FileNotFoundError as err:
            raise BadUsage("There is no bash for the setup lines.", hint="Install bash, or omit 'setup'.") from err
        problem = (check.stderr.strip().splitlines() or ["incomplete"])[-1]
        if not check.returncode and not check.stderr and not group.endswith("\\"):
            first = shlex.quote(group.strip().split("\n")[0])
            # A line that reads its input does not read the request of the supervisor
            script.append(f'{{ :\n{group}\n}} </dev/null >>"${SETUP_LOG}" 2>&1 || himl_supervisor "$? "{first}')
            group = ""
    if group:
        raise BadUsage(f"bash rejects the setup lines: {problem}.", hint="Check 'setup' in himl.toml.")
    return [*script, "himl_supervisor"]


def isolated_command(module: str) -> str:
    """The command that runs himl's *module*, which ignores variables such as PYTHONPATH, since `setup` may set them for
    another Python. If this himl was found by such a variable, it looks in the same folders."""
    installed = (sys.prefix, sys.base_prefix)
    if str(Path(__file__)).startswith(installed):
        return shlex.join([sys.executable, "-E", "-m", module])
    folders = [path for path in sys.path if os.path.isdir(path) and not path.startswith(installed)]
    code = f"import runpy, sys; sys.path += {folders}; runpy.run_module('{module}', run_name='__main__')"
    return shlex.join([sys.executable, "-E", "-c", code])
