"""Opening a slide with what reads its format."""

from __future__ import annotations

import errno
import stat
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.slides.libraries import GENERIC_TIFF, CuSlide, PictureSlide, VendorSlide, vendor_of
from himl_cli.services.montage.slides.slide import Slide, message_of
from himl_cli.services.montage.slides.tiff import TiffSlide

APERIO = "aperio"
# What is imported for a backend, and the packages that hold it.
PACKAGES = {Backend.cucim: ("cucim", "cucim-cu12"), Backend.openslide: ("openslide", "openslide-bin openslide-python")}
REASONS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "it does not exist"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "it may not be read (permission denied)"),
}


def check_backend(backend: Backend) -> None:
    """Raises BadUsage where the package that it needs is not installed, or does not load."""
    if backend not in PACKAGES:
        return
    module, packages = PACKAGES[backend]
    try:
        import_module(module)
    except (ImportError, OSError) as err:
        what = f"Backend '{backend.value}' needs a package that cannot be loaded here: {message_of(err)}."
        raise BadUsage(what, hint=f"Run 'pip install {packages}' (cuCIM: Linux only), or leave out --backend.") from err


def open_slide(path: Path, backend: Backend, *, as_labels: bool = False) -> Slide:
    """The slide, opened; the caller closes it.

    With *as_labels*, for masks, grey values are kept as they are (cut at 255), not scaled by the range of their bits.
    `auto` takes OpenSlide for formats of scanners (tifffile for an Aperio slide that it refuses), tifffile for other
    TIFFs and Pillow for the rest; other backends stand alone.
    Raises SlideUnreadable with the reason; BadUsage for a backend that is not installed.
    """
    begins_as_tiff = _first_bytes(path) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    check_backend(backend)
    if backend is Backend.cucim:
        return CuSlide(path)
    if backend is Backend.openslide:
        return VendorSlide(path)
    if backend is Backend.tifffile and not begins_as_tiff:
        raise SlideUnreadable("it is no TIFF")
    vendor = vendor_of(path)
    if backend is Backend.auto and vendor == APERIO:
        with suppress(SlideUnreadable):  # a compression that OpenSlide lacks, say
            return VendorSlide(path)
    elif vendor not in (None, GENERIC_TIFF, APERIO):
        if backend is Backend.auto:
            return VendorSlide(path)
        raise SlideUnreadable(f"it is a slide of the format '{vendor}', which the backend tifffile does not read")
    return TiffSlide(path, as_labels=as_labels) if begins_as_tiff else PictureSlide(path, as_labels=as_labels)


def _first_bytes(path: Path) -> bytes:
    """Four of them. Raises SlideUnreadable for what is no file, has nothing in it, or may not be read."""
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
        raise SlideUnreadable(REASONS.get(err.errno or 0, f"it cannot be opened: {message_of(err)}")) from err
    except ValueError as err:  # a null byte in the name
        raise SlideUnreadable("it does not exist: no file can have that name") from err
