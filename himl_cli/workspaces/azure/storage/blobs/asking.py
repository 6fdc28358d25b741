"""Single questions to storage: asked, waited for, or left to come in while other things move."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.access import Access, Signed
from himl_cli.workspaces.azure.storage.blobs.lines import Exchange, Exchanger, Line
from himl_cli.workspaces.azure.storage.blobs.tasks import LONGEST_LOOK, Run, Task, Tasks
from himl_cli.workspaces.retry import RetryPolicy, RetryState

Answer = TypeVar("Answer")


class Question(Task, Generic[Answer]):
    """A request for what *understand* makes of the answer; *good* are the statuses that are one.

    It is for the blob called *name*, unless *signed* gives another URL.
    """

    def __init__(
        self,
        name: str,
        access: Access,
        retries: RetryPolicy,
        understand: Callable[[Line], Answer],
        *,
        method: str = "GET",
        headers: tuple[str, ...] = (),
        body: bytes | None = None,
        good: tuple[int, ...] = (200,),
        signed: Callable[[], Signed] | None = None,
    ) -> None:
        super().__init__(name, access, RetryState(retries, access.pauses))
        self._understand = understand
        self._method = method
        self._headers = headers
        self._body = body
        self._good = good
        self._sign = signed or (lambda: access.signed(name))
        self._answers: list[Answer] = []
        self._error: HimlError | None = None

    def exchange(self) -> Exchange:
        self._signed = self._sign()
        return Exchange(self._signed.url, [*self._signed.headers, *self._headers], self._method, self._body)

    def answered(self, line: Line) -> float | None:
        if line.status not in self._good:
            return self.after(self.fault(line))
        self.moved()
        try:
            self._answers.append(self._understand(line))
        except HimlError as error:  # it belongs to whoever asked, not to whoever is waiting for something else
            self._error = error
        return None

    def fail(self, error: HimlError) -> None:
        self._error = error

    @property
    def answer(self) -> Answer:
        """The answer. Raises the error that it came to instead."""
        if self._error is not None:
            raise self._error
        return self._answers[0]


class Pending(Generic[Answer]):
    """A question that is under way."""

    def __init__(self, question: Question[Answer], exchanger: Exchanger) -> None:
        self._question = question
        self._stack = ExitStack()
        self._run = Run(self._stack.enter_context(exchanger.lines()), Tasks(iter([question])), 1)
        self._thread = threading.get_ident()
        self.is_over = False
        try:
            self.go_on()
        except BaseException:
            self.drop()
            raise

    def go_on(self) -> None:
        """Do what can be done without waiting; only in the thread that asked."""
        if not self.is_over and threading.get_ident() == self._thread and not self._run.step(0):
            self.drop()

    def wait(self) -> Answer:
        """The answer. Raises HimlError."""
        try:
            while not self.is_over and self._run.step(LONGEST_LOOK):
                pass
        finally:
            self.drop()
        return self._question.answer

    def drop(self) -> None:
        """Nothing more is wanted."""
        if not self.is_over:
            self.is_over = True
            self._stack.close()
