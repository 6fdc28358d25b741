"""Logging and uploading for runs, with azureml-core's names, and the run of a script outside of a job."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from himl_cli.core.errors import BadUsage
from himl_cli.core.logged import Logged, LoggedKind
from himl_cli.services.runs import writing

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

log = logging.getLogger(__name__)


class Partial:
    """Has some attributes of the class of this name in azureml-core. `_instead` has the alternatives to others."""

    _instead: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # type checkers know which attributes there are

        def __getattr__(self, name: str) -> NoReturn:
            found = next(kind for kind in type(self).__mro__ if "_instead" in vars(kind))
            hint = found._instead.get(name, "docs/python.md lists its attributes.")
            raise AttributeError(f"himl's {found.__name__} has no attribute '{name}'. {hint}", name=name, obj=self)


class Tags(dict[str, str]):
    """A copy of a run's tags. A change would be lost, so it raises TypeError."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("A change of run.tags would be lost. Use run.set_tags({...}), or a copy: dict(run.tags).")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (dict(self),)


class Recording(Partial, ABC):
    """A run that a script logs to. It collects values and sends them in the background, within about a second. `flush`
    waits for that. It sends files immediately.

    You may call all methods from any thread and any rank. All ranks write to the same run.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_known = name[0] == "_" or hasattr(type(self), name) or name in type(self).__annotations__
        if name == "tags" or not is_known:
            hint = "Use run.set_tags({...})." if name == "tags" else "You can set display_name and description."
            raise AttributeError(f"'{name}' of a run cannot be set. {hint}", name=name, obj=self)
        super().__setattr__(name, value)

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Log one value: a number, a truth value or text. Scalars of numpy and PyTorch count as numbers. Repeated calls
        with the same name add to the metric.

        Raises BadUsage for a list. himl ignores *description*, like azureml-core.
        """
        self._add(writing.scalar(name, value, step))

    def log_list(self, name: str, value: Iterable[Any], description: str = "") -> None:
        """Log a list of values. Raises BadUsage for anything else."""
        self._add(writing.values(name, value))

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Add a row to the table *name*, with the other arguments as columns. Raises BadUsage without columns, and for
        a list as a value."""
        if not kwargs:
            raise BadUsage(
                f"'{name}': a row must have columns.", hint=f"For example log_row('{name}', epoch=1, loss=0.5)"
            )
        self._add(writing.row(name, kwargs))

    def log_table(self, name: str, value: Mapping[str, Any], description: str = "") -> None:
        """Log a table, a dictionary of columns of equal length. Raises BadUsage for anything else."""
        self._add(writing.table(name, value))

    def log_image(
        self, name: str, path: str | os.PathLike[str] | None = None, plot: Any = None, description: str = ""
    ) -> None:
        """Log an image, which becomes a file of the run: the file *path*, or *plot*, a matplotlib figure or
        matplotlib.pyplot.

        The file keeps its path below the current folder. Other images, and those in `outputs/` and `logs/`, are in
        `images/`. Images of one call never replace those of another: a number is added to the name if it has another
        content already.

        Raises BadUsage unless you pass exactly one of them, and for a missing file.
        """
        if (path is None) == (plot is None):
            raise BadUsage(f"'{name}': log_image needs either path or plot.")
        if plot is not None:
            if not callable(getattr(plot, "savefig", None)):
                raise BadUsage(
                    f"'{name}': a plot must have a method savefig, which {type(plot).__name__} lacks.",
                    hint="Use a matplotlib figure, or matplotlib.pyplot.",
                )
            with tempfile.TemporaryDirectory(prefix="himl-") as folder:
                path = Path(folder, "plot.png")
                plot.savefig(path, format="png")
                file = self._store_image(f"{name}_{int(time.time())}.png", path)
        else:
            given = Path(os.path.abspath(path or ""))
            named = given.relative_to(self._start if given.is_relative_to(self._start) else given.anchor)
            if named.parts[:1] in (("outputs",), ("logs",)) or not given.is_relative_to(self._start):
                named = "images" / named  # the script may replace its outputs later
            file = self._store_image(named.as_posix(), Path(path or ""))
        self._add(writing.image(name, file))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Save *text* as the file *artifact_file* of the run."""
        self._store_bytes(artifact_file, str(text).encode())

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Save a file, or the rest of a binary stream, as the run's file *name*, and replace an existing one.

        Raises BadUsage for a missing file, and for a *datastore_name*.
        """
        _check_place(datastore_name)
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
        datastore_name: str | None = None,
    ) -> None:
        """Save several files. Raises BadUsage if the numbers of names and paths differ, and for a *datastore_name*.

        *return_artifacts* and *timeout_seconds* have no effect: the method returns nothing, and requests have their own
        limits.
        """
        _check_place(datastore_name)
        if len(names) != len(paths):
            raise BadUsage(f"upload_files needs as many names as paths, not {len(names)} and {len(paths)}.")
        self._store_files({name: Path(path) for name, path in zip(names, paths, strict=True)})

    def upload_folder(self, name: str, path: str | os.PathLike[str], datastore_name: str | None = None) -> None:
        """Save all files of the folder *path* as `NAME/…`. Raises BadUsage if it is not a folder, and for a
        *datastore_name*."""
        _check_place(datastore_name)
        from himl_cli.core.files import walk_files

        folder = Path(path)
        if not folder.is_dir():
            raise BadUsage(f"Folder '{path}' does not exist.")
        prefix = f"{name.strip('/')}/" if name.strip("/.") else ""
        self._store_files(
            {prefix + found.name: Path(found.path) for found in walk_files(str(folder), skip_workspaces=True)}
        )

    def tag(self, key: str, value: Any = None) -> None:
        """Set one tag, with the value as text. None is the empty text."""
        self.set_tags({key: "" if value is None else value})

    @abstractmethod
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set *tags*, with values as text. Other tags do not change."""

    @abstractmethod
    def flush(self, timeout_seconds: int = 300) -> None:
        """Wait until the workspace has stored the logged values and returns them. Raises ServiceFailed if it cannot
        send them now. himl then sends them later.

        himl always sends all values. *timeout_seconds* limits the wait until the workspace returns them, which a
        service may delay.
        """

    @abstractmethod
    def complete(self) -> None:
        """Send pending values, and record that the run completed."""

    @abstractmethod
    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Send pending values, and record that the run failed, with *error_details* as the reason."""

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

    @cached_property
    def _start(self) -> Path:
        return Path.cwd()

    @cached_property
    def _images(self) -> dict[str, bytes]:
        """The MD5 of each logged image, by its name in the run."""
        return {}

    def _store_image(self, name: str, path: Path) -> str:
        """Store the image under *name*, or with a number if that is an image with another content. Return its name."""
        plain, file, number = PurePosixPath(name), name, 0
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).digest() if path.is_file() else None
        while digest is not None and self._images.setdefault(file, digest) != digest:
            number += 1
            file = str(plain.with_name(f"{plain.stem}_{number}{plain.suffix}"))
        self._store_files({file: path})
        return file

    def _store_bytes(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="himl-") as folder:
            path = Path(folder, "content")
            path.write_bytes(content)
            self._store_files({name: path})


def _check_place(datastore_name: str | None) -> None:
    if datastore_name is not None:
        raise BadUsage(
            "The files of a run are in the workspace's own storage, so datastore_name has no effect.",
            hint="Omit it, or use Datastore.upload_files.",
        )


def reason_of(error_details: str | BaseException | None, error_code: str | None) -> str:
    """The reason of a failure as text."""
    if isinstance(error_details, BaseException):
        return f"{type(error_details).__name__}: {error_details}"
    return error_details or error_code or "the program reported a failure"


class OfflineRun(Recording):
    """A run outside of a job. It writes values to Python's logging at level INFO, and `get_metrics` returns them. It
    sends no requests and writes no files.

    It has no `experiment`, by which users of azureml-core detect such a run.
    """

    _instead: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("experiment", "parent", "workspace"), "This process is not in a job. Start it with himl submit."
    )
    id: str
    status: str
    display_name = ""
    description = ""

    def __init__(self) -> None:
        self.id = f"OfflineRun_{uuid.uuid4()}"
        self.status = "Running"
        self._tags: dict[str, str] = {}
        self._logged: dict[str, list[Logged]] = {}

    @property
    def tags(self) -> dict[str, str]:
        """The tags, to read."""
        return Tags(self._tags)

    def get_status(self) -> str:
        """Running, or Completed or Failed after a call of `complete` or `fail`."""
        return self.status

    def get_tags(self) -> dict[str, str]:
        """A copy of the tags."""
        return dict(self._tags)

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """The logged metrics by name: a value, or a list if there are several. A table is a dictionary of columns."""
        return {metric: _value(entries) for metric, entries in self._logged.items() if name in (None, metric)}

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set *tags*, with values as text. Other tags do not change."""
        self._tags.update({key: str(value) for key, value in tags.items()})
        log.info("No run to tag with %s.", dict(tags))

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove tags by name. Other tags do not change."""
        for name in tags:
            self._tags.pop(name, None)

    def flush(self, timeout_seconds: int = 300) -> None:
        """Do nothing, as no values are pending."""

    def complete(self) -> None:
        """Set the status to Completed."""
        self.status = "Completed"

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Set the status to Failed, and log the reason as a warning."""
        self.status = "Failed"
        log.warning("Failed, without a run to record it: %s", reason_of(error_details, error_code))

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
