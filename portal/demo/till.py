"""The demo's brands are paid through the stand-in for Stripe, where they were given no account of their own."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable

from billing import stripe_accounts
from billing.payment_models import StripeAccount
from keys.models import Brand
from portal.demo.people import secret_bytes

TIMEOUT_SECONDS = 10


def open_tills(brands: Iterable[Brand], *, stripe_url: str, base_url: str, actor: str) -> list[str]:
    """Slugs of the brands that pay through it. The stand-in is told where each one's webhooks go."""
    places = {}
    slugs = []
    for brand in brands:
        if StripeAccount.objects.filter(brand=brand, is_active=True, api_base="").exists():
            continue  # somebody gave a key of their own
        key, secret = f"sk_test_{_secret(brand, 'key')}", f"whsec_{_secret(brand, 'webhook')}"
        account = StripeAccount.objects.filter(brand=brand, is_active=True, api_base=stripe_url).first()
        if account is None:
            account = stripe_accounts.connect(
                brand=brand, secret_key=key, webhook_secret=secret, api_base=stripe_url, actor=actor
            )
        hook = base_url.replace("localhost", "127.0.0.1") + f"/webhooks/stripe/{account.public_id}/"
        places[key] = {"url": hook, "secrets": [secret]}
        slugs.append(brand.slug)
    _tell(stripe_url, {"accounts": places})
    return slugs


def _secret(brand: Brand, purpose: str) -> str:
    return secret_bytes(f"stripe:{purpose}:{brand.slug}").hex()[:40]


def _tell(stripe_url: str, wish: dict[str, object]) -> None:
    request = urllib.request.Request(f"{stripe_url}/control", json.dumps(wish).encode(), method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310  # our own child on loopback
        return
