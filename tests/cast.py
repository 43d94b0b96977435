"""The cast of every page test: an owner, a member, a viewer, and a stranger who owns another organization.

Factories write plain rows. A test that needs published records (the proxy's, say) asks keys.publication itself.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from django.test import Client

from billing.models import Model
from keys.models import Brand, Membership, Organization, Role, Scheme, User

PASSWORD = "correct horse battery staple"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Cast:
    """`owner`, `member` (a developer) and `viewer` belong to `organization`; `stranger` owns `elsewhere`. Both
    organizations belong to `brand`."""

    brand: Brand
    organization: Organization
    owner: User
    member: User
    viewer: User
    elsewhere: Organization
    stranger: User


def brand(**fields: Any) -> Brand:
    number = next(_numbers)
    values: dict[str, Any] = {
        "slug": f"brand-{number}",
        "name": f"Brand {number}",
        "base_paths": ["/v1"],
        "schemes": [scheme.value for scheme in Scheme],
        "key_prefix": "ak-",
    }
    return Brand.objects.create(**{**values, **fields})


def organization(brand: Brand, **fields: Any) -> Organization:
    number = next(_numbers)
    values: dict[str, Any] = {"slug": f"organization-{number}", "name": f"Organization {number}"}
    return Organization.objects.create(brand=brand, **{**values, **fields})


def model(brand: Brand, slug: str = "", **fields: Any) -> Model:
    """On sale without an engine: enough for pages."""
    number = next(_numbers)
    values: dict[str, Any] = {"name": f"Model {number}", "context_length": 8192, "max_completion_tokens": 4096}
    return Model.objects.create(brand=brand, slug=slug or f"model-{number}", **{**values, **fields})


def person(name: str = "person", *, verified: bool = True, **fields: Any) -> User:
    """A user who can sign in with PASSWORD; `verified` also records the address as confirmed."""
    from allauth.account.models import EmailAddress

    values: dict[str, Any] = {"email": f"{name}-{next(_numbers)}@example.com", "password": PASSWORD}
    user = User.objects.create_user(**{**values, **fields})
    EmailAddress.objects.create(user=user, email=user.email, verified=verified, primary=True)
    return user


def join(user: User, organization: Organization, role: Role) -> Membership:
    return Membership.objects.create(user=user, organization=organization, role=role)


def assemble(**brand_fields: Any) -> Cast:
    house = brand(**brand_fields)
    ours, theirs = organization(house, name="Acme"), organization(house, name="Elsewhere")
    owner, member, viewer, stranger = (person(name) for name in ("owner", "member", "viewer", "stranger"))
    join(owner, ours, Role.OWNER)
    join(member, ours, Role.DEVELOPER)
    join(viewer, ours, Role.VIEWER)
    join(stranger, theirs, Role.OWNER)
    return Cast(house, ours, owner, member, viewer, theirs, stranger)


def text_of(answer: Any) -> str:
    """The page without the tokens that differ each time, to compare two answers."""
    return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", answer.content.decode())


def browser_of(user: User | None = None, **defaults: Any) -> Client:
    """A Django test client, signed in as `user` if given."""
    client = Client(enforce_csrf_checks=False, **defaults)
    if user is not None:
        client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client
