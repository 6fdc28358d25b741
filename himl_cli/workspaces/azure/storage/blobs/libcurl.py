"""libcurl as pycurl gives it."""

from __future__ import annotations

from typing import Any

from himl_cli.core.errors import HimlError


def libcurl() -> Any:
    """The module `pycurl`. Raises HimlError where it cannot be loaded, such as one that was built for another
    libcurl."""
    try:
        import pycurl
    except ImportError as err:
        raise HimlError(
            f"pycurl cannot be loaded: {err}.", hint="Install it again: pip install --force-reinstall pycurl"
        ) from err
    return pycurl
