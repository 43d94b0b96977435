"""Every error as problem details (RFC 9457). A problem's `code` is for programs, its `detail` for people.

What does not match the schema is 400 `invalid_request`; what matches it, and is refused all the same, is 422.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, ValidationError
from django.db import DatabaseError
from django.http import Http404
from redis.exceptions import RedisError
from rest_framework import exceptions
from rest_framework.response import Response

MEDIA_TYPE = "application/problem+json"
UNTAKEABLE = frozenset({"null_characters_not_allowed", "surrogate_characters_not_allowed", "unreadable", "passed"})
"""Codes of DRF's validators that the schema cannot tell of: such values are 422."""
log = logging.getLogger(__name__)


class Problem(Exception):
    """`errors`: (pointer into the body or name of a parameter, what is wrong with it)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = errors or [], dict(headers or {})

    def body(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "type": f"urn:problem-type:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return said | ({"errors": self.errors} if self.errors else {})

    def answer(self) -> Response:
        return Response(self.body(), self.status, headers=self.headers, content_type=MEDIA_TYPE)


def unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})


def refused(error: ValidationError) -> Problem:
    """What the domain refused, by the fields that it names."""
    found = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
    errors = [
        {"pointer": "" if name in ("", "__all__") else f"/{name}", "detail": text}
        for name, texts in found.items()
        for text in texts
    ]
    return Problem(422, "refused", "; ".join(each["detail"] for each in errors), errors=errors)


def handle(error: Exception, _context: Mapping[str, Any]) -> Response:
    """For DRF: any exception of a view as an answer."""
    return problem_of(error).answer()


def problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Http404 | exceptions.NotFound):
        return Problem(404, "not_found", "There is no such thing in this account.")
    if isinstance(error, PermissionDenied | exceptions.PermissionDenied):
        return Problem(403, "not_allowed", str(error) or "The key's role does not allow this.")
    if isinstance(error, ValidationError):
        return refused(error)
    if isinstance(error, RequestDataTooBig):
        return Problem(413, "body_too_large", "The body is too large.")
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    if isinstance(error, DatabaseError | RedisError):
        log.exception("the management API could not reach a store")
        return Problem(503, "unavailable", "Try again in a moment.", headers={"Retry-After": "1"})
    log.exception("the management API failed")
    return Problem(500, "internal", "Something went wrong on our side. Nothing is known of what was asked for.")


def _of_framework(error: exceptions.APIException) -> Problem:
    if isinstance(error, exceptions.ValidationError):
        return _of_fields(error)
    codes = {400: "malformed_body", 405: "method_not_allowed", 415: "unsupported_media_type"}
    code = codes.get(error.status_code, "invalid_request")
    return Problem(error.status_code, code, str(error.detail))


def _of_fields(error: exceptions.ValidationError) -> Problem:
    found = list(_leaves(error.detail, ""))
    status = 422 if all(code in UNTAKEABLE for _, _, code in found) else 400
    errors = [{"pointer": pointer, "detail": text} for pointer, text, _ in found]
    if status == 422:
        return Problem(status, "refused", "A value cannot be taken; `errors` says which.", errors=errors)
    text = "The request does not match the schema; `errors` says where."
    return Problem(status, "invalid_request", text, errors=errors)


def _leaves(detail: Any, pointer: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _leaves(inner, pointer if name == "non_field_errors" else f"{pointer}/{name}")
    elif isinstance(detail, list):
        for inner in detail:
            yield from _leaves(inner, pointer)
    else:
        yield pointer, str(detail), getattr(detail, "code", "")
