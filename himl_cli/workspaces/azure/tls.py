"""Which certificate authorities count: the usual variables, the same for every client that himl uses.

requests reads REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, OpenSSL reads SSL_CERT_FILE, libcurl's library reads none of
them. So the file is chosen here, once, and handed to each client.
"""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import BadUsage, ServiceFailed

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def ca_source() -> str:
    """Where `ca_bundle` takes it from: the first of the variables that is set, else `certifi`."""
    return next((name for name in CA_VARIABLES if os.environ.get(name, "").strip()), "certifi")


def ca_bundle() -> str:
    """The file (or folder) of certificate authorities. Raises BadUsage where a variable names nothing that exists."""
    name = ca_source()
    if name == "certifi":
        import certifi

        return certifi.where()
    path = os.environ[name].strip()
    if not Path(path).exists():
        raise BadUsage(
            f"{name} names '{path}', which does not exist.",
            hint="Correct the variable, or unset it to trust the usual authorities.",
        )
    return path


def check_authorities(path: str, cause: BaseException) -> None:
    """Raises ServiceFailed where the file of authorities, as `ca_bundle` gave it, is not there any more."""
    if not Path(path).exists():
        raise ServiceFailed(
            f"The certificate authorities in '{path}' ({ca_source()}) are not there any more.",
            hint="Put the file back, or correct the variable that names it.",
        ) from cause
