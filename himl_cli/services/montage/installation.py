"""Whether what montages are made with is installed. Imports nothing of it."""

from __future__ import annotations

from importlib.util import find_spec

from himl_cli.core.errors import BadUsage
from himl_cli.core.installing import install_command

NEEDED = {
    "numpy": "numpy",
    "PIL": "pillow",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide": "openslide-python",
    "isal": "isal",
}
"""Modules, and the packages that hold them."""


def check_installed() -> None:
    """Raises BadUsage where packages of the extra `montage` are missing, naming them."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        them = "it" if len(missing) == 1 else "them"
        raise BadUsage(
            f"A montage needs {', '.join(missing)}, which {are} not installed.",
            hint=f"Install {them}: {install_command('montage')}",
        )
