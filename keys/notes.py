"""What staff note about a customer: the only writer of OrganizationNote. A correction is another note."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import transaction

from keys import audit
from keys.audit import Actor
from keys.models import Organization, OrganizationNote, User


def write(*, organization: Organization, text: str, actor: Actor, address: str | None = None) -> OrganizationNote:
    if not text.strip():
        raise ValidationError({"text": "A note says something."})
    with transaction.atomic():
        note = OrganizationNote.objects.create(
            organization=organization,
            text=text.strip(),
            author=actor if isinstance(actor, User) else None,
            written_by=str(actor)[:254],
        )
        # Under the brand, not the organization: its own trail is read by customers.
        audit.note(*("note.written", organization.public_id), actor=actor, brand=organization.brand, address=address)
    return note
