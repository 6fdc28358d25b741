"""The media type that a blob is stored with, by its name's end; Studio shows files by it."""

from __future__ import annotations

OTHER = "application/octet-stream"
_TYPES = {
    "txt": "text/plain",
    "log": "text/plain",
    "py": "text/x-python",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "xml": "application/xml",
    "pdf": "application/pdf",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "tiff": "image/tiff",
}


def media_type(name: str) -> str:
    """For the blob called *name*."""
    return _TYPES.get(name.rpartition(".")[2].lower(), OTHER)
