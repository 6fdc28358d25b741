"""Python environments with one client each, created on demand in `.cache/clients`, and a wheel of himl.

The clients are old and new versions of MLflow, and those of Azure ML's vendor: azureml-core, and MLflow with
azureml-mlflow. The third one of the vendor, azure-ai-ml, is in the environment of the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path

from filelock import FileLock

from himl_cli import __version__

ENVIRONMENT = dict(os.environ)
"""As it was before any test set a variable: an environment may be built in the middle of a test that sends
everything to a double.
"""

KEEP_BYTECODE = "import sys; sys.dont_write_bytecode = False\n"
"""A line of a `.pth` file, which each start of an environment heeds, in place of the PYTHONDONTWRITEBYTECODE of the
tests.
"""

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "clients"
SECONDS_TO_BUILD = 1800


def required_by_himl(extra: str) -> tuple[str, ...]:
    """The project's requirements with an *extra*. A change of these rebuilds an environment."""
    project = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(
        (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    return (*project["dependencies"], *project["optional-dependencies"][extra])


AZUREML_CORE, AZUREML_MLFLOW, AZUREML_TENSORBOARD = "azureml-core", "azureml-mlflow", "azureml-tensorboard"
HI_ML_CPATH = "hi-ml-cpath"
"""The predecessor's montages, with the versions that it pins itself: 4 GB, for the benchmark only."""
SUBMITIT = "submitit"
"""With Hydra and its launcher that uses it, for the benchmark only."""
DVC, GUILD = "dvc", "guildai"
"""For the benchmark only."""
IMAGES = "images"
"""What reads slides, for the benchmark of tiles only."""
TORCH = f"torch==2.13.0{'+cpu' * (sys.platform == 'linux')}"
LIGHTNING = "lightning"
"""With PyTorch, which comes with several GB for CUDA on Linux but for its CPU build, and that is in few registries."""
RECIPES = "recipes"
"""What the recipes of the documents use, with PyTorch as above."""
HIML_V1 = "himl-v1"
"""himl itself, as the sources are, with its extra `v1`: beside the program, azureml-core and all that both need."""
HIML_OLDEST_MLFLOW = "himl-oldest-mlflow"
"""himl itself, as the sources are, with the oldest MLflow whose user interface it shows."""
SKINNY = "skinny3"
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    DVC: ("dvc>=3.60,<4",),
    GUILD: ("guildai>=0.9,<0.10", "setuptools<81"),  # it imports pkg_resources
    SKINNY: ("mlflow-skinny>=3.17,<4", "scikit-learn>=1.4,<2", "pillow", "pandas>=2.2.2,<4"),
    "mlflow2": (
        "mlflow==2.22.5",
        "scikit-learn>=1.4,<1.8",
        "pillow",
        "opentelemetry-sdk<1.40",
    ),  # with later ones it traces nothing
    "mlflow3": ("mlflow>=3.17,<4", "scikit-learn>=1.4,<2", "pillow"),
    AZUREML_CORE: ("azureml-core>=1.61,<1.62", "setuptools<81"),  # it imports pkg_resources
    AZUREML_TENSORBOARD: (
        "azureml-tensorboard>=1.62,<1.63",
        "azureml-core>=1.61,<2",
        "tensorboard>=2.16,<3",
        "setuptools<81",
    ),
    HI_ML_CPATH: (
        "hi-ml-cpath==0.5.2",
        "marshmallow<4",
        "openslide-python>=1.4,<2",
        "openslide-bin>=4,<5",
    ),  # it fails with marshmallow 4
    SUBMITIT: ("submitit>=1.5,<1.6", "hydra-core>=1.3,<1.4", "hydra-submitit-launcher==1.2.0"),
    IMAGES: ("pillow>=13,<14", "scikit-image>=0.26,<1", "openslide-python>=1.4,<2", "openslide-bin>=4,<5"),
    LIGHTNING: ("lightning>=2.6,<2.7", "jsonargparse[signatures]>=4.40,<5", TORCH),
    RECIPES: (
        TORCH,
        "transformers>=5,<6",
        "accelerate>=1.15,<2",
        "hydra-core>=1.3,<1.4",
        "wandb>=0.31,<1",
        "keras>=3,<4",
        "mlflow-skinny>=3,<4",
        "nbconvert>=7,<8",
        "debugpy>=1.8,<2",
    ),
    HIML_V1: (
        "-e",
        f"{PROJECT}[v1]",
        f"azure-storage-blob=={metadata.version('azure-storage-blob')}",
        *required_by_himl("v1"),
    ),  # the double's
    HIML_OLDEST_MLFLOW: ("-e", f"{PROJECT}[ui]", "mlflow==3.5.1", *required_by_himl("ui")),
    AZUREML_MLFLOW: ("azureml-mlflow>=1.62,<1.63", "mlflow-skinny>=3,<4", "azure-identity>=1.16,<2"),
}
NEWEST_PYTHON: Mapping[str, tuple[int, int]] = {
    AZUREML_CORE: (3, 11),  # nobody maintains these three since
    AZUREML_TENSORBOARD: (3, 11),
    HI_ML_CPATH: (3, 9),
    "mlflow2": (3, 13),  # there is no later build of the pyarrow of these two
    HIML_OLDEST_MLFLOW: (3, 13),
}
OLDEST_PYTHON = (3, 9)
FULL = ("mlflow2", "mlflow3")
ALL = (SKINNY, *FULL)


class PythonMissing(Exception):
    """This machine lacks a Python for the client. The text names suitable ones."""


def client_python(name: str) -> Path:
    """The interpreter of the client *name*, built first if it is missing. Raises CalledProcessError if that fails,
    PythonMissing.
    """
    requirements = REQUIREMENTS[name]
    base = _base_python(name)
    version = _version_of(base)
    folder = (
        CACHE / f"{name}-{hashlib.sha256(' '.join((version, KEEP_BYTECODE, *requirements)).encode()).hexdigest()[:12]}"
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=SECONDS_TO_BUILD):
        complete = folder / "complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _build(base, folder, requirements)
            complete.touch()
    return _python_of(folder)


def packages_of(name: str) -> str:
    """The folder of a client's packages for PYTHONPATH. Raises PythonMissing if the client does not support the
    Python of the tests.
    """
    if sys.version_info[:2] > NEWEST_PYTHON.get(name, sys.version_info[:2]):
        raise PythonMissing(f"a Python that {name} supports")
    folder = client_python(name).parent.parent
    return str(
        next(
            path
            for path in (folder / "Lib" / "site-packages", *folder.glob("lib/python*/site-packages"))
            if path.is_dir()
        )
    )


def _base_python(name: str) -> str:
    """The Python of the tests, or the newest suitable one on PATH if it is too new for the client."""
    newest = NEWEST_PYTHON.get(name, sys.version_info[:2])
    if sys.version_info[:2] <= newest:
        return sys.executable
    wanted = [f"{newest[0]}.{minor}" for minor in range(newest[1], OLDEST_PYTHON[1] - 1, -1)]
    for version in wanted:
        for found in _candidates(version):
            if _version_of(found) == version:
                return found
    raise PythonMissing(f"Python {' or '.join(wanted)} for {name}")


def _candidates(version: str) -> list[str]:
    """Programs that may be this Python, on PATH or in pyenv."""
    on_path = shutil.which(f"python{version}")
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return [
        *([on_path] if on_path else []),
        *(str(folder / "bin" / "python") for folder in sorted(kept.glob(f"{version}.*"), reverse=True)),
    ]


def _version_of(python: str) -> str:
    """`3.11`, or '' if it does not run, like some shims of version managers."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(
        [python, "-c", program], capture_output=True, text=True, timeout=100, check=False
    ).stdout.strip()


def _build(base: str, folder: Path, requirements: tuple[str, ...]) -> None:
    """Build an environment of *requirements*. Modules are compiled at their first import, since tests import only a
    quarter of them.
    """
    python = str(_python_of(folder))
    uv = shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--python", base, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", python, *requirements)
    else:
        _run(base, "-m", "venv", str(folder))
        _run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--upgrade", "pip")
        _run(python, "-m", "pip", "install", "--quiet", "--no-compile", *requirements)
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    (Path(places.stdout.strip()) / "keep_bytecode.pth").write_text(KEEP_BYTECODE, encoding="utf-8")


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        timeout=SECONDS_TO_BUILD,
        stdin=subprocess.DEVNULL,
        env={**ENVIRONMENT, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _python_of(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"


WHEEL = f"himl_cli-{__version__}-py3-none-any.whl"


def write_wheel(folder: Path, name: str = WHEEL) -> None:
    """Write an almost empty wheel to *folder*."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("himl_cli/__init__.py", "")


def write_record(folder: Path, record: str | bytes | None) -> Path:
    """Write metadata of himl-cli to *folder*, for the start of Python's path. *record* is its direct_url.json, None
    for a package of an index.
    """
    place = folder / "himl_cli-99.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: himl-cli\nVersion: 99\n")
    if record is not None:
        (place / "direct_url.json").write_bytes(record if isinstance(record, bytes) else record.encode())
    return folder
