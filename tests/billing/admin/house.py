"""A customer in a house where every table of the room has a row, with two secrets that no page may show."""

from __future__ import annotations

from datetime import datetime, timedelta

import redis
from django.utils import timezone

from billing import engine_counters, engines, ladder, ledger, prices
from billing.journal import Journal, stream_of
from billing.ladder_models import FirstAccount
from billing.models import (
    Grant,
    GrantEnd,
    LedgerSeal,
    LimitOverride,
    Notice,
    PromoClaim,
    PromoCode,
    Tier,
    TierLimit,
    UpgradeNight,
    WalletMark,
    WorkerLease,
)
from billing.payment_models import AutoTopUp, Reversal, StripeAccount, StripeCustomer, StripeEvent, TopUp
from billing.telling_models import AlertPreference, LimitAlert, NoticesSeen
from billing.wallet_models import PromoClaimant
from billing.webhook_models import WebhookDelivery, WebhookEndpoint
from keys import sealing
from keys.connections import redis_client
from tests import cast
from tests.billing import plans
from tests.billing.draining import drain
from tests.billing.settled import Customer, customer, entry, settle

SECRET, HUSH = "engine-key-12345", "header-value-12345"


def count_apart(now: datetime) -> None:
    """The engine counts an hour's tokens that nobody metered."""
    for tokens, at in ((0, now - timedelta(hours=2)), (9_000, now - timedelta(hours=1))):
        engine_counters.keep({"http://gpu": engine_counters.Reading(tokens, 0, True, 0, None)}, at)
    assert len(engine_counters.compare(redis_client(), now)) == 1


def pay_and_tell(who: Customer) -> None:
    organization = who.organization
    account = StripeAccount.objects.create(
        brand=who.brand, stripe_id="acct_1", livemode=False, secret_key_sealed=sealing.seal_text(SECRET)
    )
    StripeCustomer.objects.create(account=account, organization=organization)
    paid = TopUp.objects.create(account=account, organization=organization, amount_nanos=1, currency="USD", kind="auto")
    Reversal.objects.create(top_up=paid, kind="refund", units=1)
    AutoTopUp.objects.create(organization=organization, threshold_nanos=1, amount_nanos=1, monthly_cap_nanos=1)
    StripeEvent.objects.create(
        account=account, event_id="evt_1", kind="x", payload={}, source="webhook", happened_at=timezone.now()
    )
    plans.rows(account, organization, Tier.objects.get())
    AlertPreference.objects.create(organization=organization)
    LimitAlert.objects.create(
        organization=organization,
        limit="organization.tokens.day",
        scope="o",
        window_id="d",
        amount=1,
        percent=1,
        used=1,
    )
    NoticesSeen.objects.create(organization=organization, user=cast.person(), last_notice_id=1)
    hook = WebhookEndpoint.objects.create(
        organization=organization, url="https://x.example/", events=[], secret_sealed=sealing.seal_text(SECRET)
    )
    WebhookDelivery.objects.create(endpoint=hook, event_id="evt_1", event="key.revoked", body="{}")
    FirstAccount.objects.create(brand=who.brand, mailbox="a@example.com", organization=organization)


def made(redis_connection: redis.Redis) -> Customer:
    """A customer in a house where every table of the room has a row."""
    who = customer()
    engine = engines.register(
        name="gpu", kind="vllm", base_url="http://gpu/v1", api_key=SECRET, headers={"X-Team": HUSH}, actor="test"
    )
    engines.set_route(model=who.model, engine=engine, name_there="there", actor="test")
    prices.set_price(model=who.model, per_million={"input": "0.2", "output": "0.4"}, actor="test")
    tier = Tier(brand=who.brand, rank=1, slug="basic", name="Basic", is_default=True)
    ladder.save_tier(tier, actor="test")
    ladder.save_limit(TierLimit(tier=tier, unit="nanos", window="month", amount=5 * 10**10), actor="test")
    ladder.assign(organization=who.organization, tier=tier, reason="test", actor="test")
    ledger.grant(
        organization=who.organization,
        amount_nanos=10**10,
        kind=Grant.Kind.PAID,
        reason="x",
        reference="one",
        actor="test",
    )
    GrantEnd.objects.create(grant=Grant.objects.get())
    WalletMark.objects.create(organization=who.organization, posting_id=0, left={}, loose_nanos=0, debt_nanos=0)
    LedgerSeal.objects.create(
        brand=who.brand, number=1, day="2026-03-20", until=timezone.now(), postings=0, pepper_version=1
    )
    promo = PromoCode.objects.create(brand=who.brand, code="PROMO", amount_nanos=1, claims_max=1)
    claim = PromoClaim.objects.create(code=promo, organization=who.organization, grant=Grant.objects.get())
    PromoClaimant.objects.create(code=promo, claim=claim, mailbox="a@example.com")
    WorkerLease.objects.create(name="w-1", host="h", folder="wal", expires_at=timezone.now())
    Notice.objects.create(organization=who.organization, kind="balance_low", unique_key="n")
    UpgradeNight.objects.create(brand=who.brand, night="2026-03-20")
    LimitOverride.objects.create(organization=who.organization, unit="requests", window="day", amount=5, reason="x")
    pay_and_tell(who)
    count_apart(timezone.now())
    settle(redis_connection, who.event(agent="curl/8"))
    other = customer(who.brand)
    redis_connection.xadd(stream_of(other.shard), {**entry(other.event()), "bal": "1"})
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))
    return who
