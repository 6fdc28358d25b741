"""Opening a slide with what reads its format."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.slides.pillow import PictureSlide
from himl_cli.services.montage.slides.slide import GENERIC_TIFF, Slide, message_of
from himl_cli.services.montage.slides.tiff import TiffSlide

_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_APERIO = "aperio"


def check_backend(backend: Backend) -> None:
    """Raises BadUsage where the package that it needs is not installed, or does not load."""
    try:
        if backend is Backend.cucim:
            from himl_cli.services.montage.slides import cucim  # noqa: F401
        elif backend is Backend.openslide:
            from himl_cli.services.montage.slides import openslide  # noqa: F401
    except (ImportError, OSError) as err:
        package = "cucim-cu12" if backend is Backend.cucim else "openslide-bin openslide-python"
        what = f"Backend '{backend.value}' needs a package that cannot be loaded here: {message_of(err)}."
        raise BadUsage(what, hint=f"Run 'pip install {package}' (cuCIM: Linux only), or leave out --backend.") from err


def open_slide(path: Path, backend: Backend, *, as_labels: bool = False) -> Slide:
    """The slide, opened; the caller closes it.

    With *as_labels*, for masks, grey values are kept as they are (cut at 255), not scaled by the range of their bits.
    `auto` takes OpenSlide for formats of scanners (tifffile for an Aperio slide that it refuses), tifffile for other
    TIFFs and Pillow for the rest; other backends stand alone.
    Raises SlideUnreadable with the reason; BadUsage for a backend that is not installed.
    """
    begins_as_tiff = _check_file(path) in _TIFF_BEGINNINGS
    if backend is Backend.cucim:
        check_backend(backend)
        from himl_cli.services.montage.slides.cucim import CuSlide

        return CuSlide(path)
    if backend is Backend.openslide:
        check_backend(backend)
        return _by_openslide(path)
    if backend is Backend.tifffile and not begins_as_tiff:
        raise SlideUnreadable("it is no TIFF")
    vendor = _vendor_of(path)
    if vendor not in (None, GENERIC_TIFF, _APERIO):
        if backend is Backend.auto:
            return _by_openslide(path)
        raise SlideUnreadable(f"it is a slide of the format '{vendor}', which the backend tifffile does not read")
    if backend is Backend.auto and vendor == _APERIO:
        try:
            return _by_openslide(path)
        except SlideUnreadable:  # a compression that OpenSlide lacks, say
            pass
    return TiffSlide(path, as_labels=as_labels) if begins_as_tiff else PictureSlide(path, as_labels=as_labels)


def _by_openslide(path: Path) -> Slide:
    from himl_cli.services.montage.slides.openslide import VendorSlide

    return VendorSlide(path)


def _vendor_of(path: Path) -> str | None:
    """None also where OpenSlide does not load here."""
    try:
        from himl_cli.services.montage.slides.openslide import vendor_of
    except (ImportError, OSError):
        return None
    return vendor_of(path)


def _check_file(path: Path) -> bytes:
    """Its first four bytes. Raises SlideUnreadable for what is no file, has nothing in it, or may not be read."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise SlideUnreadable("it is a folder")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody to write
            raise SlideUnreadable("it is no ordinary file")
        if not found.st_size:
            raise SlideUnreadable("it is empty")
        with path.open("rb") as file:
            return file.read(4)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR):
            raise SlideUnreadable("it does not exist") from err
        if err.errno in (errno.EACCES, errno.EPERM):
            raise SlideUnreadable("it may not be read (permission denied)") from err
        raise SlideUnreadable(f"it cannot be opened: {message_of(err)}") from err
    except ValueError as err:  # a null byte in the name
        raise SlideUnreadable("it does not exist: no file can have that name") from err
