"""A day's limit at the brand's midnight, by the real clock: the zone is made so that midnight is seconds away."""

from __future__ import annotations

import struct
import threading
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing.journal import Journal
from billing.models import TierLimit, UsageDay, UsageEvent
from keys.caller import shard_of
from keys.models import Brand
from tests.billing.draining import drain
from tests.billing.stage import open_epoch
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)
SECONDS = 6
HELLO = [{"role": "user", "content": "Hello"}]


def zone_file(offset: int) -> bytes:
    """A TZif file (RFC 8536, version 1) of one unchanging offset, in seconds east of Greenwich."""
    header = struct.pack(">4sc15x6I", b"TZif", b"\0", 0, 0, 0, 0, 1, 4)
    return header + struct.pack(">iBB", offset, 0, 0) + b"TST\0"


@pytest.fixture
def midnight(tmp_path: Path) -> Iterator[tuple[str, datetime]]:
    """(zone, its next midnight)."""
    at = int(time.time()) + SECONDS
    offset = (-at + 43_200) % 86_400 - 43_200
    name = f"Soon/At{at}"
    (tmp_path / "Soon").mkdir()
    (tmp_path / name).write_bytes(zone_file(offset))
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(tmp_path), *before])
    yield name, datetime.fromtimestamp(at, UTC)
    zoneinfo.reset_tzpath(before)


@pytest.fixture
def tier_1(gateway: Gateway, midnight: tuple[str, datetime]) -> tuple[Brand, str, str]:
    """(brand, its address, the key of a customer who has made 995 of a day's 1,000 requests)."""
    shop = gateway.shop
    zone, at = midnight
    brand = shop.new_brand("midnight", "mn-", dialect="axione", timezone=zone)
    tier = shop.new_tier("tier-1", brand=brand, payer="included", is_default=True)
    TierLimit.objects.create(tier=tier, unit="requests", window="day", amount=1_000)
    shop.new_model("openai/gpt-4o", "demo-chat", brand=brand)
    organization = shop.new_organization("early", brand=brand)
    day = datetime.fromtimestamp(at.timestamp() - 1, zoneinfo.ZoneInfo(zone)).date()
    UsageDay.objects.create(
        brand_id=brand.pk,
        organization_id=organization.pk,
        key_id=1,
        model_id=1,
        end_reason="stop",
        day=day,
        requests=995,
    )
    # As after a rebuild of today: what was used before stands in the books, and is asked for.
    open_epoch(shop.store, counter=int(time.time() * 1000), shards=[shard_of(organization.pk)])
    return brand, f"{gateway.root}/midnight/v1/chat/completions", shop.new_key(organization).secret


def ask(url: str, key: str, **fields: Any) -> httpx.Response:
    body = {"model": "openai/gpt-4o", "messages": HELLO, "max_tokens": 5} | fields
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)


def test_the_1001st_request_of_a_day_waits_for_midnight_and_a_hold_stays_on_its_day(
    gateway: Gateway, tier_1: tuple[Brand, str, str], midnight: tuple[str, datetime]
) -> None:
    brand, url, key = tier_1
    zone, at = midnight
    days = [datetime.fromtimestamp(at.timestamp() + n, zoneinfo.ZoneInfo(zone)).date() for n in (-1, 1)]
    slow: list[httpx.Response] = []
    message = [{"role": "user", "content": f"demo:delay={int((at.timestamp() - time.time() + 1) * 1000)}"}]
    late = gateway.shop.new_key(gateway.shop.new_organization("late", brand=brand))
    long = threading.Thread(target=lambda: slow.append(ask(url, late.secret, messages=message, stream=True)))
    long.start()
    assert [ask(url, key).status_code for _ in range(5)] == [200] * 5
    refused = ask(url, key)
    assert datetime.now(UTC) < at, "too slow a machine for this test"
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("daily_requests_exceeded", "rate_limit_error")
    assert "1,000 of 1,000" in error["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    seconds_left = at.timestamp() - time.time()
    assert seconds_left - 1 <= float(refused.headers["retry-after"]) <= seconds_left + 2
    time.sleep(max(0.0, at.timestamp() + 1 - time.time()))
    served = ask(url, key)
    assert served.status_code == 200, served.text
    assert served.headers["x-ratelimit-remaining-requests"] == "999"
    long.join(30)
    assert slow[0].status_code == 200
    assert "[DONE]" in slow[0].text
    drain(Journal(gateway.shop.store, name="tests", notify=lambda _line: None))
    events = UsageEvent.objects.filter(brand_id=brand.pk).values_list("day", flat=True)
    assert sorted(events) == [days[0]] * 6 + [days[1]]
