"""Who asks: the management key in `Authorization: Bearer`, and nothing else."""

from __future__ import annotations

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from keys import management
from keys.credentials import BEARER, CredentialsReason, CredentialsRefused, present
from keys.management import ManagementReason, ManagementRefused
from keys.models import ApiKey
from portal.manage_api import throttling
from portal.manage_api.problems import Problem, unauthorized

SEND_ONE = "Send a management key, once: Authorization: Bearer YOUR_MANAGEMENT_KEY."
WORDS = {
    ManagementReason.INVALID_KEY: (401, "There is no such management key here."),
    ManagementReason.KEY_REVOKED: (401, "This management key was revoked."),
    ManagementReason.KEY_EXPIRED: (401, "This management key has expired."),
    ManagementReason.NOT_A_MANAGEMENT_KEY: (
        403,
        "This key calls models and manages nothing. An owner or admin creates management keys in the dashboard.",
    ),
    ManagementReason.ADDRESS_NOT_ALLOWED: (403, "This management key may not be used from your address."),
}


class ManagementKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[None, ApiKey]:
        now, address = timezone.now(), request.client_address  # type: ignore[attr-defined]
        try:
            key = management.find(_presented(request), request.brand, now=now, address=address)  # type: ignore[attr-defined]
        except ManagementRefused as error:
            throttling.count_refused(request._request)
            status, words = WORDS[error.reason]
            code = error.reason.value
            raise unauthorized(code, words) if status == 401 else Problem(status, code, words) from None
        management.used(key, now=now, address=address, agent=request.headers.get("User-Agent", ""))
        return None, key

    def authenticate_header(self, _request: Request) -> str:
        return "Bearer"


def _presented(request: Request) -> str:
    value = request.META.get("HTTP_AUTHORIZATION")
    headers = [] if value is None else [(b"authorization", value.encode("latin-1", "replace"))]
    try:
        return present(headers, b"", schemes={BEARER}).secret
    except CredentialsRefused as error:
        missing = error.reason is CredentialsReason.MISSING_KEY
        raise unauthorized("missing_key" if missing else error.reason.value, SEND_ONE) from None
