import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from billing.models import Model, UsageDay
from keys import issuing
from keys.models import ApiKey, Brand, Organization
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
    values = {"requests": 3, "uncached_input_tokens": 1_000, "cache_read_tokens": 200, "output_tokens": 50}
    UsageDay.objects.create(
        brand_id=customer.brand.pk,
        organization_id=customer.organization.pk,
        key_id=customer.key.pk,
        model_id=customer.model.pk,
        end_reason="stop",
        day=datetime.now(UTC).date() - timedelta(days=days_ago),
        **{**values, "cost_nanos": 1_500_000, "list_cost_nanos": 1_500_000, **sums},
    )


def rows_of(page: str) -> list[str]:
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in body.split("</tr>") if "<td" in row]


def usage_page(cast, query="") -> str:
    return casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/usage/{query}").content.decode()


def test_days_are_listed_newest_first_with_their_sums(cast, customer):
    used(customer, days_ago=1, cost_nanos=12_340_000)
    used(customer)
    first, second = rows_of(usage_page(cast))
    assert re.fullmatch(r"\d+ \w{3} \d{4} 3 1,200 200 50 \$0\.001500", first)
    assert second.endswith("$0.012340")


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
    assert 'href="?by=day&amp;days=90"' in usage_page(cast)


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
    with django_assert_max_num_queries(12):
        browser.get(f"/{cast.organization.public_id}/usage/")


def test_today_is_the_brands():
    brand = Brand(timezone="Asia/Tokyo")
    assert views.today(brand, datetime(2026, 11, 20, 15, 0, tzinfo=UTC)) == date(2026, 11, 21)


@pytest.mark.parametrize(
    ("costs", "decimals"), [([], 2), ([0], 2), ([5 * 10**9], 2), ([5 * 10**9, 10**7], 4), ([1_500], 9), ([150_000], 6)]
)
def test_a_money_column_shows_three_digits_of_its_smallest_amount(costs, decimals):
    assert views.places(costs) == decimals


def test_a_small_day_beside_a_big_one_still_has_a_bar():
    first = date(2026, 11, 1)

    class Row:
        def __init__(self, day, cost):
            self.day, self.list_cost_nanos, self.cost_nanos, self.requests = day, cost, cost, 1

    rows = [Row(first, 1), Row(first + timedelta(days=2), 10**12)]
    chart = views.chart(rows, first, first + timedelta(days=2))  # type: ignore[arg-type]
    assert [bar.height for bar in chart.bars] == [2, 0, 100]
    assert [bar.x for bar in chart.bars] == [0, 10, 20]
    assert chart.most_nanos == 10**12
