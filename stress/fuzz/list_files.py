"""Parsers of lists: slides, ids, and the file that names the latest run."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.montage.query import read_ids, read_table
from himl_cli.services.runs.lookup import read_latest_run_file
from stress.fuzz.file_targets import Row, text_targets
from stress.fuzz.strategies import texts
from stress.fuzz.target import Target, written

TABLE = ('image,slide_id,label,mask\na.tiff,1,tumour,m.tiff\n"b ""x"".tiff",2,,\n', "sep=;\nimage;slide_id\na;1\n", "slide_id\timage\n1\tx\n")
IDS = ('slide_id,label\n1,a\n"2",b\n', "a\nb\n\nc\n", "Image;x\n1;2\n")
LATEST = ("exp:train_1700000000_0badcafe\n", "train_1700000000_0badcafe\n", "\ufeffexp:run\r\n")


def _ids(content: bytes) -> None:
    read_ids(written("ids.csv", content), "--include_by_slide_id")


def _latest(content: bytes) -> None:
    read_latest_run_file(written("most_recent_run.txt", content))


TEXT_FILES: Sequence[Row] = (
    ("ids", _ids, IDS, ("slide_id", ",", ";", '"', "\r\n"), (BadUsage,)),
    ("latest_run", _latest, LATEST, (":", "\r\n"), (BadUsage, NotFound)),
)


def targets() -> list[Target]:
    table = ("image", "slide_id", "label", "mask", ",", ";", "\t", '"', '""', "sep=|", "\r\n")
    return [
        *text_targets(TEXT_FILES),
        Target("files/table", lambda: texts(TABLE, table), lambda text: read_table(text, "slides.csv")),
    ]
