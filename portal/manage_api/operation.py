"""What every operation of the management API shares: who may, how it is read, answered and documented.

An operation's function gets a Call, makes one call into the domain and returns plain values; a Shape words them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys import access
from keys.models import ApiKey, Organization, Role
from portal.manage_api import idempotency, problems, throttling
from portal.manage_api.authentication import ManagementKeyAuthentication
from portal.manage_api.fields import Asked, EmptyWish, Shape, Wish
from portal.manage_api.paging import Page, Paged
from portal.manage_api.problems import MEDIA_TYPE, Problem

Method = Callable[..., Any]
DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Call:
    """`key` acts, on `organization`, from `address`. `query` and `data` are what was asked, checked by shape."""

    http: HttpRequest
    key: ApiKey
    organization: Organization
    address: str
    query: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def by(self) -> dict[str, Any]:
        """Who acts, as writers take it."""
        return {"actor": self.key, "address": self.address}


class Parser(JSONParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise ParseError("The body is nested too deep.") from None


class Negotiation(BaseContentNegotiation):
    """JSON goes out, whatever is asked for: there is nothing else."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        content_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == content_type), None)

    def select_renderer(self, _request: Request, renderers: Any, _format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class Endpoint(APIView):
    authentication_classes = [ManagementKeyAuthentication]
    permission_classes = []
    parser_classes = [Parser]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = Negotiation
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        throttling.count(request._request, "", cast(ApiKey, request.auth).pk)

    def get_exception_handler(self) -> Any:
        return problems.handle


def nowhere(_request: HttpRequest, **_: Any) -> HttpResponse:
    problem = Problem(404, "not_found", "There is no such address in the management API.")
    return JsonResponse(problem.body(), status=404, content_type=MEDIA_TYPE)


nowhere.csrf_exempt = True  # type: ignore[attr-defined]


def operation(
    summary: str,
    *,
    name: str,
    tag: str,
    role: Role,
    gives: type[Shape] | None = None,
    takes: type[Wish] | None = None,
    query: type[Asked] | None = None,
    status: int = 200,
    counted: str = "",
) -> Callable[[Method], Method]:
    """`name` is the operation's id. `gives` None: 204. A function that returns a Page answers with a list. `counted`:
    one of throttling.RATES beside the general one."""

    def decorate(method: Method) -> Method:
        @extend_schema(
            operation_id=name,
            summary=summary,
            description=_description(method, role),
            tags=[tag],
            request=None if takes in (None, EmptyWish) else takes,
            parameters=_parameters(query, is_post=method.__name__ == "post"),
            responses=_responses(method.__name__, gives=gives, takes=takes, query=query, status=status, name=name),
            examples=_examples(takes, gives, is_list=_is_list(query), status=status),
        )
        @wraps(method)
        def handler(self: Endpoint, request: Request, **path: Any) -> Response:
            key = cast(ApiKey, request.auth)
            access.require(key.manages_as, role)
            if counted:
                throttling.count(request._request, counted, key.pk)

            def act() -> idempotency.Answer:
                call = Call(
                    request._request,
                    key,
                    key.organization,
                    request.client_address,  # type: ignore[attr-defined]
                    _read(query, _single(request.query_params)) if query else {},
                    _read(takes, _body(request)) if takes not in (None, EmptyWish) else {},
                )
                return idempotency.Answer(status, _worded(gives, method(self, call, **path)))

            answer, headers = _once(request, key, act)
            if answer.body is None:
                return Response(status=204)
            return Response(answer.body, answer.status, headers=headers)

        handler.needs = role  # type: ignore[attr-defined]
        return handler

    return decorate


def _once(
    request: Request, key: ApiKey, act: Callable[[], idempotency.Answer]
) -> tuple[idempotency.Answer, dict[str, str]]:
    name = request.headers.get(idempotency.HEADER)
    if request.method != "POST" or name is None:
        return act(), {}
    asked = b"\0".join([b"POST", request.get_full_path().encode(), _raw(request)])
    found = idempotency.begin(key, name, asked, timezone.now())
    if isinstance(found, idempotency.Answer):
        return found, {"Idempotent-Replay": "true"}
    try:
        answer = act()
    except Exception:
        found.release()
        raise
    found.keep(answer)
    return answer, {}


def _raw(request: Request) -> bytes:
    return request._request.body


def _body(request: Request) -> Any:
    _raw(request)  # read whole first, so that its bound holds
    return request.data


def _single(given: QueryDict) -> dict[str, str]:
    """A plain dict: of a form's, DRF would take empty text for a field left out."""
    twice = {name: ["Given more than once."] for name, values in given.lists() if len(values) > 1}
    if twice:
        raise serializers.ValidationError(twice)
    return {name: str(value) for name, value in given.items()}


def _read(takes: Any, given: Any) -> dict[str, Any]:
    serializer = takes(data=given)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _worded(gives: type[Shape] | None, found: Any) -> Any:
    """Plain JSON values, so that an answer that is kept is the one that was given."""
    if gives is None:
        return None
    if isinstance(found, Page):
        said: Any = {"data": [gives(row).data for row in found.rows], "next_cursor": found.next_cursor}
    else:
        said = gives(found).data
    return json.loads(JSONRenderer().render(said))


# Documentation


def _description(method: Method, role: Role) -> str:
    text = " ".join((method.__doc__ or "").split())
    return f"{text} Needs the role {role.label.lower()} or a higher one.".strip()


def _is_list(query: type[Asked] | None) -> bool:
    return query is not None and issubclass(query, Paged)


def _parameters(query: type[Asked] | None, *, is_post: bool) -> list[Any]:
    found: list[Any] = [query] if query else []
    if is_post:
        found.append(
            OpenApiParameter(
                idempotency.HEADER,
                {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                OpenApiParameter.HEADER,
                description="Any name for this request: sent again within a day, it is done once.",
                examples=[OpenApiExample("A name", value="4f1c2b1e-once")],
            )
        )
    return found


def _responses(
    method: str,
    *,
    gives: type[Shape] | None,
    takes: type[Wish] | None,
    query: type[Asked] | None,
    status: int,
    name: str,
) -> dict[Any, Any]:
    wrong = {401, 403, 404, 429, 503}
    if query or takes or method == "post":
        wrong |= {400, 422}
    if method in ("post", "put", "patch", "delete"):
        wrong |= {409}
    if takes:
        wrong |= {413, 415}
    answer: Any = gives
    if gives is not None and _is_list(query):
        title = "".join(part.capitalize() for part in name.split("_"))
        answer = inline_serializer(
            f"{title}Page",
            {"data": gives(many=True), "next_cursor": serializers.CharField(allow_null=True)},
        )
    problem = {
        (code, MEDIA_TYPE): OpenApiResponse(ProblemShape, description=PROBLEMS[code], examples=[_problem(code)])
        for code in sorted(wrong)
    }
    return {(204 if gives is None else status): answer} | problem


PROBLEMS = {
    400: "The request does not match the schema.",
    401: "No management key, or one that is not good.",
    403: "The key may not do this.",
    404: "There is no such thing in this account.",
    409: "It cannot be done as things stand.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The request matches the schema and is refused all the same.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "A store or the payment service does not answer.",
}
CODES = {
    400: "invalid_request",
    401: "invalid_key",
    403: "not_allowed",
    404: "not_found",
    409: "idempotent_request_running",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "refused",
    429: "rate_limited",
    503: "unavailable",
}


class ProblemErrorShape(Shape):
    pointer = serializers.CharField(allow_blank=True, help_text="Into the body, or the name of a parameter")
    detail = serializers.CharField()


class ProblemShape(Shape):
    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField(help_text="For programs: it does not change")
    detail = serializers.CharField(help_text="For people")
    errors = ProblemErrorShape(many=True, required=False)  # type: ignore[assignment]


def _problem(code: int) -> OpenApiExample:
    body = Problem(code, CODES[code], PROBLEMS[code]).body()
    return OpenApiExample(CODES[code], value=body, response_only=True, status_codes=[str(code)])


def _examples(
    takes: type[Wish] | None, gives: type[Shape] | None, *, is_list: bool, status: int
) -> list[OpenApiExample]:
    found = []
    if takes is not None and takes.EXAMPLE:
        found.append(OpenApiExample("A request", value=takes.EXAMPLE, request_only=True))
    if gives is not None:
        value = {"data": [gives.EXAMPLE], "next_cursor": None} if is_list else gives.EXAMPLE
        found.append(OpenApiExample("An answer", value=value, response_only=True, status_codes=[str(status)]))
    return found
