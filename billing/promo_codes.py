"""Codes that give credit: the only writer of PromoCode and PromoClaim.

A claim is made behind the code's row lock, so a code for one customer gives to one, however many ask at once; the grant
is in the same transaction. A person claims a code once, for one of the customers that they own, by whatever alias.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from billing import ledger
from billing.models import Grant, PromoClaim, PromoCode
from billing.wallet_models import PromoClaimant
from keys import audit, mailboxes
from keys.audit import Actor
from keys.models import Organization, Role, User

CODE = re.compile(r"[A-Z0-9][A-Z0-9-]{3,39}")


class NotClaimed(Exception):
    """No credit was given; the message is for who asked."""


def normalised(code: str) -> str:
    return "".join(code.split()).upper()


def problem(code: str) -> str | None:
    return None if CODE.fullmatch(code) else "4 to 40 capital letters, digits and hyphens."


def save(code: PromoCode, *, actor: Actor, address: str | None = None) -> None:
    """A new code, or other bounds of one. What it was claimed for stays. ValidationError says what is wrong."""
    code.code = normalised(code.code)
    wrong = problem(code.code)
    if wrong:
        raise ValidationError({"code": wrong})
    with transaction.atomic():
        before = PromoCode.objects.select_for_update().filter(pk=code.pk).first()
        if before is not None:
            code.claimed, code.brand_id = before.claimed, before.brand_id
        code.full_clean()
        code.save()
        said = {"amount_nanos": code.amount_nanos, "claims_max": code.claims_max, "expires_at": _said(code.expires_at)}
        action = "promo_code.created" if before is None else "promo_code.changed"
        audit.note(action, code.code, actor=actor, brand=code.brand, after=said, address=address)


def claim(*, organization: Organization, code: str, actor: Actor, address: str | None = None) -> Grant:
    """The credit of `code` for `organization`, once, and once for each of its owners. NotClaimed says why not; of a
    code that is not known, over or used up it says the same, so that guessing teaches nothing."""
    with transaction.atomic():
        row = PromoCode.objects.select_for_update().filter(brand=organization.brand_id, code=normalised(code)).first()
        if row is None:
            raise NotClaimed(NOT_VALID)
        if PromoClaim.objects.filter(code=row, organization=organization).exists():
            raise NotClaimed("This account has used this code already.")
        owners = _owners(organization)
        _refuse_again(row, owners)
        now = timezone.now()
        if row.claimed >= row.claims_max or (row.expires_at is not None and row.expires_at <= now):
            raise NotClaimed(NOT_VALID)
        grant = ledger.grant(
            organization=organization,
            amount_nanos=row.amount_nanos,
            kind=Grant.Kind.PROMOTIONAL,
            reason=f"Code {row.code}",
            reference=f"promo:{row.pk}:{organization.pk}",
            actor=actor,
            expires_at=None if row.credit_days is None else now + timedelta(days=row.credit_days),
            address=address,
        )
        made = PromoClaim.objects.create(code=row, organization=organization, grant=grant)
        PromoClaimant.objects.bulk_create(
            PromoClaimant(code=row, claim=made, mailbox=mailbox, user=user) for mailbox, user in owners.items()
        )
        row.claimed += 1
        row.save(update_fields=["claimed"])
    return grant


def _owners(organization: Organization) -> dict[str, User]:
    """By mailbox; empty for a customer that operators run. NotClaimed where all are of throw-away mailboxes, of which
    anybody has any number."""
    people = [member.user for member in organization.memberships.filter(role=Role.OWNER).select_related("user")]
    kept = [person for person in people if not mailboxes.is_disposable(person.email)]
    if people and not kept:
        raise NotClaimed("Codes are for owners with an address that they keep; change yours, then use the code.")
    return {mailboxes.mailbox(person.email): person for person in kept}


def _refuse_again(code: PromoCode, owners: dict[str, User]) -> None:
    theirs = Q(mailbox__in=owners) | Q(user__in=owners.values()) | Q(user__mailbox__in=owners)
    if PromoClaimant.objects.filter(theirs, code=code).exists():
        raise NotClaimed("An owner of this account has used this code already, for another account.")


NOT_VALID = "This code is not valid, or not any more."


def _said(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
