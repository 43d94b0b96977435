import os
import re
import time
from datetime import UTC, date, datetime, timedelta
from html import unescape
from urllib.parse import urlencode
from uuid import UUID

import pytest
from django.urls import reverse

from billing import call_ids, calls, explaining, journal, pricing
from billing.usage import Usage
from keys import issuing
from portal import remedies
from proxy.models import RefusalRecord
from proxy.refusals import Reason
from tests import cast as casting
from tests.billing import draining, settled
from tests.billing.settled import Customer

pytestmark = pytest.mark.django_db(transaction=True)
RATES = {"input_picos": 200_001, "output_picos": 600_000, "cache_read_picos": 50_000, "request_nanos": 7}


@pytest.fixture
def customer(cast) -> Customer:
    key = issuing.issue(organization=cast.organization, name="server", actor=cast.owner).key
    return Customer(cast.brand, cast.organization, key, casting.model(cast.brand, "m-1"))


@pytest.fixture
def book(redis_connection):
    """Takes events the whole way: settle's stream, journal, PostgreSQL."""

    def take(*events, late=False):
        settled.settle(redis_connection, *events, late=late)
        draining.drain(journal.Journal(redis_connection, name="test", notify=lambda _line: None))

    return take


def event(customer: Customer, **changes):
    fields = {
        "rates": RATES,
        "uncached_input_tokens": 1_001,
        "cache_read_tokens": 500,
        "output_tokens": 80,
        "list_cost_nanos": 273_209,
        "cost_nanos": 273_209,
        "held_nanos": 900_000,
    }
    return customer.event(**{**fields, **changes})


def requests_page(cast, query="", user=None):
    browser = casting.browser_of(user or cast.owner)
    return browser.get(f"/{cast.organization.public_id}/requests/{query}")


def test_a_call_is_explained_line_by_line(cast, customer, book):
    call = event(customer)
    book(call)
    page = requests_page(cast, f"?id={call.call_id}")
    assert page.status_code == 200
    text = unescape(page.content.decode())
    for said in ("1,001", "$0.200001 per million", "$0.000200201001", "$0.000025", "$0.000048", "$0.000000007 each"):
        assert said in text, said
    assert "Sum, rounded up once to a billionth" in text
    assert "$0.000273209" in text
    assert customer.key.hint in text
    assert "192.0.2.7" in text


def test_the_explained_sum_is_the_charge_of_pricing():
    rate = explaining.frozen_rate(RATES)
    usage = Usage(input=1_001, cache_read=500, output=80)
    assert pricing.charge(rate, usage) == 273_209


def test_an_included_call_says_why_it_cost_nothing(cast, customer, book):
    call = event(customer, payer="included", cost_nanos=0)
    book(call)
    text = requests_page(cast, f"?id={call.call_id}").content.decode()
    assert "Your plan includes this call, so nothing was charged." in text


def test_a_correction_is_folded_in_and_told(cast, customer, book):
    call = event(customer, end_reason="lapsed", output_tokens=0, list_cost_nanos=225_209, cost_nanos=225_209)
    book(call)
    later = event(customer, call_id=call.call_id)
    book(later, late=True)
    text = requests_page(cast, f"?id={call.call_id}").content.decode()
    assert "Corrected by $0.000048" in text
    assert "$0.000273209" in text


def test_a_client_that_left_is_told_what_it_paid_for(cast, customer, book):
    call = event(customer, end_reason="client_gone", usage_source="running", flags=("cache_unknown",))
    book(call)
    text = requests_page(cast, f"?id={call.call_id}").content.decode()
    assert "Your client closed the connection" in text
    assert "does not say what it read from its cache" in text


@pytest.mark.parametrize("asked", ["nonsense", "019", "' OR 1=1 --", "0" * 300])
def test_what_is_no_id_is_told_how_ids_look(cast, asked):
    page = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/requests/", {"id": asked})
    assert page.status_code == 404
    assert "not a request id" in page.content.decode()


def test_another_accounts_call_is_like_a_missing_one(cast, customer, book):
    call = event(customer)
    book(call)
    missing = call_ids.mint(int(time.time() * 1000), os.urandom(10))
    stranger = casting.browser_of(cast.stranger)
    path = f"/{cast.elsewhere.public_id}/requests/"
    texts = [casting.text_of(stranger.get(path, {"id": asked})).replace(asked, "") for asked in (call.call_id, missing)]
    assert texts[0] == texts[1]
    assert "This account has no request with that id" in texts[0]


def test_calls_are_listed_newest_first_page_by_page(cast, customer, book, monkeypatch, django_assert_max_num_queries):
    monkeypatch.setattr("portal.request_list.PER_PAGE", 3)
    now_ms = int(time.time() * 1000)
    made = [event(customer, call_id=call_ids.mint(now_ms + n, os.urandom(10))) for n in range(5)]
    book(*made)
    page = requests_page(cast).content.decode()
    shown = [str(call.event.call_id) for call in calls.latest(cast.organization.pk, limit=3)]
    assert [page.index(f"?id={call_id}") for call_id in shown] == sorted(page.index(f"?id={i}") for i in shown)
    assert f"?before={shown[-1]}" in page
    older = requests_page(cast, f"?before={shown[-1]}").content.decode()
    assert sum(f"?id={one.call_id}" in older for one in made) == 2
    browser = casting.browser_of(cast.owner)
    with django_assert_max_num_queries(14):  # with what the filter offers: keys and models
        browser.get(f"/{cast.organization.public_id}/requests/")


def refused(organization_id, **fields) -> RefusalRecord:
    values = {
        "call_id": call_ids.mint(int(time.time() * 1000), os.urandom(10)),
        "at": datetime.now(UTC),
        "organization_id": organization_id,
        "key_hint": "ak-…Ab3d",
        "model": "aion-v3",
        "status": 429,
        "reason": "insufficient_quota",
        "limit": "balance",
        "message": "You exceeded your current quota (balance).",
    }
    return RefusalRecord.objects.create(**{**values, **fields})


def test_calls_and_refusals_stand_in_one_list_in_their_order(cast, customer, book):
    now_ms = int(time.time() * 1000)
    ids = [call_ids.mint(now_ms + n, os.urandom(10)) for n in range(4)]
    refused(cast.organization.pk, call_id=ids[0])
    book(event(customer, call_id=ids[1]), event(customer, call_id=ids[3], end_reason="upstream_error"))
    refused(cast.organization.pk, call_id=ids[2], reason="rate_limited", limit="requests per minute")
    refused(cast.organization.pk, call_id=ids[3], status=502, reason="engine_error", limit="")
    page = requests_page(cast).content.decode()
    assert re.findall(r'data-row="([^"]+)"', page) == [str(i) for i in reversed(ids)]
    for said in ("429 insufficient quota", "429 rate limited", "requests per minute", "502 engine error"):
        assert said in page, said
    for show, expected in {"served": [ids[3], ids[1]], "refused": [ids[3], ids[2], ids[0]], "x": ids[::-1]}.items():
        text = requests_page(cast, f"?show={show}").content.decode()
        assert re.findall(r'data-row="([^"]+)"', text) == [str(i) for i in expected]


def test_refusals_are_paged_with_the_calls(cast, customer, book, monkeypatch):
    monkeypatch.setattr("portal.request_list.PER_PAGE", 2)
    now_ms = int(time.time() * 1000)
    ids = [str(call_ids.mint(now_ms + n, os.urandom(10))) for n in range(5)]
    book(*(event(customer, call_id=call_id) for call_id in ids[::2]))
    for call_id in ids[1::2]:
        refused(cast.organization.pk, call_id=call_id)
    seen, query = [], "?"
    while query:
        page = unescape(requests_page(cast, query).content.decode())
        seen += re.findall(r'data-row="([^"]+)"', page)
        older = re.search(r'href="(\?[^"]+)" rel="next"', page)
        query = older[1] if older else ""
    assert seen == ids[::-1]


def test_the_live_part_is_sent_again_only_when_it_differs(cast, customer, book, django_assert_max_num_queries):
    browser = casting.browser_of(cast.owner)
    path = f"/{cast.organization.public_id}/requests/live/"
    call = event(customer)
    book(call)
    first = browser.get(path)
    assert f'data-row="{call.call_id}"' in first.content.decode()
    assert "<html" not in first.content.decode()
    with django_assert_max_num_queries(7):
        same = browser.get(path, headers={"If-None-Match": first["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    correction = event(customer, call_id=call.call_id, output_tokens=0, list_cost_nanos=225_209, cost_nanos=225_209)
    book(correction, late=True)
    corrected = browser.get(path, headers={"If-None-Match": first["ETag"]})
    assert corrected.status_code == 200
    refusal = refused(cast.organization.pk)
    for show, shown in {"": True, "refused": True, "served": False}.items():
        text = browser.get(path, {"show": show}).content.decode()
        assert (str(refusal.call_id) in text) is shown


def test_a_refused_request_says_why_and_what_to_do(cast):
    refusal = refused(cast.organization.pk)
    page = requests_page(cast, f"?id={refusal.call_id}")
    assert page.status_code == 200
    text = page.content.decode()
    for said in ("HTTP 429", "Insufficient quota", "You exceeded your current quota (balance).", "get more credit"):
        assert said in text, said
    assert f'href="/{cast.organization.public_id}/balance/">Balance</a>' in text
    assert str(refusal.call_id) in requests_page(cast, "?show=refused").content.decode()


def test_a_call_whose_engine_failed_shows_both_sides(cast, customer, book):
    call = event(customer, end_reason="upstream_error", list_cost_nanos=0, cost_nanos=0, output_tokens=0)
    book(call)
    refused(cast.organization.pk, call_id=call.call_id, status=502, reason="engine_error", limit="", engine_status=500)
    text = requests_page(cast, f"?id={call.call_id}").content.decode()
    assert "A request that failed" in text
    assert "Try again in a moment" in text
    assert "The engine failed." in text
    assert "answered 500" not in text
    assert text.count("<h2>What happened</h2>") == text.count("<dt>Charged</dt>") == text.count("Why it failed") == 1


def test_another_accounts_refusal_is_like_a_missing_one(cast):
    theirs, nobodys = refused(cast.elsewhere.pk), refused(None)
    for refusal in (theirs, nobodys):
        assert requests_page(cast, f"?id={refusal.call_id}").status_code == 404
    assert "Nothing was refused" in requests_page(cast, "?show=refused").content.decode()


def test_staff_see_refusals_of_nobody_and_what_the_engine_said(cast):
    refusal = refused(None, engine_id=7, engine_status=503, key_hint="")
    staff = casting.browser_of(casting.person("staff", is_staff=True, is_superuser=True))
    text = staff.get("/admin/support/", {"id": str(refusal.call_id)}).content.decode()
    assert "answered 503" in text
    assert "not known" in text


def test_every_reason_has_a_next_step():
    for reason in Reason:
        assert remedies.remedy(reason.value)
        assert all(reverse(name, args=["org_1"]) for _label, name in remedies.links(reason.value))
    assert remedies.remedy("a_reason_of_tomorrow") == remedies.TELL_US


def test_staff_find_any_accounts_call(cast, customer, book):
    call = event(customer)
    book(call)
    staff = casting.person("staff", is_staff=True, is_superuser=True)
    page = casting.browser_of(staff).get("/admin/support/", {"id": call.call_id})
    assert page.status_code == 200
    assert "Acme" in page.content.decode()
    assert "$0.000273209" in page.content.decode()
    for someone in (cast.owner, cast.stranger):
        assert casting.browser_of(someone).get("/admin/support/", {"id": call.call_id}).status_code in {302, 403}


def test_every_end_and_source_has_words():
    from billing.models import EndReason, UsageSource

    assert set(EndReason.values) == set(explaining.END_REASONS)
    assert set(UsageSource.values) == set(explaining.USAGE_SOURCES)


def test_every_flag_of_the_meter_has_words():
    from billing.facts import USAGE_ABOVE_HOLD
    from proxy.bounds import Flag

    assert {*(flag.value for flag in Flag), USAGE_ABOVE_HOLD} <= set(explaining.FLAGS)


def test_call_ids_are_uuids():
    assert UUID(call_ids.mint(0, bytes(10)))


# Found by what the customer wrote on them


def listed(cast, made, **query) -> set[str]:
    """Names of the calls in `made` that the page lists."""
    text = requests_page(cast, "?" + urlencode(query)).content.decode()
    return {name for name, call in made.items() if f"?id={call.call_id}" in text}


@pytest.fixture
def marked(customer, book):
    made = {
        "plain": event(customer),
        "ann": event(customer, user="ann & co", metadata={"team": "red", "job": "7"}),
        "bob": event(customer, user="bob", metadata={"team": "blue=ish"}),
    }
    book(*made.values())
    return made


def test_calls_are_found_by_user_exactly(cast, marked):
    assert listed(cast, marked) == {"plain", "ann", "bob"}
    assert listed(cast, marked, user="", metadata="") == {"plain", "ann", "bob"}
    assert listed(cast, marked, user="ann & co") == {"ann"}
    for none in ("ann", "Bob", "%", "bob ", "x\x00"):
        assert listed(cast, marked, user=none) == set()


def test_calls_are_found_by_metadata(cast, marked):
    assert listed(cast, marked, metadata="team") == {"ann", "bob"}
    assert listed(cast, marked, metadata="team=red") == {"ann"}
    assert listed(cast, marked, metadata="team=blue=ish") == {"bob"}
    assert listed(cast, marked, metadata="team", user="bob") == {"bob"}
    for none in ("red", "team=", "team=r", "=red", "\x00=red", "te\x00am=\ud7ff"):
        assert listed(cast, marked, metadata=none) == set()


def test_another_accounts_marked_calls_stay_its_own(cast, marked):
    path = f"/{cast.elsewhere.public_id}/requests/"
    page = casting.browser_of(cast.stranger).get(path, {"user": "bob"})
    assert "No such requests" in page.content.decode()


def test_the_page_links_keep_the_filter(cast, customer, book, monkeypatch):
    monkeypatch.setattr("portal.request_list.PER_PAGE", 1)
    made = {str(n): event(customer, user="ann & co", metadata={"job": "7"}) for n in range(2)}
    book(*made.values(), event(customer))
    page = unescape(requests_page(cast, "?user=ann+%26+co&metadata=job%3D7").content.decode())
    assert 'name="user" value="ann & co"' in page
    assert 'name="metadata" value="job=7"' in page
    older = re.search(r'href="(\?[^"]+)" rel="next"', page)
    assert older is not None
    assert "user=ann+%26+co&metadata=job%3D7&before=" in older[1]
    last = unescape(requests_page(cast, older[1]).content.decode())
    assert 'requests/?user=ann+%26+co&metadata=job%3D7" rel="prev"' in last
    assert 'rel="next"' not in last
    assert {name for name, call in made.items() if f"?id={call.call_id}" in page + last} == set(made)


def test_a_search_reads_a_bounded_part_and_goes_on_where_it_stopped(cast, customer, book, monkeypatch):
    monkeypatch.setattr(calls, "SEARCHED_MAX", 3)
    now_ms = int(time.time() * 1000)
    made = [event(customer, call_id=call_ids.mint(now_ms - n, os.urandom(10))) for n in range(4)]
    rare = event(customer, call_id=call_ids.mint(now_ms - 9, os.urandom(10)), user="rare")
    book(*made, rare)
    page = unescape(requests_page(cast, "?user=rare").content.decode())
    assert "Looked through 3 requests" in page
    assert f"?id={rare.call_id}" not in page
    assert f"?user=rare&before={made[2].call_id}" in page
    assert f"?id={rare.call_id}" in requests_page(cast, f"?user=rare&before={made[2].call_id}").content.decode()


# Found by whose they are, what they asked and how they ended


@pytest.fixture
def varied(cast, customer, book):
    """Calls of two keys and two models, a refusal of one of each, and what failed two days ago."""
    other = issuing.issue(organization=cast.organization, name="laptop", actor=cast.owner).key
    second = casting.model(cast.brand, "m-2")
    ago = int(time.time() * 1000) - 2 * 86_400_000
    failed = {"end_reason": "timeout", "call_id": call_ids.mint(ago, os.urandom(10)), "output_tokens": 0}
    made = {
        "server m-1": event(customer),
        "laptop m-1": Customer(cast.brand, cast.organization, other, customer.model).event(),
        "server m-2 length": Customer(cast.brand, cast.organization, customer.key, second).event(end_reason="length"),
        "server m-1 timeout": event(customer, **failed),
    }
    book(*made.values())
    made["refused"] = refused(cast.organization.pk, key_id=other.pk, key_hint=other.hint, model="m-2")
    refused(cast.organization.pk, call_id=failed["call_id"], status=504, reason="engine_timeout", limit="")
    return made, other


def test_calls_are_found_by_key_model_end_and_day(cast, customer, varied):
    made, other = varied
    day = str(datetime.now(UTC).date())
    late = {"server m-1 timeout"}
    assert listed(cast, made) == set(made)
    for query, found in (
        ({"key": other.public_id}, {"laptop m-1", "refused"}),
        ({"key": customer.key.public_id, "show": "served"}, {"server m-1", "server m-2 length"} | late),
        ({"model": "m-2"}, {"server m-2 length", "refused"}),
        ({"model": "m-2", "key": other.public_id, "show": "refused"}, {"refused"}),
        ({"end": "failed"}, late),
        ({"end": "length"}, {"server m-2 length"}),
        ({"end": "succeeded", "model": "m-1"}, {"server m-1", "laptop m-1"}),
        ({"day": day}, set(made) - late),
        ({"until": str(date.fromisoformat(day) - timedelta(days=1))}, late),
        ({"since": day, "end": "failed"}, set()),
        ({"key": "nobody's", "model": "x", "end": "x", "day": "9999-99-99"}, set(made)),
    ):
        assert listed(cast, made, **query) == found, query
    text = unescape(requests_page(cast, "?end=failed").content.decode())
    assert "504 engine timeout" in text
    assert f'<a href="?key={customer.key.public_id}" title="Only of this key">server</a>' in text
    assert 'requests/live/?end=failed" data-live-ms="10000"' in text
    live = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/requests/live/?end=length")
    assert re.findall(r'data-row="([^"]+)"', live.content.decode()) == [str(made["server m-2 length"].call_id)]


def test_a_rare_end_is_looked_for_in_a_bounded_part(cast, customer, book, monkeypatch):
    monkeypatch.setattr(calls, "SEARCHED_MAX", 3)
    now_ms = int(time.time() * 1000)
    ids = [call_ids.mint(now_ms - n, os.urandom(10)) for n in range(5)]
    book(
        *(
            event(customer, call_id=call_id, end_reason="lapsed" if n in (1, 4) else "stop")
            for n, call_id in enumerate(ids)
        )
    )
    page = unescape(requests_page(cast, "?end=lapsed").content.decode())
    assert re.findall(r'data-row="([^"]+)"', page) == [str(ids[1])]
    assert "Looked through 3 requests for these" in page
    further = re.search(r'href="(\?[^"]+)" rel="next">Look further back', page)
    assert further is not None
    rest = unescape(requests_page(cast, further[1]).content.decode())
    assert re.findall(r'data-row="([^"]+)"', rest) == [str(ids[4])]
    assert "Look further back" not in rest
