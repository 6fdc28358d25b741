# Sourced by the other scripts: finds Python, makes .venv in the project's folder and activates it.
# Leaves the shell in the project's folder, with ROOT, PYTHON and the functions `install` and `install_programs`.

set -euo pipefail

ROOT="$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$ROOT"

LOCKED_PYTHON=3.11

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# True when $1 is a Python that himl supports (a shim of a version manager may exist and yet not run).
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

# Prints the Python to use, the locked one first; nothing when there is none.
find_python() {
    local name
    for name in "python$LOCKED_PYTHON" python3 python3.12 python3.13 python3.10 python3.14 python; do
        if is_supported "$name"; then
            echo "$name"
            return
        fi
    done
}

venv_python() {
    if [ -e "$1/Scripts/python.exe" ]; then
        echo "$1/Scripts/python.exe"
    else
        echo "$1/bin/python"
    fi
}

# make_venv FOLDER: a new virtual environment there, replacing what was.
make_venv() {
    local base
    base="$(find_python)"
    if command -v uv >/dev/null; then
        uv venv --quiet --clear --python "${base:-$LOCKED_PYTHON}" "$1"
        return
    fi
    [ -n "$base" ] || fail "No Python 3.10 to 3.14 on PATH. On Debian or Ubuntu, install it with: apt-get install python3 python3-venv"
    "$base" -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module is missing. Install it with: apt-get install python3-venv"
    "$base" -m venv --clear "$1"
}

# pip_install PYTHON ARGUMENTS...: installs with uv or pip, the locked versions as constraints on the locked Python.
pip_install() {
    local python="$1" constraints=()
    shift
    if [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$LOCKED_PYTHON" ]; then
        constraints=(--constraint "$ROOT/requirements-dev.lock")
    fi
    if command -v uv >/dev/null; then
        uv pip install --quiet --compile-bytecode --python "$python" ${constraints[@]+"${constraints[@]}"} "$@"
    else
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null # uv made it without pip, and is not here now
        # pip 23, which new environments may carry, ends with an internal error on azure-ai-ml with mlflow-skinny.
        "$python" -m pip install -qq --disable-pip-version-check --upgrade pip
        "$python" -m pip install -qq --disable-pip-version-check ${constraints[@]+"${constraints[@]}"} "$@"
    fi
}

# install NAME ARGUMENTS...: pip_install into .venv, unless the last call with this name did the same from the same files.
install() {
    local stamp=".venv/.himl-$1" wanted
    shift
    wanted="$(cat pyproject.toml requirements-dev.lock examples/requirements.txt himl_cli/__init__.py | cksum) $ROOT $*"
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
    echo "Installing into .venv, the first time takes a minute or two ..." >&2
    pip_install "$PYTHON" "$@"
    printf '%s\n' "$wanted" >"$stamp"
}

. scripts/_programs.sh

# A virtual environment knows its own path: one that was moved with its folder, or whose Python is gone, is made anew.
PYTHON="$(venv_python "$ROOT/.venv")"
if ! is_supported "$PYTHON" || ! { [ ! -e .venv/bin/activate ] || grep -qF "$ROOT/.venv" .venv/bin/activate; }; then
    make_venv .venv
    PYTHON="$(venv_python "$ROOT/.venv")"
fi
unset PYTHONHOME CONDA_PREFIX
export VIRTUAL_ENV="$ROOT/.venv"
PATH="$(dirname "$PYTHON"):$PATH"
export PATH
