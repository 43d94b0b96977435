"""The operators' reports on money: pages, files, the command, and what they read."""

from __future__ import annotations

import csv
import io
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Grant
from portal import money_reports
from portal.views import money_reports as views
from tests import cast
from tests.billing.earning import book, call, costs, engine, given
from tests.billing.settled import customer

pytestmark = pytest.mark.django_db
REVENUE, ENGINES, DEFERRED = "/admin/reports/", "/admin/reports/engines/", "/admin/reports/deferred/"
UNIT = 10**9
CENT_AN_HOUR = UNIT // 100


@pytest.fixture
def who(settings, redis_connection):
    """Ten units of revenue yesterday on an engine of a cent an hour, five paid and unspent."""
    who = customer(name="=cmd|' /C calc'!A0")
    settings.DEFAULT_BRAND = who.brand.slug
    gpu = engine("gpu", brand=who.brand)
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
    costs(gpu, CENT_AN_HOUR, midnight - timedelta(days=1))
    costs(gpu, 0, midnight)
    given(who.organization, Grant.Kind.PAID, 15 * UNIT)
    book(redis_connection, *(call(who, yesterday, 5 * UNIT, engine_id=gpu.pk) for _ in range(2)))
    return who


@pytest.fixture
def staff():
    return cast.browser_of(cast.person("staff", is_staff=True, is_superuser=True))


def rows_of(answer) -> list[dict[str, str]]:
    text = answer if isinstance(answer, str) else b"".join(answer.streaming_content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def reported(*arguments: str) -> str:
    out = StringIO()
    call_command("report", *arguments, stdout=out)
    return out.getvalue()


# Pages


@pytest.mark.parametrize("by", ["day", "model", "engine", "organization"])
def test_revenue_cost_and_margin_stand_on_the_page(who, staff, by):
    answer = staff.get(REVENUE, {"brand": who.brand.slug, "by": by, "days": "7"})
    page = answer.content.decode()
    total = answer.context["total"]
    assert (total.line.revenue_nanos, total.cost_nanos, total.margin) == (10 * UNIT, 24 * CENT_AN_HOUR, "97.6")
    assert total.margin_nanos == 976 * UNIT // 100
    assert "<small>97.6 %</small>" in page
    assert page.count("<rect") == 14, "seven bars, each on its ground"
    labels = {"model": who.model.slug, "engine": "gpu", "organization": "=cmd|&#x27; /C calc&#x27;!A0"}
    assert labels.get(by, str(datetime.now(UTC).date() - timedelta(days=1))) in page


def test_engines_stand_with_what_they_did(who, staff):
    (row,) = staff.get(ENGINES, {"days": "7"}).context["rows"]
    assert (row.cost_nanos, row.margin_nanos, row.margin) == (24 * CENT_AN_HOUR, 976 * UNIT // 100, "97.6")
    assert row.found.quarters == 1
    assert "No engine." in staff.get(ENGINES, {"brand": cast.brand().slug}).content.decode()


def test_what_is_owed_stands_with_its_customers(who, staff, monkeypatch):
    given(cast.organization(who.brand), Grant.Kind.PAID, UNIT)
    context = staff.get(DEFERRED, {"brand": who.brand.slug}).context
    assert (context["paid_nanos"], context["customers"], context["unread"]) == (6 * UNIT, 2, 0)
    monkeypatch.setattr(views, "WALLETS_MAX", 1)
    monkeypatch.setattr(views, "SHOWN_MAX", 0)
    page = staff.get(DEFERRED, {"brand": who.brand.slug}).content.decode()
    assert "1 more were not read" in page
    assert "1 more: they are in the CSV file" in page


def test_more_lines_than_a_page_holds_are_counted(who, staff, monkeypatch):
    monkeypatch.setattr(views, "SHOWN_MAX", 0)
    answer = staff.get(REVENUE, {"brand": who.brand.slug})
    assert "1 more: they are in the CSV file and in the total" in answer.content.decode()
    assert answer.context["total"].line.revenue_nanos == 10 * UNIT


@pytest.mark.parametrize("page", [REVENUE, ENGINES, DEFERRED])
def test_reports_open_before_there_is_anything_and_with_nonsense(settings, staff, page):
    settings.DEFAULT_BRAND = cast.brand().slug
    assert staff.get(page).status_code == 200
    assert staff.get(page, {"days": "x", "by": "x", "brand": "x", "format": "x"}).status_code == 200


@pytest.mark.parametrize("page", [REVENUE, ENGINES, DEFERRED])
def test_only_who_may_see_postings_sees_reports(who, page):
    helper = cast.browser_of(cast.person("helper", is_staff=True))
    assert helper.get(page).status_code == 403
    assert "Reports" not in helper.get("/admin/").content.decode()
    assert cast.browser_of(cast.person()).get(page).status_code == 302
    assert cast.browser_of().get(page).status_code == 302


def test_the_index_leads_to_the_reports(who, staff):
    assert 'href="/admin/reports/"' in staff.get("/admin/").content.decode()


# Files and the command


def test_files_hold_the_same_numbers_and_no_formula(who, staff):
    query = {"brand": who.brand.slug, "days": "7"}
    (line,) = rows_of(staff.get(REVENUE, query | {"by": "organization", "format": "csv"}))
    assert line == {
        "organization": "'=cmd|' /C calc'!A0",
        "requests": "2",
        "input_tokens": "20",
        "output_tokens": "10",
        "list_nanos": str(10 * UNIT),
        "revenue_nanos": str(10 * UNIT),
        "cost_nanos": str(24 * CENT_AN_HOUR),
        "margin_nanos": str(976 * UNIT // 100),
        "margin_percent": "97.6",
        "currency": who.brand.currency,
    }
    answer = staff.get(REVENUE, query | {"format": "detail"})
    assert answer.streaming
    (detail,) = rows_of(answer)
    assert (detail["model"], detail["engine"], detail["organization"]) == (who.model.slug, "gpu", line["organization"])
    assert detail["revenue_nanos"] == line["revenue_nanos"]
    (owed,) = rows_of(staff.get(DEFERRED, query | {"format": "csv"}))
    assert (owed["organization"], owed["paid_nanos"]) == (line["organization"], str(5 * UNIT))
    (gpu,) = rows_of(staff.get(ENGINES, query | {"format": "csv"}))
    assert (gpu["engine"], gpu["margin_percent"], gpu["currency"]) == ("gpu", "97.6", who.brand.currency)


def test_the_command_says_the_same(who):
    revenue = reported("revenue", "--brand", who.brand.slug, "--days", "7", "--by", "model", "--format", "csv")
    assert [row["margin_nanos"] for row in rows_of(revenue)] == [str(976 * UNIT // 100)]
    (detail,) = rows_of(reported("revenue", "--brand", who.brand.slug, "--by", "all", "--format", "csv"))
    assert detail["organization"].startswith("'=")
    (owed,) = rows_of(reported("deferred", "--brand", who.brand.slug, "--format", "csv"))
    assert owed["paid_nanos"] == str(5 * UNIT)
    head, line = reported("engines", "--days", "7").splitlines()
    assert head.split()[0] == "engine"
    assert "10,000,000,000" in line
    with pytest.raises(CommandError, match="from 1 to 366"):
        reported("revenue", "--days", "0")
    with pytest.raises(CommandError, match="no brand 'nobody'"):
        reported("revenue", "--brand", "nobody")


@pytest.mark.parametrize(
    ("amount", "nanos"), [(Fraction(1, 2), 1), (Fraction(-1, 2), 0), (Fraction(5, 3), 2), (Fraction(-5, 3), -2), (7, 7)]
)
def test_fractions_are_rounded_to_the_nearest_nano(amount, nanos):
    assert money_reports.nearest(amount) == nanos


# What is read


@contextmanager
def tables_read():
    """The tables that the planner would touch for everything asked inside."""
    found: set[str] = set()
    with CaptureQueriesContext(connection) as asked:
        yield found
    statements = [query["sql"] for query in asked.captured_queries if query["sql"].lstrip().startswith("SELECT")]
    assert statements
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}")
            plan = cursor.fetchone()[0]
            found |= relations(plan if isinstance(plan, list) else json.loads(plan))


def relations(plan) -> set[str]:
    if isinstance(plan, list):
        return set().union(*map(relations, plan))
    if not isinstance(plan, dict):
        return set()
    own = {plan["Relation Name"]} if "Relation Name" in plan else set()
    return own.union(*map(relations, plan.values()))


def test_no_report_reads_a_single_call(who, staff):
    with tables_read() as seen:
        for by in money_reports.GROUPS:
            staff.get(REVENUE, {"brand": who.brand.slug, "by": by, "days": "90"})
        rows_of(staff.get(REVENUE, {"brand": who.brand.slug, "format": "detail"}))
        staff.get(ENGINES)
        staff.get(DEFERRED)
        reported("revenue", "--brand", who.brand.slug)
    assert {"billing_usageday", "billing_usagequarter", "billing_postingline"} <= seen
    assert not {name for name in seen if name.startswith("usage_event")}


def test_the_proof_sees_a_scan_of_calls():
    with tables_read() as seen, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_event")
    assert any(name.startswith("usage_event") for name in seen)


def test_a_file_of_days_reads_a_day_at_a_time(who, redis_connection):
    today = datetime.now(UTC).date()
    for back in range(2, 5):
        book(redis_connection, call(who, today - timedelta(days=back), 1))
    over = money_reports.period(who.brand, 30, datetime.now(UTC))
    rows = money_reports.detail(who.brand, over)
    assert next(rows)[0] == today - timedelta(days=4)
    book(redis_connection, call(who, today - timedelta(days=3), 8))
    assert next(rows)[8] == 9, "read when it was its turn"
