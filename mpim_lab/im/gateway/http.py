"""HttpRoutes: what a gateway answers to a plain HTTP request.

| path       | answer                                                                              |
|------------|-------------------------------------------------------------------------------------|
| `/`        | the web page; its parts are beside it (`/mpim.js`, …)                               |
| `/ws`      | the WebSocket (`protocol/frames.py`)                                                |
| `/login`   | a token for `?user=…`, where logging in by name alone is allowed (never outside the |
|            | lab)                                                                                |
| `/healthz` | 200 while the gateway can do its work, 503 otherwise                                |
| `/metrics` | metrics for Prometheus                                                              |

A page of another site that is open in the same browser must not get in: a request that names an
`Origin` other than its own host, or (DNS rebinding) a host that is neither an address nor
localhost, is refused.
"""

import ipaddress
import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from mpim_lab.errors import InvalidParameter

_WEB_DIR = Path(__file__).parents[1] / "web"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class HttpRoutes:
    """The routes for plain requests. login: makes a token for a user.

    None where nobody may log in by name.
    """

    def __init__(
        self,
        *,
        login: Callable[[str], str] | None,
        is_healthy: Callable[[], bool],
        metrics: Callable[[], bytes],
    ) -> None:
        self._login, self._is_healthy, self._metrics = login, is_healthy, metrics
        self._files = {
            f"/{path.name}": path for path in _WEB_DIR.iterdir() if path.suffix in _TYPES
        }
        self._files["/"] = _WEB_DIR / "index.html"

    def handle(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the response to a request; None: go on with the WebSocket."""
        try:
            url = urlsplit(request.path)
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "that is no address")
        if not _is_same_origin(request):
            return _error(HTTPStatus.FORBIDDEN, "a page of another site asked")
        answers: dict[str, Callable[[], Response | None]] = {
            "/ws": lambda: None,
            "/healthz": self._health,
            "/metrics": lambda: _response(
                HTTPStatus.OK, "text/plain; version=0.0.4", self._metrics()
            ),
            "/login": partial(self._token, parse_qs(url.query).get("user", [""])[0]),
        }
        found = answers.get(url.path)
        if found is not None:
            return found()
        if url.path in self._files:
            path = self._files[url.path]
            return _response(HTTPStatus.OK, _TYPES[path.suffix], path.read_bytes())
        return _error(HTTPStatus.NOT_FOUND, f"there is no {url.path[:80]} here")

    def _health(self) -> Response:
        healthy = self._is_healthy()
        status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return _response(status, "text/plain", b"ok\n" if healthy else b"not ready\n")

    def _token(self, user: str) -> Response:
        if self._login is None:
            return _error(HTTPStatus.FORBIDDEN, "this system does not let anybody in by name alone")
        try:
            body = {"token": self._login(user)}
        except InvalidParameter as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return _response(HTTPStatus.OK, "application/json", json.dumps(body).encode())


def _response(status: HTTPStatus, content_type: str, body: bytes) -> Response:
    text = (
        "" if "charset" in content_type or content_type == "application/json" else "; charset=utf-8"
    )
    headers = Headers(
        {
            "Content-Type": content_type + text,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    headers.update(_HEADERS)
    return Response(status.value, status.phrase, headers, body)


def _error(status: HTTPStatus, text: str) -> Response:
    body = {"error": status.phrase, "text": text}
    return _response(status, "application/json", json.dumps(body).encode())


def _is_same_origin(request: Request) -> bool:
    hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
    if len(hosts) != 1 or len(origins) > 1:
        return False
    try:
        name = urlsplit(f"//{hosts[0]}").hostname or ""
        return _is_local_host(name) and all(
            urlsplit(origin).netloc == hosts[0] for origin in origins
        )
    except ValueError:  # a bracket that is not closed, and the like
        return False


def _is_local_host(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
