"""azure-identity's credentials with himl's limits; imported (0.15 s of CPU) when a token is really needed."""

from __future__ import annotations

from typing import Any

from himl_cli.workspaces.retry import RetryPolicy

SIGN_IN = RetryPolicy(attempts=4, first=0.5, total=16.0, longest_asked=16.0, read_timeout=15.0)
"""A place of sign-in that stalls is given up within some 40 s; somebody may be waiting for it."""


class Credential:
    """A credential of azure-identity that makes its requests as himl does, and remembers when they are not answered."""

    def __init__(self, name: str, *arguments: str, policy: RetryPolicy = SIGN_IN, **options: Any) -> None:
        """The class called *name*, with these arguments."""
        import azure.identity

        from himl_cli.workspaces.azure.transport import Transport

        self._transport = Transport(policy)
        retries = {"retry_total": 0}  # the transport tries again
        self._inner = getattr(azure.identity, name)(*arguments, transport=self._transport, **retries | options)

    @property
    def failing_status(self) -> int:
        """The status by which the place of sign-in said that it is busy or failing; 0 where it did not."""
        return self._transport.failing_status

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken, with *claims* (JSON). Raises azure-core's ClientAuthenticationError."""
        self._transport.failing_status = 0
        return self._inner.get_token(scope, claims=claims)

    def close(self) -> None:
        """Close its connections."""
        self._inner.close()
        self._transport.close()


def tool(name: str, **options: Any) -> Any:
    """A credential of azure-identity that runs a program."""
    import azure.identity

    return getattr(azure.identity, name)(**options)


class AzureCli:
    """`az account get-access-token`, first for the workspace's subscription: that picks its account and its tenant.

    An account that does not see the subscription (or an old `az`) is asked once more without it, so that the service
    can say what is wrong in its own words.
    """

    def __init__(self, subscription_id: str, tenant_id: str, seconds: int) -> None:
        self._choices: list[dict[str, Any]] = (
            [{"tenant_id": tenant_id}] if tenant_id else [{"subscription": subscription_id}, {}]
        )
        self._seconds = seconds

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken. Raises azure-core's ClientAuthenticationError; for *claims* with the command that
        gets them."""
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import AzureCliCredential, CredentialUnavailableError

        if claims:
            tenant = self._choices[0].get("tenant_id") or None  # named in the command
            return AzureCliCredential(process_timeout=self._seconds).get_token(scope, claims=claims, tenant_id=tenant)
        for choice in self._choices[:-1]:
            try:
                return AzureCliCredential(process_timeout=self._seconds, **choice).get_token(scope)
            except CredentialUnavailableError:
                raise
            except ClientAuthenticationError as err:
                if "AADSTS" in str(err):
                    raise
        return AzureCliCredential(process_timeout=self._seconds, **self._choices[-1]).get_token(scope)
