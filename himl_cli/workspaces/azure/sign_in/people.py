"""Signing in by asking whoever sits at the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal


def whom_to_ask() -> Literal["browser", "device code", "nobody"]:
    """A browser where a person is at a terminal of a desktop, a device code where the terminal is all there is."""
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
        return "nobody"
    return "browser" if _has_browser() else "device code"


def device_code(tell: Callable[[str], None], options: dict[str, Any]) -> Any:
    """A credential that tells a code to type in on another device."""
    from himl_cli.workspaces.azure.sign_in.vendor import Credential

    def prompt(address: str, code: str, expires: datetime) -> None:
        tell(f"To sign in, open {address} in any browser and enter the code {code}.")

    return Credential("DeviceCodeCredential", prompt_callback=prompt, timeout=600, **options)


def tell_on_stderr(line: str) -> None:
    """Show *line* to the person at the terminal."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())


def _has_browser() -> bool:
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
