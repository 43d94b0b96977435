"""How people come in: django-allauth, spoken to as one brand at a time.

Sign-in is by e-mail address and password; an address is confirmed before the first sign-in, and only then does a new
person get an account (an Organization of the brand whose page they used). Pages say the same to strangers whether an
address is known or not; what differs goes into the mail.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from email.utils import formataddr, parseaddr
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.account.signals import email_confirmed
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from billing import ladder
from keys import access, invitations, organizations
from keys.models import Brand, Membership, Organization, Role, User

log = logging.getLogger(__name__)
UNSENT = "No mail goes out just now, so none was sent. Please try again in a few minutes."
SENT = "account/messages/email_confirmation_sent.txt"
WAITED_FOR = frozenset(
    f"account/email/{name}"
    for name in (
        *("email_confirmation", "email_confirmation_signup", "account_already_exists"),
        *("password_reset_key", "unknown_account"),
    )
)
"""Mails that somebody asked for; all others tell of what was done."""
CAME_WITH = "invitation"
"""Name in the session of the invitation's token that a visitor came with."""


class Adapter(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return takes_new_people(request.brand) or came_invited(request)  # type: ignore[attr-defined]

    def is_safe_url(self, url: str) -> bool:
        return bool(url_has_allowed_host_and_scheme(url, allowed_hosts={self.request.get_host()}))

    def get_client_ip(self, request: HttpRequest) -> str:
        return str(request.client_address)  # type: ignore[attr-defined]

    def get_from_email(self) -> str:
        return formataddr((self.request.brand.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """A mail server that is away fails no page: whoever waits for the mail is told. What was done stays done."""
        try:
            super().send_mail(template_prefix, email, context)
        except OSError as error:  # of which those of SMTP are some
            log.warning("a mail could not be sent: %s", error)
            if template_prefix in WAITED_FOR:
                self.request.is_mail_away = True
                messages.error(self.request, UNSENT)

    def add_message(
        self, request: HttpRequest, level: int, message_template: str | None = None, *rest: Any, **more: Any
    ) -> None:
        """allauth says that a confirmation was sent whether it was or not."""
        if not (message_template == SENT and getattr(request, "is_mail_away", False)):
            super().add_message(request, level, message_template, *rest, **more)

    def format_email_subject(self, subject: str) -> str:
        return f"{subject} · {self.request.brand.name}"

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        return reverse("home")

    get_signup_redirect_url = get_login_redirect_url
    get_logout_redirect_url = get_login_redirect_url
    get_password_change_redirect_url = get_login_redirect_url

    def get_email_verification_redirect_url(self, email_address: EmailAddress) -> str:
        return reverse("home" if self.request.user.is_authenticated else "account_login")


@receiver(email_confirmed)
def open_first_account(request: HttpRequest, email_address: EmailAddress, **_signal: Any) -> None:
    """Whoever confirms an address on a brand's page and has no account there gets one; whoever was invited to one is
    asked first."""
    if invitations.waiting_for(email_address.email, request.brand).exists():  # type: ignore[attr-defined]
        return
    open_account(email_address.user, request.brand, address=request.client_address)  # type: ignore[attr-defined]


def open_account(user: User, brand: Brand, *, address: str | None = None) -> Organization | None:
    """The person's account at `brand`: the one they have (any, if several), else a new one that they own, on the
    brand's default tier and with its sign-up credit. None where the brand takes nobody new. Twice at once makes one."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        own = access.organizations_of(user, brand).first()
        if own is not None:
            return own
        if not takes_new_people(brand):
            return None
        name = user.name or user.email.partition("@")[0]
        organization = organizations.create(brand=brand, name=name[:100], owner=user, actor=user, address=address)
        ladder.welcome(organization=organization, actor=user)
    return organization


OWNED_MAX = 20
"""Accounts of a brand that one person may own by opening them."""


def open_another(user: User, brand: Brand, *, name: str, address: str | None = None) -> Organization | None:
    """One more account that the person owns: with a balance, keys and members of its own, without sign-up credit and
    what plans include, which are once per person (ladder.welcome). None where the brand takes nobody new, or the person
    owns OWNED_MAX already."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        owned = Membership.objects.filter(user=user, role=Role.OWNER, organization__brand=brand).count()
        if not takes_new_people(brand) or owned >= OWNED_MAX:
            return None
        organization = organizations.create(brand=brand, name=name, owner=user, actor=user, address=address)
        ladder.welcome(organization=organization, actor=user)
    return organization


def takes_new_people(brand: Brand) -> bool:
    return brand.sign_up == Brand.SignUp.OPEN and brand.state == Brand.State.ACTIVE


def came_invited(request: HttpRequest) -> bool:
    """Whether this visitor came with a link that is open at this brand: they may sign up where others may not."""
    try:
        found = invitations.find(str(request.session.get(CAME_WITH, "")))
    except invitations.NotOpen:
        return False
    return bool(found.organization.brand_id == request.brand.pk)  # type: ignore[attr-defined]


def make_verified(user: User) -> None:
    """For people whom an operator or the demo put in: their address needs no link. May be called again."""
    EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})


def with_confirmed_owner(organization_ids: Collection[int]) -> set[int]:
    """Those of the organizations that an owner with a confirmed address has; for billing's upgrade rules."""
    owners = Membership.objects.filter(organization_id__in=organization_ids, role=Role.OWNER, user__is_active=True)
    confirmed = owners.filter(user__emailaddress__verified=True)
    return set(confirmed.values_list("organization_id", flat=True))


def context(request: HttpRequest) -> dict[str, Any]:
    """Template context of every page."""
    return {"demo": settings.DEMO}
