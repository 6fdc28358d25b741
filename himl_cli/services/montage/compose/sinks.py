"""The files that take the bands, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.montage import CellOutcome, ImageFormat, Size
from himl_cli.services.montage.encoding.base import BandSink
from himl_cli.services.montage.encoding.jpeg import JpegFile
from himl_cli.services.montage.encoding.png import PngFile
from himl_cli.services.montage.names import DZI, JPG, PAGE, PNG, TILES
from himl_cli.services.montage.threads import Threads
from himl_cli.services.montage.zoom.page import write_page
from himl_cli.services.montage.zoom.pyramid import DeepZoom

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TITLE = "Montage"


class Sinks:
    """What *formats* are written to below *folder*, for a picture of *size*. `abort` is due after any error."""

    def __init__(self, formats: Sequence[ImageFormat], folder: Path, size: Size, pool: Threads) -> None:
        """Raises DiskFailed."""
        self._folder = folder
        self._sinks: list[BandSink] = []
        self._zoom: DeepZoom | None = None
        self.jpg_size: Size | None = None
        self.names: list[str] = []
        try:
            if ImageFormat.png in formats:
                self._add(PngFile(folder / PNG, size, pool), PNG)
            if ImageFormat.jpg in formats:
                self._add(JpegFile(folder / JPG, size, pool), JPG)
                self.jpg_size = JpegFile.size_for(size)
            if ImageFormat.dzi in formats:
                self._zoom = DeepZoom(folder, size, pool)
                self._add(self._zoom, TILES, DZI)
        except BaseException:
            self.abort()
            raise

    def write(self, band: NDArray[np.uint8]) -> None:
        """See BandSink."""
        for each in self._sinks:
            each.write(band)

    def finish(self) -> None:
        """See BandSink."""
        for each in self._sinks:
            each.finish()

    def abort(self) -> None:
        """See BandSink."""
        for each in self._sinks:
            each.abort()

    def write_page(self, cells: Sequence[CellOutcome]) -> None:
        """The page that shows the pyramid, where there is one. Raises DiskFailed."""
        if self._zoom is not None:
            write_page(self._folder / PAGE, self._zoom.tiling, cells, TITLE)

    def _add(self, sink: BandSink, *names: str) -> None:
        self._sinks.append(sink)
        self.names += names
