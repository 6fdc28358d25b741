"""Why a job does not end well, and the error that its record then has."""

from __future__ import annotations

from tests.servers.azureml.answers import ServiceError, error_document
from tests.servers.azureml.state import Json

COMPONENT = "execution-wrapper"


class JobCanceled(Exception):
    """Somebody asked for the end, or the job's time is over."""


class JobPreempted(Exception):
    """Its node was taken away: the job begins anew."""


class JobFailed(Exception):
    """The text is what the run's `error` says; `inner` its machine-readable cause."""

    def __init__(self, message: str, inner: str = "ExecutionFailed", component: str = COMPONENT) -> None:
        super().__init__(message)
        self.inner, self.component = inner, component

    def document(self) -> Json:
        """The `error` of the run."""
        return error_document(ServiceError(400, "UserError", str(self), inner=self.inner), self.component)


class PreemptedForGood(JobFailed):
    """Its node was taken away, and it gets no other."""

    def __init__(self) -> None:
        super().__init__("PreemptionError: Nodes of this job got pre-empted, and it was not started again.", "PreemptionError")


class DataMissing(JobFailed):
    """An input that is not there, or names what the job cannot reach: found out when the data is mounted, not when the job is submitted."""

    def __init__(self, uri: str, reason: str = "NotFound") -> None:
        super().__init__(f"Failed to start data session for {uri}: DataAccessError({reason})", f"DataAccessError({reason})", "data-capability")


def exited(program: str, code: int, log: str, text: str) -> JobFailed:
    """A process of the user's that ended with *code*; *text* is the last of its log."""
    return JobFailed(
        f"Execution failed. User process '{program}' exited with status code {code}. Please check log file '{log}' for error details. Error: {text}"
    )
