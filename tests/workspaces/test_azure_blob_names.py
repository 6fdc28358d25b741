"""Names, orders and pages of Azure Storage as himl reads and writes them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.storage.blob_upload import BLOCK, MOST_BLOCKS, block_id, block_size
from himl_cli.workspaces.azure.storage.container import in_plain_order, listed_page, out_of_folders
from himl_cli.workspaces.azure.storage.signing import quoted, reason_not_to_ask

NAMES = st.text(st.sampled_from("ab-./\uff08\U0001f600"), min_size=1, max_size=8)
PATHS = st.lists(st.lists(st.text(st.sampled_from("ab-.0"), min_size=1, max_size=3), min_size=1, max_size=4).map("/".join), max_size=40)


def in_order(names: Sequence[str]) -> list[BlobInfo]:
    return [BlobInfo(name, 0) for name in names]


@given(st.sets(NAMES))
def test_names_in_utf16_order_are_resorted_as_plain_strings(names: set[str]) -> None:
    given_order = sorted(names, key=lambda name: name.encode("utf-16-be"))
    assert [blob.name for blob in in_plain_order(in_order(given_order))] == sorted(names)


@given(PATHS, st.integers(0, 5))
@example(["a/a.", "a/a/0"], 1)
def test_names_in_folder_order_are_resorted_as_plain_strings(paths: list[str], held: int) -> None:
    names = {name for name in paths if not any(other.startswith(name + "/") for other in paths)}

    def has_rivals(folder: str) -> bool:
        return any(folder < name.removesuffix("/") and name.startswith(folder) and name[len(folder)] < "/" for name in names if name != folder)

    given_order = sorted(names, key=lambda name: name.replace("/", "\0"))
    assert [blob.name for blob in out_of_folders(in_order(given_order), has_rivals, held_at_most=held)] == sorted(names)


def test_a_large_folder_without_rivals_is_not_held_back() -> None:
    taken: list[str] = []

    def arriving() -> list[BlobInfo]:
        return in_order([f"data/{number:05}" for number in range(5000)])

    def counted(blobs: list[BlobInfo]):  # type: ignore[no-untyped-def]
        for blob in blobs:
            taken.append(blob.name)
            yield blob

    given_out = out_of_folders(counted(arriving()), lambda folder: False, held_at_most=10)
    next(given_out)
    assert len(taken) < 20


def xml(*blobs: str, marker: str = "") -> bytes:
    listing = f"<Blobs>{''.join(blobs)}</Blobs><NextMarker>{marker}</NextMarker>"
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults>{listing}</EnumerationResults>'.encode()


def test_listing_of_hierarchical_account_omits_directories() -> None:
    folder = "<Blob><Name>r/a</Name><Properties><Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>"
    file = "<Blob><Name>r/a/b</Name><Properties><Content-Length>3</Content-Length><ResourceType>file</ResourceType></Properties></Blob>"
    page = listed_page(xml(folder, file, marker="next"), "r/")
    assert ([blob.name for blob in page.blobs], page.marker, page.is_hierarchical) == (["a/b"], "next", True)


def test_names_that_xml_cannot_hold_are_decoded() -> None:
    page = listed_page(xml('<Blob><Name Encoded="true">a%01%EF%BF%BE%2F%25</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>'), "")
    assert [blob.name for blob in page.blobs] == ["a\x01\ufffe/%"]
    assert quoted("a\x01\ufffe/%") == "a%01%EF%BF%BE/%25"


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"no xml at all", b""])
def test_what_is_no_listing_is_a_failed_service(body: bytes) -> None:
    with pytest.raises(ServiceFailed):
        listed_page(body, "")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/..", "a/./b", "/a", "a\0", "\ud800", "x" * 1025, "end.", "dir./x", "a\\b", "/".join("a" * 255)])
def test_names_that_a_url_cannot_mean_are_not_asked_for(name: str) -> None:
    assert reason_not_to_ask(name)


@pytest.mark.parametrize("size", [1, BLOCK, 1 << 30, 190 << 30, 1 << 40, MOST_BLOCKS * (4000 << 20)])
def test_blocks_are_no_more_than_the_service_takes(size: int) -> None:
    assert size <= MOST_BLOCKS * block_size(size)
    assert block_size(size) <= 4000 << 20


def test_block_ids_are_of_one_length_and_tell_place_and_content() -> None:
    ids = {block_id(index, bytes([content]) * 16) for index in (0, 1, 49_999) for content in (1, 2)}
    assert len(ids) == 6
    assert len({len(one) for one in ids}) == 1
