import csv
import html
import io
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from billing import histograms, prices
from billing.models import Model, UsageDay
from keys import issuing
from keys.models import ApiKey, Brand, Organization
from portal import charts
from portal.views import usage as views
from tests import cast as casting


@dataclass(frozen=True)
class Customer:
    brand: Brand
    organization: Organization
    key: ApiKey
    model: Model


@pytest.fixture
def customer(cast) -> Customer:
    key = issuing.issue(organization=cast.organization, name="server", actor=cast.owner).key
    return Customer(cast.brand, cast.organization, key, casting.model(cast.brand, "m-1"))


def used(customer: Customer, days_ago: int = 0, **sums) -> None:
    values = {
        "end_reason": "stop",
        "requests": 3,
        "uncached_input_tokens": 1_000,
        "cache_read_tokens": 200,
        "output_tokens": 50,
    }
    UsageDay.objects.create(
        brand_id=customer.brand.pk,
        organization_id=customer.organization.pk,
        key_id=customer.key.pk,
        model_id=customer.model.pk,
        **{
            **values,
            "day": datetime.now(UTC).date() - timedelta(days=days_ago),
            "cost_nanos": 1_500_000,
            "list_cost_nanos": 1_500_000,
            **sums,
        },
    )


def rows_of(page: str) -> list[str]:
    page = re.sub(r"<figure.*?</figure>", "", page, flags=re.S)  # the chart has a table of its own
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in body.split("</tr>") if "<td" in row]


def usage_page(cast, query="") -> str:
    return casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/{query}").content.decode()


def test_days_are_listed_newest_first_with_their_sums(cast, customer):
    used(customer, days_ago=1, cost_nanos=12_340_000)
    used(customer)
    first, second = rows_of(usage_page(cast))
    assert re.fullmatch(r"\d+ \w{3} \d{4} 3 1,200 200 50 \$0\.00150", first)
    assert second.endswith("$0.01234")


@pytest.mark.parametrize(("group", "shown"), [("model", "m-1"), ("key", "server ak-…")])
def test_grouped_by_model_or_key(cast, customer, group, shown):
    used(customer)
    used(customer, days_ago=2)
    (row,) = rows_of(usage_page(cast, f"?by={group}"))
    assert row.startswith(shown)
    assert " 6 2,400 400 100 " in row


def test_the_period_bounds_what_is_shown(cast, customer):
    used(customer, days_ago=10)
    assert "Nothing used in this time" in usage_page(cast, "?days=7")
    assert len(rows_of(usage_page(cast, "?days=30"))) == 1
    assert 'href="?days=90&amp;by=day"' in usage_page(cast)


@pytest.mark.parametrize("query", ["?days=1000000", "?days=x&by=y", "?by=", "?days=7&days=30"])
def test_what_is_not_offered_is_not_asked_for(cast, query):
    assert "Usage" in usage_page(cast, query)


def test_another_account_of_the_brand_is_not_counted(cast, customer):
    stranger = Customer(cast.brand, cast.elsewhere, customer.key, customer.model)
    used(stranger)
    assert "Nothing used in this time" in usage_page(cast)


def test_what_the_plan_included_shows_its_list_price(cast, customer):
    used(customer, cost_nanos=0, list_cost_nanos=2_000_000)
    page = usage_page(cast)
    assert "$0.002 by the list" in page


def test_the_page_asks_as_few_questions_for_many_days(cast, customer, django_assert_max_num_queries):
    for days_ago in range(30):
        used(customer, days_ago)
    browser = casting.browser_of(cast.owner)
    with django_assert_max_num_queries(20):
        browser.get(f"/{cast.organization.public_id}/usage/")


def test_narrowed_to_a_model_or_a_key(cast, customer):
    second = Customer(cast.brand, cast.organization, customer.key, casting.model(cast.brand, "m-2"))
    other = issuing.issue(organization=cast.organization, name="laptop", actor=cast.owner).key
    used(customer, requests=3)
    used(second, requests=5)
    used(Customer(cast.brand, cast.organization, other, customer.model), requests=7)
    for query, requests in ((f"key={customer.key.public_id}", "8"), ("model=m-1", "10"), ("model=nonsense", "15")):
        (row,) = rows_of(usage_page(cast, f"?days=7&{query}"))
        assert f" {requests} " in row, query
    (row,) = rows_of(usage_page(cast, f"?by=model&model=m-1&key={other.public_id}"))
    assert row.startswith("m-1 7 ")


def test_nobody_narrows_to_a_key_of_another_account(cast, customer):
    theirs = issuing.issue(organization=cast.elsewhere, name="theirs", actor=cast.stranger).key
    used(customer)
    page = usage_page(cast, f"?key={theirs.public_id}")
    assert "theirs" not in page
    assert len(rows_of(page)) == 1, "as if nothing had been said"


def test_how_calls_ended_and_how_many_failed(cast, customer):
    used(customer, requests=4)
    used(customer, requests=2, end_reason="upstream_error")
    used(customer, requests=1, end_reason="client_gone")
    rows = rows_of(usage_page(cast, "?by=end"))
    assert sorted(row.split(" 1,200")[0] for row in rows) == ["client gone 1", "stop 4", "upstream error 2"]
    answer = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/")
    assert answer.context["failed"] == 2


def test_every_number_leads_to_its_calls(cast, customer):
    used(customer, end_reason="upstream_error")
    last = datetime.now(UTC).date()
    span = f"since={last - timedelta(days=6)}&until={last}"
    for query, link in {
        "?days=7": f"end=failed&{span}",
        "?days=7&by=end": f"end=upstream_error&{span}",
        "?days=7&by=key&model=m-1": f"model=m-1&key={customer.key.public_id}&{span}",
        "?days=7&by=day": f"since={last}&until={last}",
    }.items():
        assert f'/requests/?{link}"' in usage_page(cast, query).replace("&amp;", "&"), query


def test_times_are_percentiles_of_the_sums(cast, customer):
    bounds = histograms.MILLISECONDS
    histogram: list[int] = []
    for value in [40] * 90 + [400] * 10:
        histograms.count(histogram, value, bounds)
    used(customer, duration_histogram=histogram)
    context = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/").context
    half, most = context["duration"]
    assert 35 < half <= 50
    assert 300 < most <= 400
    assert context["first_token"] == (None, None)


def test_a_day_is_looked_into_by_model_and_hour_and_leads_to_its_requests(cast, customer):
    used(customer, days_ago=3, requests=7)
    used(customer, requests=2)
    day = datetime.now(UTC).date() - timedelta(days=3)
    link = f"?by=model&amp;day={day}"
    assert f'href="{link}"' in usage_page(cast)
    page = html.unescape(usage_page(cast, link.replace("&amp;", "&")))
    assert [row.split()[:2] for row in rows_of(page)] == [["m-1", "7"]]
    assert f'requests/?since={day}&until={day}">Requests of that day' in page
    assert f'requests/?model=m-1&since={day}&until={day}"' in page
    assert f'href="?by=key&day={day}&model=m-1"' in page
    assert len(rows_of(usage_page(cast, "?day=never"))) == 2, "as if nothing had been said"


def test_what_cache_reads_saved_at_the_prices_that_the_account_pays(cast, customer):
    prices.set_price(
        model=customer.model, actor="tests", per_million={"input": "3", "cache_read": "0.5", "output": "4"}
    )
    used(customer, cache_read_tokens=1_000_000)
    assert "1,000,000 from cache, which saved $2.50 at today's prices" in html.unescape(usage_page(cast))
    prices.set_price(
        model=customer.model,
        organization=cast.organization,
        actor="tests",
        per_million={"input": "2", "cache_read": "1", "output": "4"},
    )
    assert "saved $1.00 at" in usage_page(cast)


def test_the_file_has_the_same_sums(cast, customer):
    used(customer, days_ago=1, requests=4)
    used(customer, requests=2, end_reason="length")
    answer = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/?days=7&format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [(row["ended"], row["requests"], row["cost_nanos"]) for row in rows] == [
        ("stop", "4", "1500000"),
        ("length", "2", "1500000"),
    ]
    assert {row["model"] for row in rows} == {"m-1"}


def test_hours_are_told_by_the_brands_clock(cast, customer):
    Brand.objects.filter(pk=cast.brand.pk).update(timezone="Asia/Kolkata")
    day = datetime.now(ZoneInfo("Asia/Kolkata")).date()
    used(customer, day=day)
    page = usage_page(cast, f"?day={day}")
    assert re.findall(r"<title>(\d\d:\d\d)", page) == [f"{hour:02}:00" for hour in range(24)]
    assert "<span>00:00</span><span>23:00 Asia/Kolkata</span>" in page


def test_today_is_the_brands():
    brand = Brand(timezone="Asia/Tokyo")
    assert views.today(brand, datetime(2026, 11, 20, 15, 0, tzinfo=UTC)) == date(2026, 11, 21)


@pytest.mark.parametrize(
    ("costs", "decimals"),
    [([], 2), ([0], 2), ([5 * 10**9], 2), ([5 * 10**9, 10**7], 2), ([1_500], 7), ([150_001], 9), ([5_565_800], 7)],
)
def test_a_money_column_is_exact(costs, decimals):
    assert views.places(costs) == decimals


def test_an_amount_is_the_same_in_tile_table_and_total(cast, customer):
    used(customer, cost_nanos=5_565_800, list_cost_nanos=5_565_800, requests=2_000)
    page = usage_page(cast)
    body = re.sub(r"<figure.*?</figure>", "", page, flags=re.S)
    assert re.findall(r">(\$0\.\d+)<", body) == ["$0.0055658"] * 3


def test_times_and_speed_are_of_calls_that_did_not_fail(cast, customer):
    def counted(value, bounds):
        histogram: list[int] = []
        histograms.count(histogram, value, bounds)
        return histogram

    used(
        customer,
        duration_histogram=counted(900, histograms.MILLISECONDS),
        first_token_histogram=counted(100, histograms.MILLISECONDS),
        speed_histogram=counted(2_000, histograms.TOKENS_PER_SECOND),
    )
    used(customer, end_reason="upstream_error", duration_histogram=counted(3, histograms.MILLISECONDS))
    answer = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/")
    assert answer.context["duration"] == (1_000, 1_000)
    assert answer.context["first_token"] == (100, 100)
    assert "2,000 <span" in answer.content.decode()


def test_the_chart_is_in_parts_of_what_is_grouped_by(cast, customer):
    second = Customer(cast.brand, cast.organization, customer.key, casting.model(cast.brand, "m-2"))
    used(customer, requests=3, cost_nanos=4_000_000, list_cost_nanos=4_000_000)
    used(second, days_ago=1, requests=5, cost_nanos=1_000_000, list_cost_nanos=1_000_000)
    used(second, requests=2, end_reason="timeout", cost_nanos=0, list_cost_nanos=0)

    def chart(query: str) -> tuple[list[str], int]:
        figure = re.search(r"<figure.*?</figure>", usage_page(cast, query), re.S)
        assert figure is not None
        legend = re.search(r'<ul class="legend-list.*?</ul>', figure[0], re.S)
        lines = re.findall(r"<li>(.*?)</li>", legend[0] if legend else "", re.S)
        return [" ".join(re.sub(r"<[^>]+>", "", line).split()) for line in lines], len(
            re.findall(r"#part-1\)", figure[0])
        )

    assert chart("?days=7") == ([], 0)
    assert chart("?days=7&by=model") == (["m-1 $0.004", "m-2 $0.001"], 2)
    assert chart("?days=7&by=model&measure=requests")[0] == ["m-2 7", "m-1 3"]
    assert chart("?days=7&by=end&measure=requests")[0] == ["stop 8", "timeout 2"]
    assert chart("?days=7&by=key&measure=requests")[0] == []
    assert chart("?days=7&measure=tokens")[0] == ["input 3,000", "input from cache 600", "output 150"]
    assert "m-2: 2" not in usage_page(cast, "?days=7&by=model&measure=errors"), "one part needs no names"
    assert "most: 2" in usage_page(cast, "?days=7&by=model&measure=errors")
    assert chart("?days=7&by=model&measure=first")[0] == ["half within", "95 of 100 within"]
    assert 'href="?days=7&amp;by=model&amp;measure=errors"' in usage_page(cast, "?days=7&by=model")
    table = usage_page(cast, "?days=7&by=model").partition("As a table")[2].partition("</table>")[0]
    assert table.count("<tr>") == 3, "a head, and the two days that were used"


def test_where_nothing_was_paid_the_chart_counts_requests_unless_asked(cast, customer):
    used(customer, cost_nanos=0)
    page = usage_page(cast)
    assert "Requests per day" in page
    assert 'href="?days=30&amp;by=day&amp;measure=cost"' in page
    assert "Cost per day" in usage_page(cast, "?measure=cost")
    used(customer, days_ago=1)
    assert "Cost per day" in usage_page(cast)


def test_a_small_day_beside_a_big_one_still_has_a_bar():
    first = date(2026, 11, 1)

    class Row:
        def __init__(self, day, cost):
            self.day, self.list_cost_nanos, self.cost_nanos, self.requests = day, cost, cost, 1

    rows = [Row(first, 1), Row(first + timedelta(days=2), 10**12)]
    chart = charts.by_day(rows, first, first + timedelta(days=2))  # type: ignore[arg-type]
    assert [bar.height for bar in chart.bars] == [2, 0, 100]
    assert [bar.x for bar in chart.bars] == [0, 10, 20]
    assert chart.most_nanos == 10**12
