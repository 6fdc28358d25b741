"""What OpenSlide gives wrong of plain TIFFs, without a word: it asks libtiff for RGBA, tile by tile."""

from __future__ import annotations

from tifffile import TiffPage

_ORIENTATION, _MAX_SAMPLE_VALUE = 274, 281
_RGB = 2
_READ_RIGHT = frozenset({0, 1, _RGB, 3, 5, 6})
_UNSIGNED, _ALPHAS = 1, ({1}, {2})


def misreading(page: TiffPage) -> str:
    """What of the page OpenSlide misreads; nothing where it reads it right, or refuses it."""
    bits, photometric = page.bitspersample, int(page.photometric)
    extra = [int(kind) for kind in page.extrasamples]
    turned = page.tags.valueof(_ORIENTATION, 1)
    if int(page.sampleformat) != _UNSIGNED:
        return "samples that are not unsigned"
    if photometric not in _READ_RIGHT:
        return f"pixels of the kind {getattr(page.photometric, 'name', photometric)}"
    if turned != 1:
        return f"tiles with an orientation tag ({int(turned)})"
    if extra and (photometric != _RGB or set(extra) not in _ALPHAS or len(extra) > 1):
        return "samples beside the colours"
    if bits == 16 and page.samplesperpixel == 1:  # libtiff shifts the rows of tiles at the right edge
        return "grey of 16 bits"
    if bits == 16 and page.tags.valueof(_MAX_SAMPLE_VALUE) not in {None, 65535, (65535,) * page.samplesperpixel}:
        return "colours of fewer bits than are stored"
    return ""
