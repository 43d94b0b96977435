"""What the demo starts with. Run at every start; it makes what is missing and leaves the rest as people changed it.

A brand file is imported when its brand is not there: at the first start, or when a newer release brings a new one. To
import it at every start would take back what people changed since.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.db.models import Q

from billing import ladder, ledger
from billing.models import Grant, Payer, Posting, Tier, TierAssignment
from billing.money import nanos
from keys import issuing, organizations, tokens
from keys.models import ApiKey, Brand, Organization, Role
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.demo.customers import CREDITS, DEMOS, ORGANIZATIONS, Demo
from portal.demo.engines import demo_engine, serve_ordinary
from portal.demo.inference import real_engine
from portal.demo.people import Person, people, secret_bytes
from portal.demo.till import open_tills

ACTOR = "demo"
ADMIN = "admin@demo.example"
FILES = Path(__file__).parent / "brands"


def seed(*, base_url: str, engine_url: str, stripe_url: str = "") -> dict[str, Any]:
    """`base_url` is the portal's address, `engine_url` the demo engine's as an SDK takes it, `stripe_url` that of the
    stand-in for Stripe (empty: no payments). Returns demo.json."""
    known = people(
        {ADMIN: {"is_staff": True, "is_superuser": True}} | {_email(demo): {"name": "Demo Developer"} for demo in DEMOS}
    )
    engine = demo_engine(engine_url, ACTOR)
    real = real_engine(ACTOR)
    brands: dict[str, Any] = {}
    for demo in DEMOS:
        file = read((FILES / f"{demo.slug}.toml").read_bytes())
        brand = Brand.objects.filter(slug=demo.slug).first()
        if brand is None:
            import_brand(file, actor=ACTOR)
            brand = Brand.objects.get(slug=demo.slug)
        serve_ordinary(brand, file, set(demo.states.values()), demo=engine, real=real, actor=ACTOR)
        brands[demo.slug] = _entry(brand, demo, known[_email(demo)], base_url)
    if stripe_url:
        sold = Brand.objects.filter(slug__in=brands).order_by("pk")
        open_tills(sold, stripe_url=stripe_url, base_url=base_url, actor=ACTOR)
    return {
        "portal": base_url,
        "admin": {"url": f"{base_url}/admin/", "email": ADMIN, "password": known[ADMIN].password},
        "mailbox": f"{base_url}/mailbox/",
        "metrics": f"{base_url}/metrics",
        "brands": brands,
    }


def _email(demo: Demo) -> str:
    return f"demo@{demo.slug}.example"


def _entry(brand: Brand, demo: Demo, owner: Person, base_url: str) -> dict[str, Any]:
    """The brand's entry of demo.json, and the customers and keys that it promises."""
    customers = {slug: _organization(brand, slug, demo.tiers[slug]) for slug in ORGANIZATIONS}
    organizations.add_member(organization=customers["demo"], user=owner.user, role=Role.OWNER, actor=ACTOR)
    keys = {name: _key(customers[slug], name, fields) for name, slug, fields in demo.keys}
    return {
        "base_url": f"{base_url}/{brand.slug}{brand.base_paths[0]}",
        "host": brand.hosts[0] if brand.hosts else "",
        "email": owner.user.email,
        "password": owner.password,
        "model": demo.model,
        "api_key": keys.pop("api_key"),
        "keys": keys,
        "models": demo.states,
    }


def _organization(brand: Brand, slug: str, tier_slug: str) -> Organization:
    credit = f"demo:{brand.slug}:{slug}"
    given = Posting.objects.filter(brand=brand, reference=credit).values("organization_id")
    organization = Organization.objects.filter(Q(slug=slug) | Q(pk__in=given), brand=brand).order_by("pk").first()
    if organization is None:
        organization = organizations.create(brand=brand, name=ORGANIZATIONS[slug], slug=slug, actor=ACTOR)
    assignment = TierAssignment.objects.filter(organization=organization).select_related("tier").first()
    if assignment is None:
        tier = Tier.objects.get(brand=brand, slug=tier_slug)
        ladder.assign(organization=organization, tier=tier, reason="demo", actor=ACTOR)
    else:
        tier = assignment.tier
    if tier.payer != Payer.INCLUDED:
        ledger.grant(
            organization=organization,
            amount_nanos=nanos(CREDITS[slug]),
            kind=Grant.Kind.PROMOTIONAL,
            reason="Demo credit",
            reference=credit,
            actor=ACTOR,
        )
    return organization


def _key(organization: Organization, name: str, fields: dict[str, Any]) -> str:
    """A secret that is the same at every start. A key that should call and does not any more gets a successor."""
    brand = organization.brand
    generation = 0
    while True:
        purpose = f"key:{brand.slug}:{name}:{generation}"
        prefix = issuing.prefix_of(brand, fields.get("mode", ApiKey.Mode.LIVE))
        secret = tokens.mint(prefix, secret_bytes(purpose)[: tokens.RANDOM_BYTES])
        key = issuing.existing(secret)
        if key is None:
            key = issuing.issue(
                organization=organization, name=f"Demo: {name}", actor=ACTOR, secret=secret, **fields
            ).key
        if name == "revoked":
            issuing.revoke(key=key, actor=ACTOR)
            return secret
        if key.revoked_at is None:
            return secret
        generation += 1
