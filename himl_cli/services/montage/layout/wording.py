"""What a caption says: ids and labels as one line that can be drawn, and shortened where it is too long."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from himl_cli.core.montage import Size, SlideEntry
from himl_cli.services.montage.escaping import escaped
from himl_cli.services.montage.layout import fonts

ELLIPSIS = "…"
MOST_MARKS = 3
"""Combining marks that a letter may carry."""
JOINERS = "\u200c\u200d"


def readable(text: str) -> str:
    r"""*text* as one line: blanks of all kinds become one space, control characters `\x1b`, what only steers other
    characters is dropped."""
    composed = unicodedata.normalize("NFC", escaped(" ".join(text.split())))
    return "".join(map(_with_few_marks, clusters("".join(map(_visible, composed)))))


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a caption. Either may be empty."""

    slide_id: str
    label: str

    @classmethod
    def of(cls, entry: SlideEntry) -> Wording:
        return cls(readable(entry.slide_id), readable(entry.label or ""))

    def whole(self) -> str:
        return ": ".join(each for each in (self.slide_id, self.label) if each)

    def cut(self, letters: int) -> str:
        """With that many *letters* (1 or more) of both: the id loses some in its middle, the label at its end, and only
        if it has more than half of them."""
        first, second = clusters(self.slide_id), clusters(self.label)
        of_first = min(len(first), max(letters - len(second), (letters + 1) // 2))
        of_second = min(len(second), letters - of_first)
        return ": ".join(each for each in (_without_middle(first, of_first), _without_end(second, of_second)) if each)

    def __len__(self) -> int:
        return len(clusters(self.slide_id)) + len(clusters(self.label))


@dataclass(frozen=True, slots=True)
class Wrought:
    """A text, and the size of letters in pixels per em with which it fits."""

    text: str
    size: int


def shortened(wording: Wording, room: Size, largest: int, least: int) -> Wrought | None:
    """*wording* as it fits into *room*: in letters of *largest* or smaller ones, in the *least* with an ellipsis. None
    where nothing fits."""
    whole = wording.whole()
    if not whole:
        return None
    size = fitting_size(whole, room, largest, least)
    if size:
        return Wrought(whole, size)
    low, high = 0, len(wording)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(wording.cut(middle), least, room):
            low = middle
        else:
            high = middle
    if low:
        return Wrought(wording.cut(low), least)
    bare = Wording(_bare(wording.slide_id), _bare(wording.label))
    return None if bare == wording else shortened(bare, room, least, least)


def fitting_size(text: str, room: Size, largest: int, least: int) -> int:
    """The largest of these sizes with which *text* fits into *room*, or 0."""
    left, top, right, bottom = fonts.extent(text, largest)
    scale = min(1.0, room[0] / max(1, right - left), room[1] / max(1, bottom - top))
    likely = min(largest, int(largest * scale) + 1)
    return next((size for size in range(likely, least - 1, -1) if fits(text, size, room)), 0)


def fits(text: str, size: int, room: Size) -> bool:
    """Whether *text* fits into *room*, its marks stacked. Pillow stacks them only where it finds FriBiDi: a caption
    says the same on every machine."""
    left, top, right, bottom = fonts.extent(text, size)
    stacks = [_stack(cluster, size) for cluster in set(clusters(text)) if len(cluster) > 1]
    return (
        right - left <= room[0]
        and max([bottom, *(low for _, low in stacks)]) - min([top, *(high for high, _ in stacks)]) <= room[1]
    )


def clusters(text: str) -> list[str]:
    """*text* in pieces that must not be parted: letters with the marks that they carry, and what is joined to them."""
    pieces: list[str] = []
    for character in text:
        if pieces and (_is_mark(character) or character in JOINERS or pieces[-1][-1] in JOINERS):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _stack(cluster: str, size: int) -> tuple[int, int]:
    """The top and the bottom of a letter with its marks upon each other, each as high as it makes an `x`, which is
    drawn alike everywhere."""
    _, top, _, bottom = fonts.extent("x", size)
    alone = [fonts.extent("x" + mark, size) for mark in cluster[1:] if _is_mark(mark)]
    _, high, _, low = fonts.extent(cluster[0], size)
    return high - sum(max(0, top - each[1]) for each in alone), low + sum(max(0, each[3] - bottom) for each in alone)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _visible(character: str) -> str:
    match unicodedata.category(character):
        case "Cc":
            return f"\\x{ord(character):02x}"
        case "Cf" if character not in JOINERS:
            return ""
        case _:
            return character


def _with_few_marks(cluster: str) -> str:
    count = 0
    kept = ""
    for character in cluster:
        count = count + 1 if _is_mark(character) else 0
        if count <= MOST_MARKS:
            kept += character
    return kept


def _bare(text: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFD", text) if not _is_mark(each))


def _without_middle(letters: list[str], kept: int) -> str:
    if kept >= len(letters):
        return "".join(letters)
    head, tail = letters[: (kept + 1) // 2], letters[len(letters) - kept // 2 :]
    return "".join([*head, ELLIPSIS, *tail])


def _without_end(letters: list[str], kept: int) -> str:
    if kept >= len(letters):
        return "".join(letters)
    return "".join([*letters[:kept], ELLIPSIS]) if kept else ""
