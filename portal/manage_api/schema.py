"""The OpenAPI document, from the operations themselves; and the tables that the documentation shows of it."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.http import require_safe
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator

TITLE, VERSION = "Management API", "1"
METHODS = ("get", "post", "put", "patch", "delete")


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "portal.manage_api.authentication.ManagementKeyAuthentication"
    name = "managementKey"

    def get_security_definition(self, _auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "A management key."}


def closed(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """A postprocessing hook: bodies hold nothing that the schema does not name."""
    for name, schema in result.get("components", {}).get("schemas", {}).items():
        if name.endswith("Wish"):
            schema["additionalProperties"] = False
    return result


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """Addresses are relative to the API's own."""
    generator = SchemaGenerator(urlconf="portal.manage_api.urls")  # type: ignore[no-untyped-call]
    made: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


@require_safe
def openapi(request: HttpRequest) -> JsonResponse:
    found = copy.copy(document())
    found["servers"] = [{"url": request.build_absolute_uri(reverse("manage_api_openapi")).rpartition("/")[0]}]
    return JsonResponse(found)
