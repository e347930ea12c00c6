"""The admin port: full metrics, status, the live page, drain. Loopback by default; it has no key of its own."""

import ipaddress
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from aiohttp import web

from proxy.errors import MethodNotAllowed, Unauthorized, UnknownRoute
from proxy.metrics import Metrics
from proxy.replies import error_response, json_response
from proxy.status import Status

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
# Browsers add these by themselves to what a page asks for, and a page cannot take them off (Fetch standard).
_FROM_A_PAGE: Final = frozenset({"Origin", "Sec-Fetch-Site"})
_Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Admin:
    """Answers the admin port's few routes."""

    def __init__(
        self, metrics: Metrics, status: Callable[[], Status], drain: Callable[[], Awaitable[bool]]
    ) -> None:
        """`drain` returns True once nothing waits or runs, False where time ran out."""
        self._metrics = metrics
        self._status = status
        self._drain = drain
        self._routes: dict[str, tuple[str, _Answer]] = {
            "/metrics": ("GET", self._metrics_text),
            "/healthz": ("GET", self._alive),
            "/headway": ("GET", self._live_page),
            "/headway/": ("GET", self._live_page),
            "/headway/status": ("GET", self._status_json),
            "/headway/drain": ("POST", self._drained),
        }
        self._page = files("proxy").joinpath("page.html").read_bytes()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request of the admin port comes through here."""
        method, answer = self._routes.get(request.path, ("", None))
        if answer is None:
            return error_response(UnknownRoute(f"There is no admin route {request.path}."))
        if request.method != method:
            return error_response(MethodNotAllowed(f"{request.path} takes {method}, not {request.method}."))
        return await answer(request)

    async def _metrics_text(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": METRICS_TYPE})

    async def _status_json(self, _: web.BaseRequest) -> web.Response:
        return json_response(self._status())

    async def _alive(self, _: web.BaseRequest) -> web.Response:
        return json_response({"status": "ok"})

    async def _live_page(self, _: web.BaseRequest) -> web.Response:
        return web.Response(
            body=self._page, content_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY}
        )

    async def _drained(self, request: web.BaseRequest) -> web.Response:
        """Draining ends service, so only this machine (in Kubernetes: this pod) may ask for it; a forwarded port comes
        from there too, but not a page that somebody has open in a browser there."""
        if not _is_loopback(request.remote) or _FROM_A_PAGE & request.headers.keys():
            return error_response(Unauthorized("Only a program on this host may drain the proxy."))
        done = await self._drain()
        return json_response({"drained": done}, status=200 if done else 504)


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
