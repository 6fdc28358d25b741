"""Which proxy a URL goes through, by the rules of urllib and requests."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str, host: str) -> str:
    """The proxy for *url* (on *host*, maybe with a port): HTTPS_PROXY and the like, less NO_PROXY; empty for none."""
    proxies = getproxies()
    proxy = proxies.get(url.split(":", 1)[0]) or proxies.get("all") or ""
    return "" if not proxy or proxy_bypass(host) else proxy
