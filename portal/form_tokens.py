"""Marks on renderings of a form, so that sending one again (reload, double click) does nothing twice."""

from __future__ import annotations

import secrets

from portal.middleware import MemberRequest

KEPT = "key_forms"
KEPT_MAX = 10


def mint(request: MemberRequest) -> str:
    token = secrets.token_urlsafe(12)
    request.session[KEPT] = [*request.session.get(KEPT, []), token][-KEPT_MAX:]
    return token


def spend(request: MemberRequest) -> bool:
    """Whether the form's own mark is there for the first time."""
    kept = request.session.get(KEPT, [])
    given = request.POST.get("form_token", "")
    if given not in kept:
        return False
    request.session[KEPT] = [token for token in kept if token != given]
    return True
