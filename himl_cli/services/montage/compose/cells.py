"""A cell of the montage: its slide, its mask, its caption, and what stands for those that cannot be read."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from himl_cli.core.montage import Box, Cell, CellOutcome, LayoutStyle
from himl_cli.services.montage.compose.pictures import Picture, Setting
from himl_cli.services.montage.compose.progress import Progress
from himl_cli.services.montage.compose.sources import Sources
from himl_cli.services.montage.layout.captions import caption_for
from himl_cli.services.montage.layout.failed import failed_mark
from himl_cli.services.montage.layout.himl import NoMask
from himl_cli.services.montage.layout.painting import Overlay

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_READ, MASK_NOT_READ = "not read", "mask not read"
MASK = "mask: {}"


class CellPainter:
    """Paints one cell, band by band from the top, after it was prepared. Used by one thread at a time. Tells *progress*
    once its slide is read."""

    def __init__(self, cell: Cell, sources: Sources, setting: Setting, progress: Progress) -> None:
        self.cell = cell
        self._entry = sources.entry
        self._style = setting.layout.style
        self._room = _alone(cell) if sources.mask is None and self._style is LayoutStyle.fit else cell.image
        self._image = Picture(sources.image, self._room, setting)
        self._mask = (
            Picture(sources.mask, cell.mask, setting, mask_of=self._image)
            if sources.mask is not None and cell.mask is not None
            else None
        )
        self._progress = progress
        self._is_read = False
        self.bytes = sum(each.bytes for each in self._pictures)

    @property
    def bottom(self) -> int:
        """The row of the montage below its last."""
        return self.cell.box.y + self.cell.box.height

    def prepare(self) -> None:
        """Read what can be read ahead. Raises HimlError where nothing can be brought any more."""
        for each in self._pictures:
            each.prepare()
        if not any(each.is_streamed for each in self._pictures):
            self._tell_read()

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Paint what falls on *band*, whose first row is row *top* of the montage; the bands come in order."""
        for each in self._pictures:
            each.paint(band, top)
        box = self.cell.box
        begin, end = max(box.y, top), min(self.bottom, top + len(band))
        rows = band[begin - top : end - top, box.x : box.x + box.width]
        for overlay in self._overlays():
            overlay.paint(rows, begin - box.y)
        if end == self.bottom:
            self._tell_read()

    def close(self) -> None:
        """Free what it holds."""
        for each in self._pictures:
            each.close()

    def outcome(self) -> CellOutcome:
        """What became of it, once it is painted."""
        image, mask = self._image, self._mask
        mask_reason = MASK.format(mask.reason) if mask is not None and mask.reason else ""
        mask_remark = MASK.format(mask.remark) if mask is not None and mask.remark and mask.box is not None else ""
        image_remark = image.remark if image.box is not None else ""
        return CellOutcome(
            slide_id=self._entry.slide_id,
            label=self._entry.label,
            image=self._entry.image,
            mask=self._entry.mask,
            column=self.cell.column,
            row=self.cell.row,
            box=self.cell.box,
            picture=image.box,
            level=image.level if image.box is not None else None,
            backend=image.backend,
            is_ok=not image.reason,
            reason="; ".join(filter(None, (image.reason, mask_reason))),
            remark="; ".join(filter(None, (image_remark, mask_remark))),
        )

    @property
    def _pictures(self) -> list[Picture]:
        return [self._image] if self._mask is None else [self._image, self._mask]

    def _overlays(self) -> list[Overlay]:
        overlays = []
        if self._image.reason:
            overlays.append(self._image_mark)
        if self.cell.mask is not None and (self._mask is None or self._mask.reason) and self._style is LayoutStyle.himl:
            overlays.append(NoMask(self.cell))
        elif self._mask is not None and self._mask.reason:
            overlays.append(self._mask_mark)
        if self._caption is not None:
            overlays.append(self._caption)
        return overlays

    @cached_property
    def _caption(self) -> Overlay | None:
        return caption_for(self._entry, self.cell, self._style)

    @cached_property
    def _image_mark(self) -> Overlay:
        return self._mark(self._room, NOT_READ, self._image.reason)

    @cached_property
    def _mask_mark(self) -> Overlay:
        assert self._mask is not None
        return self._mark(self.cell.mask or self.cell.image, MASK_NOT_READ, self._mask.reason)

    def _mark(self, room: Box, title: str, reason: str) -> Overlay:
        return failed_mark(room, self.cell, title, reason, self._style)

    def _tell_read(self) -> None:
        if not self._is_read:
            self._is_read = True
            self._progress.slide_read()


def _alone(cell: Cell) -> Box:
    """The room of an image without a mask, where others have one: the middle of the cell."""
    if cell.mask is None:
        return cell.image
    return Box(cell.image.x + (cell.mask.x - cell.image.x) // 2, cell.image.y, cell.image.width, cell.image.height)
