"""From what the user asked for to a job that a workspace can run."""

from himl_cli.services.submission.prepare import command_line, prepare_job
from himl_cli.services.submission.quantities import parse_duration
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.services.submission.send import submit_job

__all__ = ["PreparedJob", "SubmitRequest", "command_line", "parse_duration", "prepare_job", "submit_job"]
