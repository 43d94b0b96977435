"""Terms of a brand, by version: whoever has not accepted the one in force is asked before any page of an account. API
keys go on calling: they are an account's, not a person's. The only writer of TermsAcceptance."""

from __future__ import annotations

from django.db import transaction

from keys import audit
from keys.models import Brand, User
from portal.models import TermsAcceptance


def pending(user: User, brand: Brand) -> bool:
    """Whether this person has yet to accept what is in force. Asks nothing of the database where a brand has none."""
    if not brand.terms_version:
        return False
    return not TermsAcceptance.objects.filter(user=user, brand=brand, version=brand.terms_version).exists()


def accept(user: User, brand: Brand, version: str, *, address: str | None) -> bool:
    """False when another version is in force than the one that was read: they are to read that one. Twice is once."""
    if version != brand.terms_version:
        return False
    with transaction.atomic():
        _row, is_new = TermsAcceptance.objects.get_or_create(
            user=user, brand=brand, version=version, defaults={"address": address}
        )
        if is_new:
            audit.note(
                "terms.accepted", brand.slug, actor=user, brand=brand, after={"version": version}, address=address
            )
    return True
