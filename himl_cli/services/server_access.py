"""Access to the pages of `himl ui` and `himl tb`: by the address with a token, which himl prints, then by a cookie.

Every user of a machine can connect to its ports. The token reaches the server through a pipe, and the browser through a
file that only its user can read, because all users can list the arguments of processes.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from io import BufferedIOBase
from socket import socket
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from himl_cli.core.records import dataclass

# The browser follows a redirection of a link on another site without a Strict cookie, but not this script
SIGN_IN = b"""<!doctype html><title>himl</title>
<script>
const address = new URL(location)
address.searchParams.delete("token")
location.replace(address)
</script>"""
REFUSED = b"To open this page, use the address with the token that himl printed.\n"
SILENT_SECONDS, SENT_AT_ONCE = 10, 64 * 1024
MARKUP = ("Content-Type", "text/html; charset=utf-8")
PRIVATE = [("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer")]


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""


@dataclass(frozen=True)
class Access:
    """Who may use a server: all who can reach it if *token* is empty. *mark* is a path by which himl recognizes the
    server. It opens nothing, because another program may have the port. *reads_only* refuses all changes."""

    token: str
    mark: str
    reads_only: bool = False

    @classmethod
    def new(cls, *, has_token: bool, reads_only: bool = False) -> Access:
        return cls(secrets.token_hex(16) if has_token else "", secrets.token_hex(8), reads_only)

    def answer(self, port: int, path: str, query: str, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a request that does not reach the pages, or None. The names of *headers* are in lower case."""
        if path == f"/{self.mark}":
            return Answer(HTTPStatus.OK, [])
        if not self.token:
            return None
        given = parse_qs(query).get("token", [""])[0]
        cookie = f"himl_{port}"  # browsers send the cookies of a host to all its ports
        if self._is_token(given):
            signed_in = f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            return Answer(HTTPStatus.OK, [MARKUP, *PRIVATE, ("Set-Cookie", signed_in)], SIGN_IN)
        cookies = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        programs = headers.get("authorization", "").removeprefix("Bearer ")
        if any(self._is_token(value) for value in [programs, *(value for name, _, value in cookies if name == cookie)]):
            return None
        return Answer(HTTPStatus.FORBIDDEN, [("Content-Type", "text/plain"), *PRIVATE], REFUSED)

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())


class InPieces(BufferedIOBase):
    """Writes to a connection in pieces, because its time-out is that of a whole call, and a slow client may take longer
    for a large answer."""

    def __init__(self, connection: socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content)
        for start in range(0, len(view), SENT_AT_ONCE):
            self._connection.sendall(view[start : start + SENT_AT_ONCE])
        return len(view)


def run_tensorboard(access: Access) -> None:
    """Run TensorBoard with the arguments of this process behind *access*. Below the mark, it answers with the status
    alone."""
    from absl import app as program_of_flags
    from tensorboard import main_lib, program
    from werkzeug.wrappers import Response

    def serve(app: Callable[..., Iterable[bytes]], flags: Any) -> program.WerkzeugServer:
        server = program.WerkzeugServer(partial(answer, app, flags.port), flags)

        class Handler(server.RequestHandlerClass):  # type: ignore[misc, name-defined]
            timeout = SILENT_SECONDS  # without it, a silent connection has a thread for as long as TensorBoard runs

            def setup(self) -> None:
                super().setup()
                self.wfile = InPieces(self.connection)

        server.RequestHandlerClass = Handler
        return server

    def answer(
        app: Callable[..., Iterable[bytes]], port: int, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(f"/{access.mark}/"):
            inner = path.removeprefix(f"/{access.mark}")
            status = Response.from_app(app, {**environ, "PATH_INFO": inner}).status_code
            return Response(status=status)(environ, start_response)
        headers = {name: environ.get(f"HTTP_{name.upper()}", "") for name in ("cookie", "authorization")}
        refused = access.answer(port, path, environ.get("QUERY_STRING", ""), headers)
        if refused is None:
            return app(environ, start_response)
        return Response(refused.body, refused.status, refused.headers)(environ, start_response)

    main_lib.global_init()
    board = program.TensorBoard(server_class=serve)
    program_of_flags.run(board.main, flags_parser=board.configure)
