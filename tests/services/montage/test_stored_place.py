"""Slides that are brought from a service: which, and what becomes of those that it does not give."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from threading import enumerate as enumerate_threads

import pytest

from himl_cli.core.errors import HimlError, Interrupted, NotAllowed, ServiceFailed
from himl_cli.core.montage import SlideFolder, SlideUnreadable
from himl_cli.services.montage.stored import HOPELESS
from himl_cli.workspaces.base import BlobStore
from tests.servers.azureml.faults import Drip, Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.services.montage.stored_slides import BODIES, KB, LARGE, NAMES, cached, opened, read
from tests.support.azure import DEFAULT, hasty_store, storage_that_lists
from tests.support.running import until


def azure_place(azure: StagedWorkspace, names: Sequence[str] = NAMES) -> BlobStore:
    azure.put_blobs(DEFAULT, {name: BODIES.get(name, b"x") for name in names})
    return hasty_store(azure)


def unreadable(place: SlideFolder, name: str) -> str:
    with pytest.raises(SlideUnreadable) as caught:
        read(place, name)
    return str(caught.value)


def test_from_azure_only_what_is_expected_is_asked_for(azure_environment: StagedWorkspace) -> None:
    with opened(azure_place(azure_environment), expected=["02.tif", "04.tif"]) as place:
        assert read(place, "04.tif") == BODIES[NAMES[4]]
        assert read(place, "02.tif") == BODIES[NAMES[2]]
    asked = azure_environment.requests(r"GET .*/slides/\d\d")
    assert sorted(line.partition("?")[0].rpartition("/")[2] for line in asked) == ["02.tif", "04.tif"]


def test_a_slide_that_cannot_be_brought_fails_alone(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/03\.tif", times=None)
    with opened(store) as place:
        assert unreadable(place, "03.tif") == "it lies in the archive tier"
        assert [read(place, name) for name in NAMES if name != NAMES[3]] == [BODIES[name] for name in NAMES if name != NAMES[3]]
        assert unreadable(place, "03.tif") == "it lies in the archive tier"


def test_a_slide_is_told_of_the_file_that_is_lacking(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment, ["slides/a.mrxs", "slides/a/Data.dat", "slides/a/Slidedat.ini"])
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/a/Data\.dat", times=None)
    with opened(store, expected=["a.mrxs"]) as place:
        assert unreadable(place, "a.mrxs") == "'slides/a/Data.dat', which belongs to it: it lies in the archive tier"


def test_once_nothing_is_to_be_had_the_rest_is_not_tried(azure_environment: StagedWorkspace) -> None:
    names = [f"slides/{number:03}.tif" for number in range(150)]
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailure", message="Not from here."), r"GET .*/slides/(?!000)", times=None)
    with opened(store) as place:
        assert read(place, names[0]) == b"x"
        reasons = [unreadable(place, name) for name in names[1:]]
    assert len({*reasons}) == 2
    assert reasons[-1] == f"{reasons[0]}. So it was for the slides before it; this one was not tried"
    asked = azure_environment.requests(r"GET .*/slides/\d")
    assert HOPELESS <= len({line.partition("?")[0] for line in asked}) < 100


NOT_FROM_HERE = Status(403, code="AuthorizationFailure", message="Not from here.")


@pytest.mark.parametrize(("fault", "kind"), [(NOT_FROM_HERE, NotAllowed), (Status(503), ServiceFailed)])
@pytest.mark.parametrize("limit", [0, LARGE])
def test_a_store_that_gives_nothing_ends_it(azure_environment: StagedWorkspace, fault: Status, kind: type[HimlError], limit: int) -> None:
    store = azure_place(azure_environment, NAMES[:3])
    azure_environment.stage.faults.add(fault, r"GET .*/slides/\d", times=None)
    with opened(store, limit) as place, pytest.raises(kind, match=f"None of the 3 slides came from {store.label}: .*[.]$") as caught:
        try_all(place, NAMES[:3])
    assert "\n" not in str(caught.value)


def try_all(place: SlideFolder, names: Sequence[str]) -> None:
    """Read each of them, as a montage does."""
    for name in names:
        with suppress(SlideUnreadable):
            read(place, name)


def test_a_store_that_gives_none_of_many_is_asked_for_some(azure_environment: StagedWorkspace) -> None:
    names = [f"slides/{number:03}.tif" for number in range(150)]
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(NOT_FROM_HERE, r"GET .*/slides/\d", times=None)
    with opened(store) as place, pytest.raises(NotAllowed, match="None of the 150 slides came"):
        read(place, names[-1])
    assert len(azure_environment.requests(r"GET .*/slides/\d")) < 100


@pytest.mark.parametrize("names", [["slides/a.tif"], ["slides/a.tif", "slides/b.tif"]])
def test_slides_that_fail_each_for_itself_do_not_end_it(azure_environment: StagedWorkspace, names: Sequence[str]) -> None:
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/a", times=None)
    azure_environment.stage.faults.add(NOT_FROM_HERE, r"GET .*/slides/b", times=None)
    with opened(store, 0) as place:
        assert "archive" in unreadable(place, names[0])
        assert all("AuthorizationFailure" in unreadable(place, name) for name in names[1:])


def test_a_store_that_cannot_be_listed_ends_it_at_once(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailure", message="Not from here."), "comp=list", times=None)
    with pytest.raises(NotAllowed), opened(store):
        pass


def test_a_name_that_no_disk_takes_fails_alone() -> None:
    with storage_that_lists(["slides/a.tif", "slides/b\\..\\..\\c.tif"], b"body") as store, opened(store, expected=["a.tif", "b\\..\\..\\c.tif"]) as place:
        assert read(place, "a.tif") == b"body"
        assert unreadable(place, "b\\..\\..\\c.tif") == "it cannot be kept here: it has '.' or '..' in it"


def test_stop_ends_waiting_reader_and_leaves_no_half_file(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Stall(120.0, after=50 * KB), r"GET .*/slides/\d\d", times=None)
    outcomes: list[HimlError] = []

    def wait() -> None:
        with pytest.raises(Interrupted) as caught:
            read(place, NAMES[0])
        outcomes.append(caught.value)

    thread = Thread(target=wait)
    with opened(store) as place:
        thread.start()
        until(lambda: azure_environment.requests(r"GET .*/slides/"))
        place.stop()
        thread.join(60)
        assert not thread.is_alive()
    assert len(outcomes) == 1
    assert [name for name in cached() if not name.endswith(".himl-part")] == []


def test_what_is_under_way_ends_when_the_place_is_left(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blob(DEFAULT, "slides/large.tif", bytes(8_000 * KB))
    store = hasty_store(azure_environment)
    azure_environment.stage.faults.add(Drip(50 * KB), r"GET .*/slides/large", times=None)
    before = enumerate_threads()
    with opened(store):
        until(lambda: azure_environment.requests(r"GET .*/slides/"))
    until(lambda: not [thread for thread in enumerate_threads() if thread.name == "himl-slides" and thread not in before])
    assert [name for name in cached() if not name.endswith(".himl-part")] == []


def test_the_service_may_be_gone_in_the_middle(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(503), r"GET .*/slides/\d\d", times=None, skip=4)
    with opened(store) as place:
        said = [outcome(place, name) for name in NAMES]
    assert 1 <= said.count("read") <= 4, "a request that is made twice counts twice"
    assert all("503" in each or "busy" in each.lower() for each in said if each != "read"), said


def outcome(place: SlideFolder, name: str) -> str:
    try:
        assert read(place, name) == BODIES[name]
    except SlideUnreadable as err:
        return str(err)
    except ServiceFailed as err:
        raise AssertionError("one slide, not the montage") from err
    return "read"
