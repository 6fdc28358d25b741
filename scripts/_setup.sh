# Sourced by the other scripts: finds Python, makes .venv in the project folder and activates it.
# Changes to the project folder, and defines ROOT, PYTHON and the functions `install` and `install_programs`.

set -euo pipefail

ROOT="$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$ROOT"

LOCKED_PYTHON=3.11

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Succeeds if $1 is a Python that himl supports. A shim of a version manager may exist but fail to run.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

# Prints the Python to use, preferably the locked version, or nothing if there is none.
find_python() {
    local name
    for name in "python$LOCKED_PYTHON" python3 python3.12 python3.13 python3.10 python3.14 python; do
        if is_supported "$name"; then
            echo "$name"
            return
        fi
    done
}

# Prints a Python of version $1, on PATH or among those of pyenv, or nothing if there is none.
python_of_version() {
    local name
    for name in "python$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python python3 python; do
        if [ "$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)" = "$1" ]; then
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

# make_venv FOLDER: makes a new virtual environment in FOLDER, replacing any previous one.
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

# pip_install PYTHON ARGUMENTS...: installs with uv or pip. On the locked Python, the locked versions are constraints.
pip_install() {
    local python="$1" constraints=()
    shift
    if [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$LOCKED_PYTHON" ]; then
        constraints=(--constraint "$ROOT/requirements-dev.lock")
    fi
    if command -v uv >/dev/null; then
        uv pip install --quiet --compile-bytecode --python "$python" ${constraints[@]+"${constraints[@]}"} "$@"
    else
        # An environment that uv made has no pip.
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
        # pip 23, which new environments may have, ends with an internal error when it installs azure-ai-ml with mlflow-skinny.
        "$python" -m pip install -qq --disable-pip-version-check --upgrade pip
        "$python" -m pip install -qq --disable-pip-version-check ${constraints[@]+"${constraints[@]}"} "$@"
    fi
}

# install NAME ARGUMENTS...: runs pip_install for .venv, unless the last call with NAME had the same arguments and files.
install() {
    local stamp=".venv/.himl-$1" wanted
    shift
    wanted="$(cat pyproject.toml requirements-dev.lock examples/requirements.txt himl_cli/__init__.py | cksum) $ROOT $*"
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
    echo "Installing into .venv. The first time takes a minute or two ..." >&2
    pip_install "$PYTHON" "$@"
    printf '%s\n' "$wanted" >"$stamp"
}

. scripts/_programs.sh

# A virtual environment contains its own path. If it was moved, or if its Python no longer exists, make a new one.
PYTHON="$(venv_python "$ROOT/.venv")"
if ! is_supported "$PYTHON" || ! { [ ! -e .venv/bin/activate ] || grep -qF "$ROOT/.venv" .venv/bin/activate; }; then
    make_venv .venv
    PYTHON="$(venv_python "$ROOT/.venv")"
fi
unset PYTHONHOME CONDA_PREFIX
export VIRTUAL_ENV="$ROOT/.venv"
PATH="$(dirname "$PYTHON"):$PATH"
export PATH
