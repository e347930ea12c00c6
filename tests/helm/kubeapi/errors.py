"""The refusals of the API, as clients read them: a Status object with its HTTP code."""

from typing import Any


class ApiError(Exception):
    """A refusal with Kubernetes' own code and reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": str(self),
        }


def not_found(plural: str, name: str) -> ApiError:
    """404."""
    return ApiError(404, "NotFound", f'{plural} "{name}" not found')


def invalid(kind: str, name: str, why: str) -> ApiError:
    """422: the schema refuses it."""
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {why}')
