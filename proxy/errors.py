"""Every refusal Headway can give: its HTTP status, its code, how it is counted, and what to do about it."""

from typing import ClassVar, Final

import msgspec

from predictor.records import Outcome


class HeadwayError(Exception):
    """A request that ends here, with one clear error. Subclasses fix status, code and outcome."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    outcome: ClassVar[Outcome] = Outcome.INTERNAL_ERROR
    advice: ClassVar[str] = "Report it with the log line that carries this request id."
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        """`detail`: what operators alone are told, such as an engine's address. `status`: an engine's own, where it is
        more telling than the class's."""
        super().__init__(f"{message.removesuffix('.')}: {detail}" if detail else message)
        self.message = message
        self.detail = detail
        self.http_status = status or self.status
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The OpenAI error envelope, as JSON bytes."""
        detail = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": detail})


class InvalidRequest(HeadwayError):
    """The request cannot be understood; sending it again changes nothing."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    outcome = Outcome.REFUSED_INVALID
    advice = "Correct the field that the message names."
    retryable = False


class InvalidJson(InvalidRequest):
    """The body is not JSON, or not UTF-8."""

    code = "invalid_json"
    advice = "Send one JSON object encoded as UTF-8."


class DuplicateField(InvalidRequest):
    """A field that Headway or the engine steers by occurs twice; parsers disagree on which one counts."""

    code = "duplicate_field"
    advice = "Send each field once."


class BadHttp(InvalidRequest):
    """The bytes are not an HTTP/1.1 request."""

    code = "bad_http"
    advice = "Speak HTTP/1.1 in plain text to this port (TLS ends before the proxy)."


class HeadersTooLarge(InvalidRequest):
    """A request line or header is longer than `max_header_bytes`, or there are too many of them."""

    status = 431
    code = "headers_too_large"
    advice = "Send fewer or shorter headers, or raise max_header_bytes."


class BodyTooLarge(InvalidRequest):
    """The body is longer than `max_body_bytes`."""

    status = 413
    code = "body_too_large"
    advice = "Send a shorter body, or raise max_body_bytes."


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed."""

    status = 415
    code = "unsupported_encoding"
    advice = "Send the body without Content-Encoding."


class BodyTimeout(InvalidRequest):
    """The client did not finish sending its body within `body_timeout_s`."""

    status = 408
    code = "body_timeout"
    advice = "Send the body faster, or raise body_timeout_s."


class UnknownRoute(InvalidRequest):
    """The path is not on the allow-list."""

    status = 404
    code = "unknown_route"
    advice = "Use one of the routes in REFERENCE.md; engine control routes are never exposed."


class UnknownResponse(InvalidRequest):
    """The stored response does not exist, or another key created it, or this proxy was restarted since."""

    status = 404
    code = "unknown_response"
    advice = "Use the key and the proxy with which the response was created."


class MethodNotAllowed(InvalidRequest):
    """The path is known, the method is not."""

    status = 405
    code = "method_not_allowed"
    advice = "Use the method that the message names."


class Unauthorized(InvalidRequest):
    """Draining is for programs on the proxy's own host, not for pages in a browser there."""

    status = 401
    code = "unauthorized"
    type = "authentication_error"
    advice = "Send it from that host; in Kubernetes, from inside the pod."


class UnknownKey(Unauthorized):
    """Keys are configured and the client's is none of them."""

    code = "unknown_key"
    advice = "Send Authorization: Bearer, or x-api-key, with a key whose SHA-256 is in the configuration."


class Expired(HeadwayError):
    """The request's TTL cannot be kept: it would begin too late, by even the most hopeful estimate."""

    status = 504
    code = "ttl_expired"
    type = "timeout_error"
    outcome = Outcome.EXPIRED
    advice = "Allow more time in x-headway-ttl, send it in a better class, or add an engine."
    retryable = False


class TenantFull(HeadwayError):
    """The tenant has as many requests waiting as its key allows."""

    status = 429
    code = "tenant_full"
    type = "overloaded_error"
    outcome = Outcome.REFUSED_FULL
    advice = "Wait for the seconds in Retry-After, or raise max_waiting of the key."
    retryable = False


SHUTTING_DOWN: Final = "This proxy is shutting down."


class Draining(HeadwayError):
    """The proxy is shutting down and takes nothing new."""

    status = 503
    code = "draining"
    type = "overloaded_error"
    outcome = Outcome.REFUSED_DRAINING
    advice = "Send it again; another replica, or this one restarted, will take it."


class QueueFull(HeadwayError):
    """The queue is at `max_waiting`."""

    status = 429
    code = "queue_full"
    type = "overloaded_error"
    outcome = Outcome.REFUSED_FULL
    advice = "Wait for the seconds in Retry-After, add an engine, or raise max_waiting."
    retryable = False


class EngineUnreachable(HeadwayError):
    """No connection to the engine; nothing was sent to it."""

    status = 503
    code = "engine_unreachable"
    type = "engine_error"
    outcome = Outcome.ENGINE_LOST
    advice = "Check that the engine runs and that --engine names its host and port."


class EngineLost(HeadwayError):
    """The engine closed the connection before its answer began; whether it worked on it is unknown."""

    status = 502
    code = "engine_lost"
    type = "engine_error"
    outcome = Outcome.ENGINE_LOST
    advice = "Look at the engine's log; send the request again if repeating it is safe."


class EngineGarbage(HeadwayError):
    """The engine's answer is not HTTP, or not what its content type says."""

    status = 502
    code = "engine_garbage"
    type = "engine_error"
    outcome = Outcome.ENGINE_ERROR
    advice = "Check that --engine points at an OpenAI-compatible server, not at something else."


class EngineRefused(HeadwayError):
    """A stream began with an error event: the engine refused inside a 200."""

    status = 503
    code = "engine_refused"
    type = "engine_error"
    outcome = Outcome.ENGINE_ERROR
    advice = "The message is the engine's own; its queue may be full."


class EngineFull(HeadwayError):
    """The engine's own queue is full, again and again, though the proxy sends it less and less."""

    status = 503
    code = "engine_full"
    type = "overloaded_error"
    outcome = Outcome.REFUSED_FULL
    advice = "Raise the engine's queue limit, add an engine, or ask for fewer answers at once (n)."
    retryable = False


class EngineTimeout(HeadwayError):
    """The engine sent nothing for `engine_timeout_s` before its answer began."""

    status = 504
    code = "engine_timeout"
    type = "engine_error"
    outcome = Outcome.ENGINE_LOST
    advice = "Look at the engine's log; raise engine_timeout_s if such waits are normal."


class InternalError(HeadwayError):
    """A defect in Headway; the process keeps serving."""


def error_classes() -> list[type[HeadwayError]]:
    """Every error that can reach a client, in the order of this file; the published table is made from it."""
    found: list[type[HeadwayError]] = []
    pending: list[type[HeadwayError]] = [HeadwayError]
    while pending:
        cls = pending.pop(0)
        found.append(cls)
        pending.extend(cls.__subclasses__())
    return [cls for cls in found if cls is not HeadwayError]
