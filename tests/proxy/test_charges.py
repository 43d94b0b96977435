"""A charge explained to a program, as the page about the request explains it to people, on every surface."""

from __future__ import annotations

from fractions import Fraction
from html import unescape
from typing import Any

import httpx
import orjson
import pytest

from billing import call_ids, ledger
from billing.models import UsageEvent
from keys.models import Role
from proxy.dialects import DIALECTS
from tests import cast as casting
from tests.proxy.shop import HELLO, Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_lines_add_up_to_the_charge_and_the_page_says_the_same(gateway: Gateway) -> None:
    customer = gateway.shop.customer()
    answer = gateway.chat("demo:tokens=7", headers=customer.headers, user="ann", metadata={"job": "7"})
    event = gateway.event_of(answer)
    charge = explained(gateway, answer, customer.headers)
    assert charge["cost_nanos"] == event.cost_nanos == int(answer.headers["x-cost-nanos"])
    amounts = [Fraction(line["price"]) * line["quantity"] for line in charge["lines"]]
    assert amounts == [Fraction(line["amount"]) for line in charge["lines"]]
    assert sum(amounts) == Fraction(charge["sum"])
    nanos = -int(-Fraction(charge["sum"]) * 10**9 // 1)
    assert Fraction(charge["list_cost"]) == Fraction(nanos, 10**9) == Fraction(charge["cost"])
    assert Fraction(charge["held"]) >= Fraction(charge["cost"]) > 0
    assert ledger.balance_nanos(customer.organization) == 10**9 - event.cost_nanos
    assert (charge["user"], charge["metadata"], charge["end_reason"]) == ("ann", {"job": "7"}, "stop")
    page = page_about(gateway, customer.organization, event)
    said = [charge[name] for name in ("cost", "held", "model", "key", "address")]
    for line in charge["lines"]:
        said += [line["amount"], f"{line['quantity']:,}"]
    for text in [*said, *charge["explanation"]]:
        assert text in page, text


def page_about(gateway: Gateway, organization: Any, event: UsageEvent) -> str:
    reader = casting.person("reader")
    casting.join(reader, organization, Role.VIEWER)
    path = f"/{gateway.shop.brand.slug}/{organization.public_id}/requests/"
    answer = casting.browser_of(reader).get(path, {"id": str(event.call_id)})
    assert answer.status_code == 200
    return unescape(answer.content.decode())


def explained(gateway: Gateway, answer: httpx.Response, headers: dict[str, str]) -> dict[str, Any]:
    told = gateway.client.get(f"/usage/{answer.headers['x-request-id']}", headers=headers)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_accounts_call_is_like_a_missing_one_in_the_surfaces_words(gateway: Gateway, dialect: str) -> None:
    shop = gateway.shop
    brand = shop.new_brand(f"why-{dialect}", f"w{dialect[:4]}-", dialect=dialect)
    shop.new_tier(f"why-{dialect}", brand=brand, is_default=True)
    shop.new_model("one", "demo-chat", brand=brand)
    ours, theirs = (shop.new_key(shop.new_organization(name, credit="1", brand=brand)) for name in ("us", "them"))
    with httpx.Client(base_url=f"{gateway.root}/{brand.slug}/v1", timeout=30) as client:
        asks = [{"authorization": f"Bearer {key.secret}"} for key in (ours, theirs)]
        body = {"model": "one", "messages": HELLO, "max_tokens": 16}
        event = gateway.event_of(client.post("/chat/completions", json=body, headers=asks[0]))
        paths = [str(event.call_id), call_ids.mint(0, bytes(10)), "nonsense", "%00", "x/y"]
        answers = [client.get(f"/usage/{path}", headers=asks[1]) for path in paths]
        assert client.get(f"/usage/{event.call_id}", headers=asks[0]).json()["cost_nanos"] == event.cost_nanos
        assert client.get(f"/usage/{event.call_id}").status_code == 401
        assert client.post(f"/usage/{event.call_id}", headers=asks[0]).status_code == 405
    assert [answer.status_code for answer in answers] == [404] * 5
    assert len({orjson.dumps(answer.json(), option=orjson.OPT_SORT_KEYS) for answer in answers}) == 1
    told = answers[0].json()
    assert "call_not_found" in (
        told.get("code"),
        (told.get("error") or {}).get("code") if dialect != "aimichat" else "",
    )


def test_a_key_that_may_not_read_usage_is_told_so(gateway: Gateway) -> None:
    key = gateway.shop.new_key(gateway.shop.organization, scopes=["chat"])
    headers = {"authorization": f"Bearer {key.secret}"}
    answer = gateway.client.get(f"/usage/{call_ids.mint(0, bytes(10))}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
