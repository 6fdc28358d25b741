"""Tests of slides of a datastore, downloaded to the user's cache with failures of single files, and of montages as jobs
on a cluster.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any

import platformdirs
import pytest

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Finished, Notice, ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.slides.cluster import SlideJob, check_data, prepare_slide_job
from himl_cli.slides.slide_records import SlideFolder, SlideUnreadable
from himl_cli.slides.stored import GB, HOPELESS, cache_limit, companions, open_stored
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.file_blobs import DatastoreFolder
from himl_cli.workspaces.local.run_store import Database
from tests.azureml_double.faults import Drip, Stall, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import DEFAULT, hasty_store, storage_that_lists
from tests.support.clients import WHEEL, write_record, write_wheel
from tests.support.folders import SmallDisk, contents, files_below
from tests.support.running import until, write_files
from tests.support.stores import ListedFiles


@pytest.fixture(autouse=True)
def from_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a himl installation from a package index, which a cluster can also use."""
    monkeypatch.syspath_prepend(write_record(tmp_path / "installed", None))


def prepared(cwd: Path, dataset: str = "slides", **options: Any) -> PreparedJob:
    own = {name: options.pop(name) for name in ("image_glob", "options", "lists", "datastore") if name in options}
    montage = SlideJob(command="montage", job=SubmitRequest(cwd=cwd, cluster="cpu", **options), dataset=dataset, **own)
    return prepare_slide_job(montage, Path(tempfile.mkdtemp(dir=cwd.parent)))


def files(job: PreparedJob) -> dict[str, str]:
    snapshot = job.spec.snapshot
    return {name: (snapshot.root / name).read_text(encoding="utf-8") for name in snapshot.files}


def test_the_job_is_the_same_command_on_mounted_data(project: Path) -> None:
    job = prepared(
        project,
        options=["--width=500"],
        image_glob="**/*.tiff",
        datastore="lab",
        display_name="Overview",
        shm_size="2G",
    ).spec
    assert job.entry == Entry(EntryKind.module, "himl_cli")
    assert job.arguments == [
        "montage",
        "${{inputs.slides}}",
        "--image_glob=**/*.tiff",
        "--width=500",
        "--output_path=outputs",
    ]
    assert job.inputs == [DataSpec("slides", "slides", datastore="lab", mode="mount", is_folder=True)]
    assert (job.cluster, job.experiment, job.display_name, job.shm_size, job.sdk) == (
        "cpu",
        "montage",
        "Overview",
        "2g",
        "v2",
    )


def test_what_names_the_data(project: Path) -> None:
    """With a datastore, a local folder of the same name makes no difference. It may be the uploaded original."""
    spec = partial(DataSpec, "slides", mode="mount")
    folder = partial(spec, datastore="lab", is_folder=True)
    for dataset, expected, argument in (
        ("slides/scans/", spec("slides/scans"), ""),
        ("tiles:3", spec("tiles", "3"), ""),
        ("tiles:3/lists.CSV", spec("tiles", "3"), "/lists.CSV"),
        ("tiles:3/deep", spec("tiles:3/deep"), ""),
        ("a b", spec("a b"), ""),
        ("slides", folder("slides"), ""),
        ("/slides/a/list.csv", folder("slides/a"), "/list.csv"),
        ("tiles:3", spec("tiles", "3", datastore="lab"), ""),
        ("tiles:3/", folder("tiles:3"), ""),
    ):
        if expected.datastore:
            write_files(project, {"slides/a.tif": "a"})
        job = prepared(project, dataset, datastore=expected.datastore).spec
        assert (job.inputs, job.arguments[1]) == ([expected], "${{inputs.slides}}" + argument)


UPLOAD = (
    "Upload the folder of the slides: himl datastore upload FOLDER slides --datastore NAME. Then use 'slides' "
    "and --datastore NAME."
)


def test_data_of_this_machine_is_refused(project: Path) -> None:
    """No hint suggests uploading a home folder or a whole disk."""
    write_files(project, dict.fromkeys(("here/a.tif", "my slides/list.csv", "list.csv", "my list.txt"), "a"))
    own = {
        "here": "Upload it: himl datastore upload here here --datastore NAME. Then use 'here' and --datastore NAME.",
        "./here": "Upload it: himl datastore upload ./here here --datastore NAME. Then use 'here' and --datastore "
        "NAME.",
        "my slides/list.csv": "Upload it: himl datastore upload 'my slides' 'my slides' --datastore NAME. Then use 'my "
        "slides/list.csv' and --datastore NAME.",
    }
    for dataset, hint in {
        **dict.fromkeys((".", "..", "/", "~", "list.csv", "my list.txt", "here/a.tif"), UPLOAD),
        **own,
    }.items():
        with pytest.raises(BadUsage, match="is on this machine, which cluster 'cpu' cannot access") as caught:
            prepared(project, dataset)
        assert caught.value.hint == hint


def test_a_path_that_is_not_there_is_told_so(project: Path) -> None:
    for dataset in ("./gone", "../gone", "/gone/slides", "~/gone", "C:\\slides"):
        with pytest.raises(NotFound) as caught:
            prepared(project, dataset)
        assert str(caught.value) == f"There is no local '{dataset}', and a cluster needs slides in a datastore."
        assert "himl montage FOLDER --datastore NAME --cluster cpu" in caught.value.hint
    for dataset in (".x/..", "list.csv", "/"):
        with pytest.raises(BadUsage):
            prepared(project, dataset, datastore="lab")


def test_lists_are_sent_and_nothing_else(project: Path) -> None:
    write_files(project, {"train.py": "", "ids/my list.CSV": "slide_id\na\n", "ids.txt": ""})
    job = prepared(project, options=["--level=0"])
    assert files(job) == {"command.txt": f"himl {shlex.join(job.spec.arguments)}\n"}
    for option, name, text in (
        ("--include_by_slide_id", "ids/my list.CSV", "slide_id\na\n"),
        ("--exclude_by_slide_id", "ids.txt", ""),
    ):
        job = prepared(project, lists={option: Path(name)})
        (file,) = files(job).items()
        assert file == (f"{option[2:]}{Path(name).suffix.lower()}", text)
        assert (job.spec.arguments[-1], job.report) == (f"{option}={file[0]}", None)


def test_what_the_job_would_refuse_is_refused(project: Path) -> None:
    write_files(project, {"here/blank.txt": b"\n \n", "here/latin.txt": b"a\xe9\n"})
    refused: list[tuple[dict[str, Any], str]] = [
        ({"lists": {"--exclude_by_slide_id": Path("gone.txt")}}, "--exclude_by_slide_id: there is no file 'gone.txt'"),
        ({"lists": {"--exclude_by_slide_id": Path("here")}}, "--exclude_by_slide_id: there is no file 'here'"),
        (
            {"lists": {"--include_by_slide_id": Path("here/blank.txt")}},
            "'here/blank.txt' has no ids, so that no slides remain",
        ),
        ({"lists": {"--include_by_slide_id": Path("here/latin.txt")}}, "is not UTF-8 text"),
        ({"dataset": "slides/list.csv", "image_glob": "*.tif"}, "is a CSV"),
        ({"image_glob": "../*"}, "leaves the folder"),
        ({"shm_size": "much"}, "--shm_size 'much' is not a size"),
    ]
    for options, said in refused:
        with pytest.raises(BadUsage, match=said):
            prepared(project, **options)


def test_a_csv_is_looked_for_where_its_datastore_is_known(tmp_path: Path) -> None:
    database = Database(tmp_path / "workspace.db", create=True)
    write_files(tmp_path / "data", {"slides/list.csv": "a", "slides/list.csv.old": "a"})

    def check(dataset: str, datastore: str | None = "lab") -> None:
        montage = SlideJob(
            command="montage", job=SubmitRequest(cwd=tmp_path, cluster="cpu"), dataset=dataset, datastore=datastore
        )
        check_data(montage, lambda name: DatastoreFolder(tmp_path / "data", name, database))

    check("slides/list.csv")
    check("/slides/")
    check("elsewhere/list.csv", None)
    with pytest.raises(NotFound, match=r"There is no file 'slides/lists[.]csv' in datastore 'lab'") as caught:
        check("slides/lists.csv")
    assert caught.value.hint == "Did you mean 'slides/list.csv'?"
    with pytest.raises(NotFound, match=r"There is no file 'gone/list[.]csv' in datastore 'lab'"):
        check("gone/list.csv")
    database.close()


def dependencies(job: PreparedJob) -> str:
    assert job.spec.environment is not None
    return job.spec.environment.conda


def test_default_environment_installs_this_himl_version(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """himl may also come from a URL or a wheel. A local installation needs a wheel.

    A conda file of the project is used only if it is named.
    """
    write_files(project, {"environment.yml": "dependencies:\n- python=3.9\n- pandas\n"})
    job = prepared(project)
    assert f"himl-cli[montage]=={__version__}" in dependencies(job)
    assert "pandas" not in dependencies(job)
    assert [
        remark
        for remark in job.remarks
        if f"himl-cli[montage]=={__version__}" in remark and "--private_wheel" in remark
    ]
    write_wheel(project)
    job = prepared(project, private_wheel=WHEEL)
    assert [line.strip(" -'\"") for line in dependencies(job).splitlines()[-2:]] == ["himl-cli[montage]", WHEEL]
    assert job.spec.environment is not None
    assert [path.name for path in job.spec.environment.wheels] == [WHEEL]
    assert files(job).keys() == {"command.txt"}
    record = {"url": "https://me:pat@example.org/himl_cli.whl?sig=c2VjcmV0", "archive_info": {}}
    monkeypatch.syspath_prepend(write_record(tmp_path / "address", json.dumps(record)))
    job = prepared(project)
    assert "- himl-cli[montage] @ https://example.org/himl_cli.whl\n" in dependencies(job)
    assert [
        remark
        for remark in job.remarks
        if "himl-cli[montage] @ https://example.org/himl_cli.whl, which pip installs" in remark
    ]
    monkeypatch.syspath_prepend(
        write_record(tmp_path / "folder", json.dumps({"url": project.as_uri(), "dir_info": {}}))
    )
    with pytest.raises(BadUsage, match="which no other machine can access") as caught:
        prepared(project)
    assert "--private_wheel FILE" in caught.value.hint


@pytest.mark.parametrize(("package", "warnings"), [("himl-cli[montage]", 0), ("numpy", 1)])
def test_a_conda_file_counts_alone_and_is_to_hold_himl(project: Path, package: str, warnings: int) -> None:
    write_files(project, {"own.yml": f"dependencies:\n- python=3.12\n- pip:\n  - {package}\n"})
    job = prepared(project, conda_env=["own.yml"])
    assert "python=3.12" in dependencies(job)
    assert __version__ not in dependencies(job)
    assert len([remark for remark in job.remarks if "lacks himl-cli" in remark]) == warnings


KB = 1000
NAMES = [f"slides/{number:02}.tif" for number in range(10)]
BODIES = {name: bytes([place]) * (100 * KB) for place, name in enumerate(NAMES)}
LARGE = 1_000 * KB * KB
NOT_FROM_HERE = Status(403, code="AuthorizationFailure", message="Not from here.")
ARCHIVED = Status(409, code="BlobArchived", message="archived")


def cache() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "slides"


def cached() -> dict[str, bytes]:
    """Return the slides in the cache by file name, without those that disappear or are renamed meanwhile."""
    return {
        PurePosixPath(name).name: content
        for name, content in contents(cache()).items()
        if name.endswith((".tif", ".dcm", ".himl-part"))
    }


def size() -> int:
    """Return the bytes of slides in the cache. A file that is renamed meanwhile counts once."""
    found = {}
    for path in files_below(cache()):
        with suppress(FileNotFoundError):
            found[path.stat().st_ino] = path.stat().st_size if path.suffix in (".tif", ".dcm", ".himl-part") else 0
    return sum(found.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "workspace.db", create=True)
    yield opened
    opened.close()


@pytest.fixture
def store(folder: Path, database: Database) -> BlobStore:
    """The ten slides, in a store that does not give their location."""
    write_files(folder, BODIES)
    return listed(folder, database)


def listed(folder: Path, database: Database) -> BlobStore:
    files = DatastoreFolder(folder, "lab", database)
    return ListedFiles(files, (blob for page in files.list() for blob in page))


@contextmanager
def opened(
    store: BlobStore, limit: int = LARGE, expected: Sequence[str] = (), events: list[Event] | None = None
) -> Iterator[SlideFolder]:
    """Yield the folder `slides`. *expected* are names in it, all by default."""
    with open_stored(store, "slides", limit, ignore if events is None else events.append) as (place, _):
        place.expect(expected or [*place.names()])
        yield place


def read(place: SlideFolder, name: str) -> bytes:
    with place.local_path(name.removeprefix("slides/")) as path:
        return path.read_bytes()


def fetched(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, Finished)]


def test_only_expected_slides_are_downloaded_then_deleted(store: BlobStore) -> None:
    events: list[Event] = []
    with opened(store, expected=["03.tif", "05.tif", "03.tif"], events=events) as place:
        assert [read(place, name) for name in ("05.tif", "03.tif")] == [BODIES[NAMES[5]], BODIES[NAMES[3]]]
        assert cached() == {"03.tif": BODIES[NAMES[3]], "05.tif": BODIES[NAMES[5]]}
    assert sorted(fetched(events)) == [NAMES[3], NAMES[5]]
    assert [*cache().iterdir()] == []


def test_whether_all_of_it_stays_is_known_once_it_is_expected(store: BlobStore) -> None:
    for limit, said in ((1_000 * KB, []), (999 * KB, ["The slides (1.0 MB) do not fit the cache (1.0 MB)"])):
        events: list[Event] = []
        with opened(store, limit, events=events) as place:
            assert place.is_rereadable == (not said)
        texts = [event.text for event in events if isinstance(event, Notice)]
        assert [text.partition(". Each is deleted after use.")[0] for text in texts] == said
        assert all("HIML_SLIDE_CACHE_GB=1, " in text for text in texts)


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_cache_takes_no_more_than_its_limit(store: BlobStore) -> None:
    for limit, names, most in (
        # A requested slide is always downloaded, and the next one may be in the cache already.
        (0, NAMES, 200 * KB),
        # Slides that were used once may be used again.
        (250 * KB, [*NAMES, *NAMES], 250 * KB),
        # A requested slide is added to those that were downloaded ahead.
        (350 * KB, NAMES[::-1], 450 * KB),
    ):
        with opened(store, limit) as place:
            for name in names:
                with place.local_path(name.removeprefix("slides/")) as path:
                    assert path.read_bytes() == BODIES[name]
                    assert size() <= most


def test_slides_come_ahead_and_shared_files_stay_while_in_use(
    store: BlobStore, folder: Path, database: Database
) -> None:
    with opened(store, 350 * KB) as place, place.local_path("00.tif"):
        until(lambda: {"01.tif", "02.tif"} <= set(cached()))
        # One thread may open more slides than the limit allows.
        with ExitStack() as hands:
            paths = [hands.enter_context(place.local_path(name.removeprefix("slides/"))) for name in NAMES]
            assert [path.read_bytes() for path in paths] == [*BODIES.values()]
    write_files(folder, {f"slides/{name}.dcm": name.encode() * 10 for name in "abc"})
    with open_stored(listed(folder, database), "slides", 0, ignore) as (place, _):
        assert (place.head("a.dcm"), place.head("gone.dcm")) == (b"a" * 10, b"")
    with opened(listed(folder, database), 0, expected=["a.dcm", "b.dcm"]) as place:
        with place.local_path("a.dcm") as path:
            assert read(place, "b.dcm") == b"b" * 10
            assert sorted(each.name for each in path.parent.glob("*.dcm")) == ["a.dcm", "b.dcm", "c.dcm"]
        assert read(place, "a.dcm") == b"a" * 10
    assert cached() == {}


KILLED = """
import sys
from himl_cli.core.events import ignore
from himl_cli.slides.stored import SlideDownloads
SlideDownloads(None, {}, 10**9, ignore)
print("ready", flush=True)
sys.stdin.read()
"""


def test_cache_of_other_process_is_deleted_only_if_it_died(store: BlobStore) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (left,) = (path for path in cache().iterdir() if path.is_dir())
        with opened(store, expected=["00.tif"]) as place:
            read(place, "00.tif")
            assert left.is_dir()
        process.kill()
        process.wait()
        with opened(store, expected=["00.tif"]):
            assert not left.exists()
    shutil.rmtree(cache())
    cache().write_text("a file")
    with pytest.raises(DiskFailed, match="Cannot make himl's cache folder"), opened(store):
        pass


def test_a_full_disk_ends_it_in_one_line(
    folder: Path, database: Database, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small_disk.is_shared:
        pytest.skip("the disk is seen by other processes only")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk.folder))
    write_files(folder, {**BODIES, "slides/huge.tif": bytes(6_000 * KB)})
    events: list[Event] = []
    with opened(listed(folder, database), expected=["00.tif", "huge.tif", "01.tif"], events=events) as place:
        assert not place.is_rereadable
        (text,) = [event.text for event in events if isinstance(event, Notice)]
        assert (text.partition(" (")[0], "HIML_SLIDE_CACHE_GB" in text) == ("The slides", False)
        assert read(place, "00.tif") == BODIES[NAMES[0]]
        for name in ("huge.tif", "01.tif"):
            with pytest.raises(DiskFailed, match="no space left on the disk") as caught:
                read(place, name)
            assert "HIML_SLIDE_CACHE_GB" in caught.value.hint
    assert "huge.tif" not in cached()


def azure_store(azure: StagedWorkspace, names: Sequence[str] = NAMES) -> BlobStore:
    azure.put_blobs(DEFAULT, {name: BODIES.get(name, b"x") for name in names})
    return hasty_store(azure)


def unreadable(place: SlideFolder, name: str) -> str:
    with pytest.raises(SlideUnreadable) as caught:
        read(place, name)
    return str(caught.value)


def test_a_slide_that_cannot_be_brought_fails_alone(azure_environment: StagedWorkspace) -> None:
    store = azure_store(azure_environment, [*NAMES[:4], "slides/a.mrxs", "slides/a/Data.dat", "slides/a/Slidedat.ini"])
    azure_environment.stage.faults.add(ARCHIVED, r"GET .*/slides/(03\.tif|a/Data\.dat)", times=None)
    with opened(store, expected=["00.tif", "02.tif", "03.tif", "a.mrxs"]) as place:
        assert unreadable(place, "03.tif") == "it is in the archive tier"
        assert [read(place, name) for name in ("02.tif", "00.tif")] == [BODIES[NAMES[2]], BODIES[NAMES[0]]]
        assert unreadable(place, "03.tif") == "it is in the archive tier"
        assert unreadable(place, "a.mrxs") == "its file 'slides/a/Data.dat': it is in the archive tier"
    requests = azure_environment.requests(r"GET .*/slides/\d\d")
    assert {line.partition("?")[0].rpartition("/")[2] for line in requests} == {"00.tif", "02.tif", "03.tif"}, (
        "only what was expected"
    )


def test_once_nothing_is_to_be_had_the_rest_is_not_tried(azure_environment: StagedWorkspace) -> None:
    names = [f"slides/{number:03}.tif" for number in range(100)]
    store, faults = azure_store(azure_environment, names), azure_environment.stage.faults
    faults.add(NOT_FROM_HERE, r"GET .*/slides/(?!000)", times=None)
    with opened(store) as place:
        assert read(place, names[0]) == b"x"
        reasons = [unreadable(place, name) for name in names[1:]]
        assert len({*reasons}) == 2
        assert reasons[-1] == f"{reasons[0]}. The slides before it failed like this. This one was not tried"
    tried = {line.partition("?")[0] for line in azure_environment.requests(r"GET .*/slides/\d")}
    assert HOPELESS <= len(tried) < 100


def read_all(place: SlideFolder) -> None:
    for name in NAMES[:3]:
        with suppress(SlideUnreadable):
            read(place, name)


@pytest.mark.parametrize(
    ("fault", "kind", "limit"),
    [(NOT_FROM_HERE, NotAllowed, 0), (NOT_FROM_HERE, NotAllowed, LARGE), (Status(503), ServiceFailed, LARGE)],
)
def test_a_store_that_gives_nothing_ends_it(
    azure_environment: StagedWorkspace, fault: Status, kind: type[HimlError], limit: int
) -> None:
    store, faults = azure_store(azure_environment, NAMES[:3]), azure_environment.stage.faults
    faults.add(fault, r"GET .*/slides/\d", times=None)
    with (
        opened(store, limit) as place,
        pytest.raises(kind, match=f"^None of the 3 slides could be fetched from {store.label}: .*[.]$"),
    ):
        read_all(place)
    faults.add(fault, "comp=list", times=None)
    with pytest.raises(kind), opened(store, limit):
        pass


def test_slides_that_fail_each_for_itself_do_not_end_it(azure_environment: StagedWorkspace) -> None:
    for names in (["slides/a.tif"], ["slides/a.tif", "slides/b.tif"]):
        store = azure_store(azure_environment, names)
        azure_environment.stage.faults.add(ARCHIVED, r"GET .*/slides/a", times=None)
        azure_environment.stage.faults.add(NOT_FROM_HERE, r"GET .*/slides/b", times=None)
        with opened(store, 0) as place:
            assert "archive" in unreadable(place, names[0])
            assert all("AuthorizationFailure" in unreadable(place, name) for name in names[1:])


def test_a_name_that_no_disk_takes_fails_alone() -> None:
    with (
        storage_that_lists(["slides/a.tif", "slides/b\\..\\..\\c.tif"], b"body") as store,
        opened(store, expected=["a.tif", "b\\..\\..\\c.tif"]) as place,
    ):
        assert read(place, "a.tif") == b"body"
        assert unreadable(place, "b\\..\\..\\c.tif") == "it cannot be stored locally: it contains '.' or '..'"


def test_stop_ends_waiting_reader_and_leaves_no_half_file(azure_environment: StagedWorkspace) -> None:
    store = azure_store(azure_environment)
    azure_environment.stage.faults.add(Stall(120.0, after=50 * KB), r"GET .*/slides/\d\d", times=None)
    outcomes: list[BaseException] = []

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
    azure_environment.stage.faults.clear()
    azure_environment.put_blob(DEFAULT, "slides/large.tif", bytes(8_000 * KB))
    azure_environment.stage.faults.add(Drip(50 * KB), r"GET .*/slides/large", times=None)
    before = enumerate_threads()
    with opened(hasty_store(azure_environment), expected=["large.tif"]):
        until(lambda: azure_environment.requests(r"GET .*/slides/large"))
    until(
        lambda: not [thread for thread in enumerate_threads() if thread.name == "himl-slides" and thread not in before]
    )
    assert [name for name in cached() if not name.endswith(".himl-part")] == []


NAMES_THERE = [
    "5.dcm",
    "B.MRXS",
    "B/Slidedat.ini",
    "a.mrxs",
    "a.svs",
    "a/Data1.dat",
    "a/sub/x",
    "ab/y",
    "d/1.dcm",
    "d/2.DCM",
    "d/3.txt",
    "d/deep/4.dcm",
]
NAMES_THERE += [
    "h/s 1(1,0).jpg",
    "h/s 1.opt",
    "h/s 1.vms",
    "h/s 1_map.jpg",
    "h/s 1x/y.jpg",
    "h/s 2.jpg",
    "h/t.vmu",
    "h/t.vmu2",
]


def test_what_belongs_to_a_slide() -> None:
    whole = {
        "a.mrxs": ["a/Data1.dat", "a/sub/x"],
        "B.MRXS": ["B/Slidedat.ini"],
        "h/s 1.vms": ["h/s 1(1,0).jpg", "h/s 1.opt", "h/s 1_map.jpg"],
    }
    whole |= {"h/t.vmu": ["h/t.vmu2"], "d/1.dcm": ["d/2.DCM"], "5.dcm": [], "a.svs": []}
    assert {name: [*companions(name, NAMES_THERE)] for name in whole} == whole


def test_cache_limit_variable_overrides_setting_and_default(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_limit(project) == 20 * GB
    write_files(project, {"himl.toml": "[montage]\ncache_gb = 1.5\n"})
    assert cache_limit(project) == 1_500_000_000
    for text, limit in {" 3 ": 3 * GB, "0": 0, "": 1_500_000_000}.items():
        monkeypatch.setenv("HIML_SLIDE_CACHE_GB", text)
        assert cache_limit(project) == limit
    for line, said in {
        "cache_gb = 'much'": "line 2: 'cache_gb' cannot be 'much'.",
        "cache_gb = true": "line 2: 'cache_gb' cannot be True.",
        "cache_gb = inf": "line 2: 'cache_gb' cannot be inf.",
        f"cache_gb = 1{'0' * 400}": "line 2: the number is too long.",
        "cache_bg = 1": "line 2: 'cache_bg' is not known.",
    }.items():
        write_files(project, {"himl.toml": f"[montage]\n{line}\n"})
        with pytest.raises(BadUsage) as caught:
            cache_limit(project)
        assert str(caught.value).endswith(said)
    (project / "himl.toml").unlink()
    for text in ("much", "-1", "nan", "1e300"):
        monkeypatch.setenv("HIML_SLIDE_CACHE_GB", text)
        with pytest.raises(BadUsage, match=f"The environment variable HIML_SLIDE_CACHE_GB cannot be '{text}'"):
            cache_limit(project)
