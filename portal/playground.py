"""Keys of minutes for the playground: issued to whoever is on its page, revoked when they leave or get the next."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from billing import ladder
from billing.models import Model
from keys import issuing
from keys.models import ApiKey, Organization, Scope, User
from portal import on_sale
from proxy.judging import GENERATIVE

NAME = "Playground"
LIFETIME = timedelta(minutes=15)


def open_key(organization: Organization, user: User, *, address: str | None) -> issuing.Issued:
    """A key that chats and does nothing else, instead of any this person had here before."""
    close(organization, user, address=address)
    return issuing.issue(
        organization=organization,
        name=NAME,
        actor=user,
        address=address,
        scopes=[Scope.CHAT],
        expires_at=timezone.now() + LIFETIME,
        purpose=ApiKey.Purpose.PLAYGROUND,
    )


def close(organization: Organization, user: User, *, address: str | None) -> None:
    """Revokes this person's keys of the playground; may be called again."""
    live = organization.keys.filter(
        purpose=ApiKey.Purpose.PLAYGROUND, created_by=user, revoked_at=None, expires_at__gt=timezone.now()
    )
    for key in live:
        issuing.revoke(key=key, actor=user, address=address)


def models_of(organization: Organization) -> list[Model]:
    """Live models that chat and that the organization's tier unlocks, in the brand's order."""
    tier, _since = ladder.standing_of(organization)
    rows = Model.objects.filter(brand=organization.brand, state=Model.State.LIVE).order_by("position", "slug")
    return [model for model in rows if _chats(model) and on_sale.is_unlocked(model, tier)]


def _chats(model: Model) -> bool:
    declared = GENERATIVE.intersection(model.features)
    return not declared or Scope.CHAT in declared
