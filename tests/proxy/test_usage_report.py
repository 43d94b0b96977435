"""GET /usage on every surface: thirty days, today's as of the call just answered, the others as they were booked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from django.db.models import F, Sum

from billing.admission import Admission
from billing.events import Event
from billing.journal import Journal
from billing.models import Payer, UsageDay
from keys.models import Organization
from proxy.dialects import DIALECTS
from tests.billing.draining import drain
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)

ZONE = "Pacific/Auckland"
"""Where a day begins at noon of UTC: the brand's day is not the machine's."""
FIELDS = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")


_numbers = itertools.count()


class Surface:
    def __init__(self, gateway: Gateway, dialect: str, *limits: dict[str, Any]) -> None:
        shop = self.shop = gateway.shop
        slug = f"u-{dialect}-{next(_numbers)}"
        brand = shop.new_brand(slug, f"{slug}_", dialect=dialect, timezone=ZONE)
        shop.new_model("one", "demo-chat", brand=brand)
        shop.new_model("broken", "demo-broken", brand=brand)
        tier = shop.new_tier("basic", *limits, brand=brand, rank=1, payer=Payer.INCLUDED, is_default=True)
        self.organization: Organization = shop.new_organization(f"who-{slug}", brand=brand, tier=tier)
        secret = shop.new_key(self.organization).secret
        headers = {"authorization": f"Bearer {secret}"}
        self.client = httpx.Client(base_url=f"{gateway.root}/{slug}/v1", headers=headers, timeout=30)

    def chat(self, model: str = "one", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 20} | fields
        return self.client.post("/chat/completions", json=body)

    def usage(self) -> dict[str, Any]:
        answer = self.client.get("/usage")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def booked(self) -> dict[str, int]:
        """What stands in the rollups once the journal has all."""
        drain(Journal(self.shop.store, name="tests", notify=lambda line: None))
        prompt = F("uncached_input_tokens") + F("cache_read_tokens") + F("cache_write_tokens")
        served = F("requests") - F("failures")
        sums = UsageDay.objects.filter(organization_id=self.organization.id).aggregate(
            requests=Sum(served), prompt_tokens=Sum(prompt), completion_tokens=Sum("output_tokens")
        )
        return sums | {"total_tokens": sums["prompt_tokens"] + sums["completion_tokens"]}


@pytest.fixture
def surfaces() -> Iterator[list[Surface]]:
    made: list[Surface] = []
    yield made
    for surface in made:
        surface.client.close()


def numbers(day: dict[str, Any]) -> dict[str, int]:
    return {name: day[name] for name in FIELDS}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_thirty_days_up_to_the_call_just_answered(gateway: Gateway, surfaces: list[Surface], dialect: str) -> None:
    surface = Surface(gateway, dialect)
    surfaces.append(surface)
    spent = dict.fromkeys(FIELDS, 0)
    for _ in range(3):
        usage = surface.chat().json()["usage"]
        spent["requests"] += 1
        for name in FIELDS[1:]:
            spent[name] += usage[name]
        report = surface.usage()
        assert numbers(report["daily_stats"][-1]) == spent, "the call just answered is in it"
    streamed = surface.chat(stream=True)
    assert b"data:" in streamed.content
    failed = surface.chat("broken")
    assert failed.status_code >= 500
    report = surface.usage()
    today = report["daily_stats"][-1]
    assert (report["user"], report["tier"]) == (surface.organization.slug, "basic")
    assert today["requests"] == 4, "what an engine failed is given back"
    assert (report["tokens_used"], report["tokens_limit"], report["tokens_remaining"]) == (
        today["total_tokens"],
        None,
        None,
    )
    days = [date.fromisoformat(day["date"]) for day in report["daily_stats"]]
    assert days == [days[-1] - timedelta(days=29 - number) for number in range(30)]
    assert abs((days[-1] - datetime.now(ZoneInfo(ZONE)).date()).days) <= 1  # midnight may have passed
    assert all(numbers(day) == dict.fromkeys(FIELDS, 0) for day in report["daily_stats"][:-1])
    assert surface.booked() == numbers(today)


def test_a_call_that_settles_a_moment_after_its_answer_is_in_it(
    gateway: Gateway, surfaces: list[Surface], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that another worker served: its settling may reach Redis after the client's next question."""
    real = Admission._settle_in_redis

    def late(self: Admission, event: Event, blob: bytes) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        settled = loop.create_future()
        loop.call_later(0.01, lambda: real(self, event, blob).add_done_callback(lambda _: settled.set_result(None)))
        return settled

    monkeypatch.setattr(Admission, "_settle_in_redis", late)
    surface = Surface(gateway, "openai")
    surfaces.append(surface)
    for number in range(1, 6):
        assert surface.chat().status_code == 200
        assert surface.usage()["daily_stats"][-1]["requests"] == number


def test_older_days_are_those_of_the_books(gateway: Gateway, surfaces: list[Surface]) -> None:
    """The same calls, as if they had been made some days ago."""
    surface = Surface(gateway, "dialogix")
    surfaces.append(surface)
    surface.chat()
    surface.chat("broken")
    before = numbers(surface.usage()["daily_stats"][-1])
    assert surface.booked() == before
    rows = UsageDay.objects.filter(organization_id=surface.organization.id)
    rows.update(day=F("day") - timedelta(days=29))
    report = surface.usage()
    assert numbers(report["daily_stats"][0]) == before
    assert report["tokens_used"] == 2 * before["total_tokens"]  # Redis still has them as today's
    rows.update(day=F("day") - timedelta(days=1))
    assert numbers(surface.usage()["daily_stats"][0]) == dict.fromkeys(FIELDS, 0)


def test_the_limit_shown_is_a_quota_not_a_rate(gateway: Gateway, surfaces: list[Surface]) -> None:
    limits = (
        {"unit": "tokens", "window": "minute", "amount": 5_000},
        {"unit": "tokens", "window": "day", "amount": 9_000},
        {"unit": "tokens", "window": "month", "amount": 8_000},
    )
    surface = Surface(gateway, "dialogix", *limits)
    surfaces.append(surface)
    used = surface.chat().json()["usage"]["total_tokens"]
    report = surface.usage()
    assert (report["tokens_used"], report["tokens_limit"], report["tokens_remaining"]) == (used, 8_000, 8_000 - used)
