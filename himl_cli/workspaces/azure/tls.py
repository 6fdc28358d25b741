"""Which certificate authorities and proxies count: the usual variables, the same for every client that himl uses.

requests reads REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, OpenSSL reads SSL_CERT_FILE, libcurl's library reads none of
them. So the file is chosen here, once, and handed to each client.
"""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import BadUsage, ServiceFailed

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def ca_bundle() -> str:
    """The file (or folder) of certificate authorities: the first of the variables that is set, else certifi's.

    Raises BadUsage where a variable names nothing that exists.
    """
    for name in CA_VARIABLES:
        path = os.environ.get(name, "").strip()
        if path and not Path(path).exists():
            raise BadUsage(
                f"{name} names '{path}', which does not exist.",
                hint="Correct the variable, or unset it to trust the usual authorities.",
            )
        if path:
            return path
    import certifi

    return certifi.where()


def lost_authorities(path: str) -> ServiceFailed | None:
    """The error for a file of authorities, as `ca_bundle` gave it, that is not there any more; None where it is."""
    if Path(path).exists():
        return None
    return ServiceFailed(
        f"The certificate authorities in '{path}' ({ca_source()}) are not there any more.",
        hint="Put the file back, or correct the variable that names it.",
    )


def ca_source() -> str:
    """Where `ca_bundle` took it from: the variable's name, or `certifi`."""
    return next((name for name in CA_VARIABLES if os.environ.get(name, "").strip()), "certifi")
