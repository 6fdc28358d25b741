"""The webhook that is notified of the end of a run, and the record of the notification."""

from __future__ import annotations

from dataclasses import field

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import is_address, parts_of

# The status of a run's notification by a webhook: one of four words, and the webhook's host or the reason of a failure
NOTIFICATION = "himl.notification"
DUE, SENDING, SENT, NOT_SENT = "due", "sending", "sent", "failed"
WEBHOOK_FORMATS = ("json", "slack", "teams")


@dataclass(frozen=True)
class Webhook:
    """The address to notify of the end of a run, and one of WEBHOOK_FORMATS. The address is a secret, since those of
    Slack and Teams contain a key."""

    url: str = field(repr=False)
    format: str

    @classmethod
    def of(cls, address: str, form: str | None = None) -> Webhook:
        """The webhook at *address*, in the format *form* or, by default, in the format of its host. Raises BadUsage,
        whose message contains the host of the address only, because the rest is a secret."""
        url, parts = address.strip(), parts_of(address.strip())
        is_valid = is_address(url) and parts.hostname and url.isascii() and url.isprintable()
        if not is_valid or " " in url or parts.username:
            raise BadUsage(
                f"--notify: himl cannot post to the address{f' at {parts.hostname}' if parts.hostname else ''}.",
                hint="Use https://HOST/PATH, without a user name or spaces. Messages omit it because it is a secret.",
            )
        hosts = {
            "slack": ("slack.com", "slack-gov.com"),
            "teams": ("webhook.office.com", "logic.azure.com", "powerplatform.com"),
        }
        known = (name for name, ends in hosts.items() if f".{parts.hostname}".endswith(tuple(f".{e}" for e in ends)))
        return cls(url, form or next(known, "json"))

    @property
    def host(self) -> str:
        """The part of the address that messages and records may contain."""
        return parts_of(self.url).hostname or ""
