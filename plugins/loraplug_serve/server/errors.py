"""What a client is told that asked for something which cannot be had, in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A refusal.

    Attributes:
        status: of HTTP.
        message: what was wrong, and what to do.
        param: the name of the field that was wrong.
        code: a word that programs look at.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(param: str, message: str) -> ApiError:
    """A field of the body that cannot be taken."""
    return ApiError(400, f"{param}: {message}", param, "invalid_value")
