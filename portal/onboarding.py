"""The way to a first call and beyond, as steps that tick themselves. The only writer of ChecklistDismissal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from django.urls import reverse

from billing import ladder, ledger
from billing.models import AlertPreference, Grant, Payer, TopUp
from keys import access
from keys.models import ApiKey, Invitation, KeyUse, Organization, Role, User
from portal.models import ChecklistDismissal


@dataclass(frozen=True, slots=True)
class Step:
    """`url` leads to where it is done; `hint` says what that is good for."""

    label: str
    hint: str
    done: bool
    url: str
    action: str


@dataclass(frozen=True, slots=True)
class Checklist:
    steps: tuple[Step, ...]

    @property
    def done(self) -> int:
        return sum(step.done for step in self.steps)

    @property
    def is_done(self) -> bool:
        return self.done == len(self.steps)

    @property
    def tag(self) -> str:
        seen = " ".join(f"{step.label}:{step.done}" for step in self.steps)
        return f'"{hashlib.sha256(seen.encode()).hexdigest()[:32]}"'


def checklist(organization: Organization, role: Role | None) -> Checklist | None:
    """The steps that somebody of this role can take; None for who can take none. A handful of look-ups by index."""
    if not access.may(role, Role.DEVELOPER):
        return None
    steps = [_verified(), _key(organization), _call(organization)]
    if access.may(role, Role.ADMIN):
        steps += [_money(organization), _invited(organization)]
    return Checklist(tuple(steps))


def shown(organization: Organization, user: User, role: Role | None) -> Checklist | None:
    """What the overview shows: nothing once all is done, or once this person has put it away."""
    if ChecklistDismissal.objects.filter(organization=organization, user=user).exists():
        return None
    found = checklist(organization, role)
    return None if found is None or found.is_done else found


def dismiss(organization: Organization, user: User) -> None:
    ChecklistDismissal.objects.get_or_create(organization=organization, user=user)


def _verified() -> Step:
    """Done by whoever reads it: nobody signs in before."""
    return Step("Confirm your e-mail address", "", True, "", "")


def _key(organization: Organization) -> Step:
    return Step(
        "Create an API key",
        "It is shown once, with a first call that has the key in it.",
        organization.keys.filter(manages_as="", purpose=ApiKey.Purpose.PROGRAM).exists(),
        reverse("key_new", args=[organization.public_id]),
        "Create a key",
    )


def _call(organization: Organization) -> Step:
    return Step(
        "Make a first call",
        "Paste the command shown with your key; this ticks itself within seconds.",
        KeyUse.objects.filter(
            key__organization=organization, key__manages_as="", key__purpose=ApiKey.Purpose.PROGRAM
        ).exists(),
        reverse("requests", args=[organization.public_id]),
        "Watch requests come in",
    )


def _money(organization: Organization) -> Step:
    """Where the plan pays, there is nothing to top up: then it is what they want to be told at. Credit that was given
    is credit; who once paid has taken the step, whatever is left."""
    tier, _since = ladder.standing_of(organization)
    if ladder.payer_of(organization, tier) == Payer.INCLUDED:
        return Step(
            "Choose when to be told about your limits",
            "Your plan includes your calls up to its limits.",
            AlertPreference.objects.filter(organization=organization).exists(),
            reverse("limits", args=[organization.public_id]),
            "Limits & tier",
        )
    paid = Grant.objects.filter(organization=organization, kind=Grant.Kind.PAID).exists()
    paid = paid or TopUp.objects.filter(organization=organization, state=TopUp.State.PAID).exists()
    return Step(
        "Add credit",
        "Calls are paid from the balance; without any they are refused.",
        paid or ledger.balances_nanos([organization])[organization.pk] > 0,
        reverse("top_up", args=[organization.public_id]),
        "Add credit",
    )


def _invited(organization: Organization) -> Step:
    others = organization.memberships.count() > 1
    return Step(
        "Invite somebody",
        "Colleagues get a sign-in and a role of their own; nobody shares a password.",
        others or Invitation.objects.filter(organization=organization).exists(),
        reverse("members", args=[organization.public_id]),
        "Invite",
    )
