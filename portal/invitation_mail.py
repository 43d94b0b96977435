"""The mail that carries an invitation's link: the only place where its token is ever written."""

from __future__ import annotations

import logging
from email.utils import formataddr, parseaddr

from django.conf import settings
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse

from keys.models import Invitation

log = logging.getLogger(__name__)
UNSENT = "The invitation stands, but its mail could not be sent just now. Send it again in a minute."


class NotSent(Exception):
    """The mail server did not take it. The invitation stays, and is sent again with another link."""


def send(request: HttpRequest, invitation: Invitation, token: str) -> None:
    """NotSent: what it says is UNSENT."""
    brand = invitation.organization.brand
    context = {
        "invitation": invitation,
        "organization": invitation.organization,
        "brand": brand,
        "url": request.build_absolute_uri(reverse("invitation", args=[token])),
    }
    subject, _blank, body = render_to_string("emails/invitation.txt", context).strip().partition("\n\n")
    sender = formataddr((brand.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))
    try:
        EmailMessage(" ".join(subject.split()), body, sender, [invitation.email]).send()
    except OSError as error:  # of which those of SMTP are some
        log.warning("an invitation could not be mailed: %s", error)
        raise NotSent(UNSENT) from error
