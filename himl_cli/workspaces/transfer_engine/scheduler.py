"""Requests that are retried until they succeed, many of them at once.

A task is a generator that yields a request and gets its response. One that yields None gets the same response again
when more of it has arrived. A failure ends the attempt, and the retry policy decides whether there is another.
"""

from __future__ import annotations

import heapq
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import field
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from himl_cli.core.errors import HimlError
from himl_cli.core.records import dataclass
from himl_cli.workspaces.retry import Failure, PauseLog, RetryPolicy, RetryState
from himl_cli.workspaces.transfer_engine.curl import CurlClient, CurlPool, CurlRequest, CurlResponse

LONGEST_STEP = 1.0  # seconds without a check of the caller's wishes, such as Ctrl-C

Answer = TypeVar("Answer")
Attempt: TypeAlias = Generator[CurlRequest | None, CurlResponse, None]


class AttemptFailed(Exception):
    """The response so far is wrong, so its rest is not needed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


@dataclass(frozen=True)
class Signed:
    """A signed URL, and the headers to send with it. `signature` is for the endpoint that made it."""

    url: str = field(repr=False)
    headers: tuple[str, ...] = field(repr=False)
    signature: Any = field(default=None, repr=False)


class Endpoint(ABC):
    """The location of files: turns their names into signed URLs, and its failed responses into errors.

    `signed` and `renewed` raise HimlError on failure.
    """

    label: str  # as the user named it
    origin: str  # as `BlobStore.origin`

    def __init__(self) -> None:
        self.host = ""
        self.expires, self.is_unproven = 0.0, False  # of the last signature
        self.pauses = PauseLog()  # of all requests of the store

    @abstractmethod
    def signed(self, name: str, query: str = "") -> Signed:
        """The signed URL of the file *name*, with *query* for the operation, such as `comp=block`."""

    @abstractmethod
    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Return whether `signed` gives another signature after the service rejected *refused*."""

    @abstractmethod
    def failure(self, response: CurlResponse, name: str) -> Failure:
        """The failure of a request for *name*."""

    def worked(self) -> None:  # noqa: B027  (most subclasses ignore it)
        """Record that the service accepted the last result of `signed`."""


class Task(ABC):
    """One request after the other until `name` is done."""

    def __init__(self, name: str, endpoint: Endpoint, retries: RetryState) -> None:
        self.name = name
        self.endpoint = endpoint
        self._retries = retries
        self._failures = 0
        self._was_renewed = False
        self._signed: Signed | None = None

    @abstractmethod
    def attempt(self) -> Attempt:
        """Do the task. Called again after a transient failure. Raises AttemptFailed, and HimlError before its first
        request."""

    @abstractmethod
    def fail(self, error: HimlError) -> None:
        """Report that the task has failed."""

    def request(
        self, *headers: str, query: str = "", sign: Callable[[], Signed] | None = None, **options: Any
    ) -> CurlRequest:
        """A request for `name`, or for the URL from *sign*. *options* are CurlRequest's. Raises AttemptFailed if it
        cannot be signed."""
        try:
            self._signed = signed = sign() if sign is not None else self.endpoint.signed(self.name, query)
        except HimlError as error:
            raise AttemptFailed(Failure(error)) from error
        return CurlRequest(signed.url, [*signed.headers, *headers], **options)

    def check(self, response: CurlResponse, *statuses: int) -> None:
        """Raise AttemptFailed unless *response* is complete and has one of *statuses*."""
        if response.failure is not None or response.status not in statuses:
            raise AttemptFailed(self.failure(response))

    def failure(self, response: CurlResponse) -> Failure:
        return self.endpoint.failure(response, self.name)

    def progressed(self) -> None:
        """Reset the count of failures."""
        self._failures, self._was_renewed = 0, False
        self._retries.is_given_up, self._retries.has_worked = False, True
        self.endpoint.worked()

    def retry(self, failure: Failure) -> float | None:
        """Seconds until the next attempt, or None if the task has failed."""
        try:
            if (
                failure.is_refusal
                and not self._was_renewed
                and self._signed is not None
                and self.endpoint.renewed(self.name, self._signed, failure.code)
            ):
                self._was_renewed = True
                return 0.0
            self._failures += 1
            if failure.is_refusal and (self._was_renewed or self.endpoint.is_unproven):
                raise failure.again or failure.error
            return self._retries.wait(self._failures, failure)
        except HimlError as error:
            self.fail(error)
            return None


class Scheduler:
    """Carries out tasks in the caller's thread, up to *workers* at once.

    *next_task* returns the next one or None, which means "not yet" while *is_preparing* returns True. *on_step* is
    called regularly to continue other work.
    """

    def __init__(
        self,
        client: CurlClient,
        next_task: Callable[[], Task | None],
        workers: int,
        *,
        is_preparing: Callable[[], bool] = bool,
        on_step: Callable[[], object] = bool,
    ) -> None:
        self._client = client
        self._next_task = next_task
        self._is_preparing = is_preparing
        self._on_step = on_step
        self._workers = max(1, workers)
        self._running: dict[CurlResponse, tuple[Task, Attempt]] = {}
        self._waiting: list[tuple[float, int, Task]] = []  # for another attempt, by time
        self._numbers = count()

    def run(self) -> None:
        while self.step(LONGEST_STEP):
            pass

    def step(self, longest: float) -> bool:
        """Continue, waiting at most this many seconds for an event. Returns False once all tasks have ended."""
        self._fill()
        if not self._running and not self._waiting and not self._is_preparing():
            return False
        self._on_step()
        if len(self._running) < self._workers and self._is_preparing():
            longest = min(longest, 0.005)
        if self._waiting:
            longest = min(longest, max(0.0, self._waiting[0][0] - time.monotonic()))
        ended = [(response, *self._running.pop(response)) for response in self._client.poll(longest)]
        # The next requests go out before these responses are processed, which may take as long as a round trip.
        if ended:
            self._fill()
            self._client.perform()
        for response, task, attempt in ended:
            self._go_on(task, attempt, response)
        for response in self._client.with_pieces():
            if response in self._running:
                self._go_on(*self._running.pop(response), response)
        return True

    def _fill(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._go_on(heapq.heappop(self._waiting)[2])
        while len(self._running) + len(self._waiting) < self._workers and (task := self._next_task()) is not None:
            self._go_on(task)

    def _go_on(self, task: Task, attempt: Attempt | None = None, response: CurlResponse | None = None) -> None:
        """Continue *attempt* with *response*, or begin another one without them. Sends its next request."""
        try:
            if attempt is None or response is None:
                attempt = task.attempt()
                request = next(attempt)
            else:
                request = attempt.send(response)
                if request is not None:
                    self._client.release(response)
            if request is not None:
                response = self._client.send(request)
            assert response is not None
            self._running[response] = task, attempt
        except StopIteration:
            if response is not None:
                self._client.release(response)
        except AttemptFailed as failed:
            if response is not None:
                self._client.release(response)
            seconds = task.retry(failed.failure)
            if seconds is not None:
                heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), task))
        except HimlError as error:
            if response is not None:  # an error of the sink itself
                raise
            task.fail(error)


def run_tasks(pool: CurlPool, tasks: Iterator[Task], workers: int, *, on_step: Callable[[], object] = bool) -> None:
    with pool.client() as client:
        Scheduler(client, lambda: next(tasks, None), workers, on_step=on_step).run()


class Query(Task, Generic[Answer]):
    """One request, with *parse* applied to a response of one of *statuses*. For a streamed one, the head suffices.

    It is for the blob *name*. *options* are those of `Task.request`.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        policy: RetryPolicy,
        parse: Callable[[CurlResponse], Answer],
        *headers: str,
        statuses: tuple[int, ...] = (200,),
        **options: Any,
    ) -> None:
        super().__init__(name, endpoint, RetryState(policy, endpoint.pauses))
        self._parse = parse
        self._headers = headers
        self._statuses = statuses
        self._options = options
        self._error: HimlError | None = None

    def attempt(self) -> Attempt:
        response = yield self.request(*self._headers, **self._options)
        self.check(response, *self._statuses)
        self.progressed()
        try:
            self._answer = self._parse(response)
        except HimlError as error:  # for the caller of this query, not for one who waits for another task
            self._error = error

    def fail(self, error: HimlError) -> None:
        self._error = error

    @property
    def answer(self) -> Answer:
        if self._error is not None:
            raise self._error
        return self._answer


class PendingQuery(Generic[Answer]):
    """A query in progress while other requests run."""

    def __init__(self, query: Query[Answer], pool: CurlPool) -> None:
        self._query = query
        self._stack = ExitStack()
        tasks: Iterator[Task] = iter([query])
        self._scheduler = Scheduler(self._stack.enter_context(pool.client()), lambda: next(tasks, None), 1)
        self._thread = threading.get_ident()
        self._is_over = False
        try:
            self.poll()
        except BaseException:
            self.close()
            raise

    def poll(self) -> None:
        """Continue without waiting. Only for the thread that started it."""
        if not self._is_over and threading.get_ident() == self._thread and not self._scheduler.step(0):
            self.close()

    def wait(self) -> Answer:
        try:
            while not self._is_over and self._scheduler.step(LONGEST_STEP):
                pass
        finally:
            self.close()
        return self._query.answer

    def close(self) -> None:
        self._is_over = True
        self._stack.close()


def ask(query: Query[Answer], pool: CurlPool) -> Answer:
    return PendingQuery(query, pool).wait()
