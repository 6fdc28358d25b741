"""Reading CSVs, lists of ids and patterns: whatever is written is read back, whatever is broken is refused in words."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.montage.query import HEADERS, Pattern, parse_ids, read_ids, read_table
from tests.support.folders import files_below
from tests.support.hostile_texts import SECONDS, within

NAME = "dataset.csv"
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text("a,;\t\" \r\n'é", max_size=6)
slides = st.lists(st.tuples(values, values, values, values).filter(lambda row: any(value.strip() for value in row)), min_size=1, max_size=6)
COLUMNS = ("image", "slide_id", "label", "mask")


def read(text: str) -> list[tuple[str, ...]]:
    return [tuple(values) for _, values in read_table(text, NAME)]


def refusal(text: str) -> str:
    with pytest.raises(BadUsage) as caught:
        read_table(text, NAME)
    assert caught.value.hint
    return str(caught.value)


def blank_is_empty(row: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value if value.strip() else "" for value in row)


@given(slides, st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n", "\r"]), st.permutations([*COLUMNS, "site"]), st.booleans())
def test_what_is_written_is_read_back(rows: list[tuple[str, ...]], separator: str, line_end: str, columns: list[str], is_quoted: bool) -> None:
    # The fewest quotes that csv writes leave out those around line ends of other systems.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if is_quoted or line_end != "\r\n" else csv.QUOTE_MINIMAL
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="elsewhere", delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows(dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert read(text.getvalue()) == [blank_is_empty(row) for row in rows]


@given(st.text('image,slide_id"\n\r;\t \0aé', max_size=60) | st.text(max_size=60).map(lambda text: "image,slide_id\n" + text))
@example("image,slide_id\n")
@example(" \n")
@example('"')
@example("image,slide_id\n" + "x" * 200_000 + ",a\n")
@example("x" * 200_000)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        rows = read(text)
    except BadUsage as err:
        refused = err
    else:
        assert rows
        assert all(len(row) == 4 for row in rows)
        return
    assert refused.hint
    assert len(str(refused)) < 1500


@pytest.mark.parametrize(
    "text",
    [
        "image,slide_id\na b.tiff,007\n",
        "image,slide_id\r\na b.tiff,007\r\n",
        "image,slide_id\ra b.tiff,007",
        "\n\nimage,slide_id\n\n,\na b.tiff,007\n , \n",
        "image , slide_id\na b.tiff, 007\n",
        '"image", "slide_id"\n"a b.tiff", "007"\n',
        '"image","slide_id"\n"a b.tiff","007"\n',
        "Image;Slide_ID;remark, if any, or none, or more\na b.tiff;007;x\n",
        "slide_id\timage\n007\ta b.tiff\n",
        "sep=;\nimage;slide_id\na b.tiff;007\n",
        '"SEP=|"\r\nimage|slide_id\r\na b.tiff|007\r\n',
        "sep=\t\nslide_id\timage\n007\ta b.tiff\n",
        "n,image,,slide_id,\n1,a b.tiff,,007,\n",
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    assert read(text) == [("a b.tiff", "007", "", "")]


def test_blanks_belong_to_values_unless_the_header_has_them() -> None:
    assert read("image,slide_id\n a.tiff , b \n") == [(" a.tiff ", " b ", "", "")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "'dataset.csv' is empty."),
        (" \n\n", "'dataset.csv' is empty."),
        ("image,slide_id\n", "'dataset.csv' has no line below its header."),
        ("image,slide_id\n,\n", "'dataset.csv' has no line below its header."),
        ("image_id;isup;site\na;b;c\n", "'dataset.csv' has no column 'image'; it has: 'image_id', 'isup', 'site'."),
        ("image, label\na,b\n", "'dataset.csv' has no column 'slide_id'; it has: 'image', 'label'."),
        ("image,slide_id,Image\na,b,c\n", "'dataset.csv' has 2 columns 'image'."),
        ("image,slide_id\na\nb,c\nd,e,f\n", "'dataset.csv': its header has 2 fields, line 2 has 1, line 4 has 3."),
        ("sep=;\nimage;slide_id\na\n", "'dataset.csv': its header has 2 fields, line 3 has 1."),
        ("sep=;", "'dataset.csv' has no column 'image'; it has: 'sep=', ''."),
        ('image,slide_id\na,"b\nc"\nd\n', "'dataset.csv': its header has 2 fields, line 4 has 1."),
        ('image,slide_id\na,b\n"c,d\ne,f\n', "'dataset.csv', line 3: unexpected end of data."),
        ('image,slide_id\n"a"b,c\n', "'dataset.csv', line 2: ',' expected after '\"'."),
        ("image,slide_id\na\0,b\n", "'dataset.csv' is no CSV: it has NUL bytes in it."),
    ],
)
def test_what_is_wrong_is_said(text: str, expected: str) -> None:
    assert refusal(text) == expected


def test_many_columns_do_not_flood() -> None:
    assert refusal(",".join(f"c{n}" for n in range(500))).endswith("'c10', 'c11' and 488 more.")


line_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=12).map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def list_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "list.csv"


@given(
    st.lists(line_ids, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", " ", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])
)
@example(["a,b", 'c"d', '"e"', "#f"], "\n", "", "utf-8")
def test_a_line_is_an_id(list_file: Path, ids: list[str], line_end: str, around: str, encoding: str) -> None:
    text = line_end.join(["", *(f"{around}{each}{around}" for each in ids), around])
    ids = list(dict.fromkeys(ids))
    if ids and ids[0].replace(";", ",").replace("\t", ",").split(",")[0].strip(' "').casefold() in HEADERS:
        return
    list_file.write_bytes(text.encode(encoding))
    assert read_ids(list_file, "--include_by_slide_id") == ids


@given(st.lists(st.tuples(line_ids, values), max_size=6), st.sampled_from(",;\t"), st.sampled_from(sorted(HEADERS)), st.booleans())
def test_below_a_known_header_the_first_column_is_the_ids(
    list_file: Path, rows: list[tuple[str, str]], separator: str, header: str, is_one_column: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([[header.upper()] if is_one_column else [header.upper(), "why"], *(row[:1] if is_one_column else row for row in rows)])
    list_file.write_bytes(text.getvalue().encode())
    assert read_ids(list_file, "--include_by_slide_id") == list(dict.fromkeys(slide for slide, _ in rows))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slide_id\na,b\n", ["a,b"]),
        ("slide_id,why\na,b\n", ["a"]),
        (' "slide_id" ; "why"\n"a;b";c\n', ["a;b"]),
        ("case,why\na,b\n", ["case,why", "a,b"]),
        ("a\nslide_id\n", ["a", "slide_id"]),
        ("\n\nfilename\na\n", ["a"]),
    ],
)
def test_headers_and_what_only_looks_like_one(text: str, expected: list[str]) -> None:
    assert list(filter(None, parse_ids(text))) == expected


def test_a_list_of_one_huge_line_is_one_id() -> None:
    assert list(parse_ids("x" * 100_000)) == ["x" * 100_000]


PARTS = ["**", "*", "a", "b", "a*", "*b", "?", "[ab]", "[!a]", "*.t", ".*", "[", "A"]


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ["a", "b/a", "b/b", "c/a/b", "c/ab/a/x.t", "c/.h/y.t", ".h/a", "b/ab", "[", "c/b/c/b"]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"")
        yield folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).filter(lambda parts: parts[-1] != "**"))
def test_patterns_match_what_path_glob_finds(tree: Path, parts: list[str]) -> None:
    glob = "/".join(parts)
    pattern = Pattern(glob)
    names = [path.relative_to(tree).as_posix() for path in files_below(tree)]
    found = {path.relative_to(tree).as_posix() for path in tree.glob(glob) if path.is_file()}
    assert {name for name in names if pattern.matches(name)} == found


def test_many_stars_take_no_time() -> None:
    pattern = Pattern("/".join(["**", "*"] * 12) + "/**/x")
    assert not pattern.matches("/".join(["a"] * 200))
    assert pattern.matches("/".join(["a"] * 200) + "/x")
    with within(SECONDS):
        assert not Pattern("**/" * 333 + "x").matches("/".join(["a"] * 200))
        assert not Pattern("*a" * 25 + "b").matches("a" * 200)
    with pytest.raises(BadUsage, match="--image_glob has 20,001 characters, and 1,000 is the most"):
        Pattern("*" + "[" * 20_000)


@pytest.mark.skipif(os.name == "nt", reason="backslashes are separators there")
def test_backslashes_are_part_of_names_here() -> None:
    assert Pattern("a\\*").matches("a\\b")
    assert not Pattern("a\\*").matches("a/b")


def test_a_line_that_is_too_long_for_a_csv_is_an_id_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("x" * 200_000 + "\na\n")
    assert read_ids(path, "--include_by_slide_id") == ["x" * 200_000, "a"]
    path.write_text("slide_id,site\n" + "x" * 200_000 + ",b\n")
    with pytest.raises(BadUsage, match="is a broken CSV: field larger than field limit"):
        read_ids(path, "--include_by_slide_id")
