"""A service that cannot be asked for a while."""

from __future__ import annotations

from himl_cli.core.errors import HimlError, IntegrityFailed, NotAllowed, ServiceFailed
from himl_cli.core.events import Notice, Notify


def may_pass(error: HimlError) -> bool:
    """Whether to go on asking: the network may come back or carry bytes as they are, somebody may sign in again."""
    return isinstance(error, (ServiceFailed, NotAllowed, IntegrityFailed))


class Troubles:
    """Says of what goes wrong each kind once, and that it is over."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._said: set[int] = set()
        self._failing: set[str] = set()

    def meet(self, what: str, error: HimlError) -> None:
        """*what* could not be asked."""
        self._failing.add(what)
        if error.exit_code not in self._said:
            self._said.add(error.exit_code)
            self._notify(
                Notice(
                    " ".join(filter(None, (str(error), error.hint, "Still trying; TensorBoard shows what is here.")))
                )
            )

    def pass_by(self, what: str) -> None:
        """*what* was asked, or is not asked any more."""
        self._failing.discard(what)
        if self._said and not self._failing:
            self._said.clear()
            self._notify(Notice("The service answers again."))
