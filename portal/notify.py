"""Sends what billing has to tell an organization (its Notice rows): each once, to the people who look after its money.

A notice is claimed by its row lock, so any number of workers may deliver at once; one whose mail cannot be sent stays
and is tried at the next delivery.
"""

from __future__ import annotations

import logging
from datetime import datetime
from email.utils import formataddr, parseaddr
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.template.loader import select_template

from billing import notices
from billing.models import Notice
from keys.models import Membership, Role
from portal import sites
from portal.docs.pages import CHANGELOG, has_page

logger = logging.getLogger(__name__)

BATCH = 50
READERS = (Role.OWNER, Role.ADMIN, Role.BILLING)


def deliver(*, now: datetime, limit: int = BATCH) -> int:
    """Send waiting notices, oldest first; how many are done."""
    done = 0
    for _ in range(limit):
        with transaction.atomic():
            notice = (
                Notice.objects.select_for_update(skip_locked=True, of=("self",))
                .filter(sent_at=None)
                .select_related("organization__brand")
                .order_by("created_at", "pk")
                .first()
            )
            if notice is None:
                break
            if notice.kind == notices.PRICES and not _still_true(notice):
                done += 1
                continue
            try:
                _send(notice)
            except (OSError, SMTPException) as error:
                logger.warning("notices wait for the mail server: %s", error)
                break
            notice.sent_at = now
            notice.save(update_fields=["sent_at"])
            done += 1
    return done


def _still_true(notice: Notice) -> bool:
    """A price may have been withdrawn while its notice waited."""
    rates = notices.standing(notice)
    notices.change(notice, rates)
    return bool(rates)


def _send(notice: Notice) -> None:
    organization = notice.organization
    readers = Membership.objects.filter(organization=organization, role__in=READERS, user__is_active=True)
    addresses = list(readers.values_list("user__email", flat=True).order_by("pk"))
    brand = organization.brand
    context = {
        "organization": organization,
        "brand": brand,
        "currency": brand.currency,
        "notice": notice,
        "changelog": sites.address_of(brand, "docs_page", CHANGELOG) if has_page(brand, CHANGELOG) else "",
        "address": sites.address_of(brand, "limits", organization.public_id),
        **notice.payload,
    }
    text = select_template([f"emails/{notice.kind}.txt", "emails/notice.txt"]).render(context)
    subject, _blank, body = text.strip().partition("\n\n")
    sender = formataddr((organization.brand.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))
    for address in addresses:  # one mail each: members need not see each other's addresses
        EmailMessage(" ".join(subject.split()), body, sender, [address]).send()
