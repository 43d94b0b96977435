"""The mail that carries an invitation's link: the only place where its token is ever written."""

from __future__ import annotations

from email.utils import formataddr, parseaddr

from django.conf import settings
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse

from keys.models import Invitation


def send(request: HttpRequest, invitation: Invitation, token: str) -> None:
    brand = invitation.organization.brand
    context = {
        "invitation": invitation,
        "organization": invitation.organization,
        "brand": brand,
        "url": request.build_absolute_uri(reverse("invitation", args=[token])),
    }
    subject, _blank, body = render_to_string("emails/invitation.txt", context).strip().partition("\n\n")
    sender = formataddr((brand.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))
    EmailMessage(" ".join(subject.split()), body, sender, [invitation.email]).send()
