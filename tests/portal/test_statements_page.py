import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing import ledger
from keys.models import Role
from portal.views import statements
from tests import cast as casting


@pytest.fixture
def moved(cast):
    ledger.grant(
        organization=cast.organization,
        amount_nanos=5 * 10**9,
        kind="promotional",
        reason="=Launch()",
        reference="gift",
        actor="operator",
    )
    for number in range(3):
        ledger.post(
            ledger.Entry(
                brand_id=cast.brand.pk,
                organization_id=cast.organization.pk,
                kind="usage",
                reference=f"batch-{number}",
                lines=ledger.charge_lines(cast.organization.pk, 1_000_000_001),
            )
        )
    return datetime.now(UTC).strftime("%Y-%m")


def get(cast, user=None, **query):
    return casting.browser_of(user or cast.owner).get(f"/{cast.organization.public_id}/balance/statements/", query)


def test_months_are_listed_and_a_month_adds_up(cast, moved):
    assert f'href="?month={moved}"' in get(cast).content.decode()
    page = get(cast, month=moved).content.decode()
    assert "=Launch()" in page
    assert "3 postings, summed" in page
    assert "-$3.000000003" in page
    assert "$1.999999997" in page
    assert page.index("Opening balance") < page.index("Launch") < page.index("3 postings, summed")


def test_the_file_says_the_same_and_runs_no_formula(cast, moved):
    answer = get(cast, month=moved, format="csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [row["what"] for row in rows] == ["opening balance", "grant", "usage", "closing balance"]
    assert rows[1]["note"] == "'=Launch()"
    assert [row["amount"] for row in rows] == ["", "5.00", "-3.000000003", ""]
    moves = sum(Decimal(row["amount"]) for row in rows if row["amount"])
    assert Decimal(rows[0]["balance"]) + moves == Decimal(rows[-1]["balance"]) == Decimal("1.999999997")


def test_lines_beyond_what_is_shown_are_counted(cast, moved, monkeypatch):
    monkeypatch.setattr(statements, "LINES_SHOWN", 1)
    page = get(cast, month=moved).content.decode()
    assert "1 more line, counted above, is in the" in page
    assert "$1.999999997" in page


def test_a_role_of_billing_sees_them_and_a_developer_does_not(cast, moved):
    bookkeeper = casting.person("bookkeeper")
    casting.join(bookkeeper, cast.organization, Role.BILLING)
    assert get(cast, bookkeeper, month=moved).status_code == 200
    assert get(cast, cast.member, month=moved).status_code == 403
    assert get(cast, cast.stranger, month=moved).status_code == 404
    link = f"/{cast.organization.public_id}/balance/statements/"
    for user, is_linked in ((bookkeeper, True), (cast.viewer, False)):
        page = casting.browser_of(user).get(f"/{cast.organization.public_id}/balance/").content.decode()
        assert (link in page) is is_linked


@pytest.mark.parametrize("month", ["", "2026-13", "1999-01", "2999-01", "x", "2026-1"])
def test_other_months_are_not_there(cast, moved, month):
    assert get(cast, month=month).status_code == 404


def test_before_the_first_posting_the_list_says_so(cast):
    assert "No statements yet" in get(cast).content.decode()
