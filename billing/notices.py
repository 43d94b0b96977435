"""The only writer of Notice: what an organization should hear, once. portal.notify sends it."""

from __future__ import annotations

from typing import Any

from billing.models import Notice
from keys.models import Organization


def tell(*, organization: Organization, kind: str, once: str, payload: dict[str, Any]) -> bool:
    """`once` names the occasion among all of this installation: telling it again tells nothing. Whether it was news."""
    notice = Notice(organization=organization, kind=kind, unique_key=once, payload=payload)
    known = Notice.objects.filter(unique_key=once).exists()
    Notice.objects.bulk_create([notice], ignore_conflicts=True)
    return not known
