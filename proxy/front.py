"""The client port's entry: the allow-list decides what a request is, and whose it is to answer."""

from aiohttp import web

from proxy.active import ActiveCount
from proxy.admin import METRICS_TYPE
from proxy.errors import HeadwayError, MethodNotAllowed, UnknownRoute
from proxy.health import HealthWatch
from proxy.metrics import Metrics
from proxy.passing import Passing
from proxy.replies import error_response, json_response
from proxy.routes import Handling, Route, find_route
from proxy.serving import Serving


class Front:
    """Hands each request to what serves its route."""

    def __init__(
        self,
        serving: Serving,
        passing: Passing,
        health: HealthWatch,
        active: ActiveCount,
        metrics: Metrics,
    ) -> None:
        self._serving = serving
        self._passing = passing
        self._health = health
        self._active = active
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request of the client port comes through here."""
        route = find_route(request.path)
        if route is None:
            return error_response(UnknownRoute(f"There is no route {request.path} here."), path=request.path)
        if route.handling is not Handling.OWN and _asks_first(request):
            with self._active:
                return await self._passing.preflight(request, route)
        if request.method != route.method:
            message = f"{request.path} takes {route.method}, not {request.method}."
            return error_response(MethodNotAllowed(message), {"Allow": route.method}, path=request.path)
        return self._own(request) if route.handling is Handling.OWN else await self._let_in(request, route)

    async def _let_in(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        with self._active:
            if route.api is not None:
                return await self._serving.serve(request, route.api)
            return await self._passing.serve(request, route)

    def _own(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        if path == "/metrics":
            return self._metrics_text(request)
        draining = self._serving.draining
        if path == "/healthz" or (self._health.any_available and not draining):
            return json_response({"status": "ok"})
        return json_response({"status": "draining" if draining else "no engine"}, status=503)

    def _metrics_text(self, request: web.BaseRequest) -> web.Response:
        """They name tenants and engines: where clients have keys, one is wanted here too."""
        try:
            self._serving.identities.identify(request.headers)
        except HeadwayError as error:
            return error_response(error, path=request.path)
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": METRICS_TYPE})


def _asks_first(request: web.BaseRequest) -> bool:
    """Whether it is a browser's question before a page's request (Fetch standard), and not any other OPTIONS."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
