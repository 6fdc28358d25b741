"""What a run lets a script log and upload, under azureml-core's names; and the run of a script that is in no job."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.logged import Logged, LoggedKind
from himl_cli.services.runs import writing

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

log = logging.getLogger(__name__)


class Recording(ABC):
    """Values are gathered and sent in the background, within about a second; `flush` waits for that. Files are sent at
    once.

    All methods may be called from any thread and any rank: every rank writes to the same run.
    """

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Log one value: a number, a truth value or a text; scalars of numpy and PyTorch count as numbers. The same
        name again adds to the metric.

        Raises BadUsage for a list. *description* is accepted and not kept, as in azureml-core.
        """
        self._add(writing.scalar(name, value, step))

    def log_list(self, name: str, value: Iterable[Any], description: str = "") -> None:
        """Log a list of values at once. Raises BadUsage for what is no list."""
        self._add(writing.values(name, value))

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Add one row to the table *name*; its columns are the other arguments. Raises BadUsage where there are none,
        and where one holds a list."""
        if not kwargs:
            raise BadUsage(f"'{name}': a row has columns.", hint=f"For example log_row('{name}', epoch=1, loss=0.5)")
        self._add(writing.row(name, kwargs))

    def log_table(self, name: str, value: Mapping[str, Any], description: str = "") -> None:
        """Log a table: a dictionary of columns of one length. Raises BadUsage for anything else."""
        self._add(writing.table(name, value))

    def log_image(
        self, name: str, path: str | os.PathLike[str] | None = None, plot: Any = None, description: str = ""
    ) -> None:
        """Log an image: the file *path*, or *plot*, a figure of matplotlib or matplotlib.pyplot itself. It is a file of
        the run afterwards.

        Raises BadUsage unless exactly one of the two is given, and for a file that is not there.
        """
        if (path is None) == (plot is None):
            raise BadUsage(f"'{name}': log_image takes either path or plot.")
        if plot is not None:
            file = f"{name}_{int(time.time())}.png"
            if not callable(getattr(plot, "savefig", None)):
                raise BadUsage(
                    f"'{name}': a plot has a method savefig, and {type(plot).__name__} has none.",
                    hint="Give a figure of matplotlib, or matplotlib.pyplot.",
                )
            with tempfile.TemporaryDirectory(prefix="himl-") as folder:
                path = Path(folder, "plot.png")
                plot.savefig(path, format="png")
                self._store_files({file: path})
        else:
            given = Path(os.fspath(path or ""))
            file = given.name if given.is_absolute() or ".." in given.parts else given.as_posix()
            self.upload_file(file, given)
        self._add(writing.image(name, file))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Store *text* as the file *artifact_file* of the run."""
        self._store_bytes(artifact_file, str(text).encode())

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Store a file, or what is left in a binary stream, among the run's files as *name*; what had the name is
        replaced.

        *datastore_name* is accepted and not used. Raises BadUsage for a file that is not there.
        """
        if hasattr(path_or_stream, "read"):
            content = path_or_stream.read()
            self._store_bytes(name, content.encode() if isinstance(content, str) else bytes(content))
        else:
            self._store_files({name: Path(path_or_stream)})

    def upload_files(
        self,
        names: Sequence[str],
        paths: Sequence[str | os.PathLike[str]],
        return_artifacts: bool = False,
        timeout_seconds: int | None = None,
    ) -> None:
        """Store several files. Raises BadUsage where there are not as many names as paths.

        *return_artifacts* and *timeout_seconds* are accepted and have no effect: nothing is returned, and requests have
        limits of their own.
        """
        if len(names) != len(paths):
            raise BadUsage(f"upload_files takes as many names as paths, not {len(names)} and {len(paths)}.")
        self._store_files({name: Path(path) for name, path in zip(names, paths, strict=True)})

    def upload_folder(self, name: str, path: str | os.PathLike[str], datastore_name: str | None = None) -> None:
        """Store all files below the folder *path* as `NAME/…`. Raises BadUsage where it is no folder."""
        from himl_cli.core.files import walk_files

        folder = Path(path)
        if not folder.is_dir():
            raise BadUsage(f"There is no folder '{path}' to upload.")
        prefix = f"{name.strip('/')}/" if name.strip("/.") else ""
        self._store_files(
            {prefix + found.name: Path(found.path) for found in walk_files(str(folder), skip_workspaces=True)}
        )

    def tag(self, key: str, value: str | None = None) -> None:
        """Set one tag."""
        self.set_tags({key: value or ""})

    @abstractmethod
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*; others stay as they are."""

    @abstractmethod
    def flush(self, timeout_seconds: int = 300) -> None:
        """Come back once what was logged is kept and can be read back. Raises ServiceFailed where it cannot be sent
        now; it is sent later then.

        It is sent whole; *timeout_seconds* is how long to wait at most until it can be read back, which a service may
        put off.
        """

    @abstractmethod
    def complete(self) -> None:
        """The run is done: send what is left, and record that it completed."""

    @abstractmethod
    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """The run went wrong: send what is left, and record that it failed, with *error_details* as the reason."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.complete()
        else:
            self.fail(error)

    @abstractmethod
    def _add(self, entry: Logged) -> None: ...

    @abstractmethod
    def _store_files(self, files: Mapping[str, Path]) -> None: ...

    def _store_bytes(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="himl-") as folder:
            path = Path(folder, "content")
            path.write_bytes(content)
            self._store_files({name: path})


def reason_of(error_details: str | BaseException | None, error_code: str | None) -> str:
    """Why a run failed, in words."""
    if isinstance(error_details, BaseException):
        return f"{type(error_details).__name__}: {error_details}"
    return error_details or error_code or "the program said that it failed"


class OfflineRun(Recording):
    """Takes what a run takes and tells it to Python's logging, at level INFO. `get_metrics` gives it back; nothing is
    sent and nothing written.

    It has no `experiment`, which is how azureml-core's users tell such a run.
    """

    def __init__(self) -> None:
        self.id = f"OfflineRun_{uuid.uuid4()}"
        self.status = "Running"
        self.tags: dict[str, str] = {}
        self._logged: dict[str, list[Logged]] = {}

    def get_status(self) -> str:
        """Running, or Completed or Failed once `complete` or `fail` was called."""
        return self.status

    def get_tags(self) -> dict[str, str]:
        """The tags that were set; a copy."""
        return dict(self.tags)

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """What was logged, by name: a value, or a list where there are several; a table as a dictionary of columns."""
        return {metric: _value(entries) for metric, entries in self._logged.items() if name in (None, metric)}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*, their values as texts; others stay as they are."""
        self.tags.update({key: str(value) for key, value in tags.items()})
        log.info("No run to tag with %s.", dict(tags))

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove the tags of these names; others stay as they are."""
        for name in tags:
            self.tags.pop(name, None)

    def flush(self, timeout_seconds: int = 300) -> None:
        """Nothing is waiting."""

    def complete(self) -> None:
        """Take the status Completed."""
        self.status = "Completed"

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Take the status Failed, and tell the log why, as a warning."""
        self.status = "Failed"
        log.warning("Failed, and no run to record it: %s", reason_of(error_details, error_code))

    def __repr__(self) -> str:
        return f"OfflineRun({self.id!r})"

    def _add(self, entry: Logged) -> None:
        self._logged.setdefault(entry.name, []).append(entry)
        log.info("No run to log to: %s '%s' %s", entry.kind.value, entry.name, _value([entry]))

    def _store_files(self, files: Mapping[str, Path]) -> None:
        log.info("No run to upload to: %s", ", ".join(files))


def _value(entries: list[Logged]) -> Any:
    rows = [row.values for entry in entries for row in entry.rows]
    if entries[0].kind is LoggedKind.table:
        columns = [*dict.fromkeys(column for row in rows for column in row)]
        return {
            column: rows[0].get(column) if len(rows) == 1 else [row.get(column) for row in rows] for column in columns
        }
    found = [value for row in rows for value in row.values()]
    return found[0] if len(found) == 1 else found
