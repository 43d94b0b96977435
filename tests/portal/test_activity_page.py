import ast
import csv
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone

from keys import audit, issuing, organizations
from keys.models import AuditEvent, Role
from portal import playground, trail
from tests import cast as casting

OPERATOR = "operator@gateway.example"


@pytest.fixture
def trodden(cast):
    """The owner made a key from an address and renamed the account; staff suspended it; a command resumed it."""
    staff = casting.person(email=OPERATOR, is_staff=True)
    issuing.issue(organization=cast.organization, name="=cmd()", actor=cast.owner, address="203.0.113.7")
    organizations.change(organization=cast.organization, actor=cast.owner, name="Acme Two")
    organizations.suspend(organization=cast.organization, reason="unpaid", actor=staff, address="192.0.2.1")
    organizations.resume(organization=cast.organization, actor="manage.py resume")
    organizations.change(organization=cast.elsewhere, actor=cast.stranger, name="Not yours")
    return cast


def get(cast, person=None, **query):
    return casting.browser_of(person or cast.owner).get(reverse("activity", args=[cast.organization.public_id]), query)


def actions(answer) -> list[str]:
    return [line.action for line in answer.context["lines"]]


def test_it_says_who_changed_what_from_where(trodden):
    answer = get(trodden)
    assert actions(answer) == [
        "organization.resumed",
        "organization.suspended",
        "organization.changed",
        "key.issued",
    ]
    text = answer.content.decode()
    for part in (trodden.owner.email, "Created a key", "203.0.113.7", "<s>Acme</s> Acme Two"):
        assert part in text


def test_operators_and_other_accounts_stay_unnamed(trodden):
    text = get(trodden).content.decode()
    for hidden in (OPERATOR, "192.0.2.1", "manage.py", "Not yours"):
        assert hidden not in text
    assert [line.who for line in get(trodden).context["lines"]][:2] == ["Dialogix", "Dialogix"]
    assert actions(get(trodden, who="operator")) == [], "nor can they be found"


def test_filters(trodden):
    today, tomorrow = timezone.now().date(), timezone.now().date() + timedelta(days=1)
    assert actions(get(trodden, about="key")) == ["key.issued"]
    assert len(actions(get(trodden, who=trodden.owner.email[:5]))) == 2
    assert actions(get(trodden, who="nobody")) == []
    assert len(actions(get(trodden, since=today, until=today))) == 4
    assert actions(get(trodden, since=tomorrow)) == []
    assert len(actions(get(trodden, about="nonsense", since="yesterday"))) == 4


@pytest.mark.parametrize(("hour", "day"), [(2, 14), (8, 15)])
def test_days_are_the_brands(cast, hour, day):
    """In New York a day begins at five in the morning of UTC."""
    cast.brand.timezone = "America/New_York"
    cast.brand.save()
    at = datetime(2026, 1, 15, hour, tzinfo=UTC)
    AuditEvent.objects.create(at=at, organization=cast.organization, action="key.changed", subject="key_x")
    on = {number: actions(get(cast, since=f"2026-01-{number}", until=f"2026-01-{number}")) for number in (14, 15)}
    assert on == {number: ["key.changed"] if number == day else [] for number in (14, 15)}


def test_the_file_has_every_line_and_no_formula(trodden, monkeypatch):
    monkeypatch.setattr(trail, "PAGE", 2)
    answer = get(trodden, format="csv")
    rows = list(csv.reader(io.StringIO(answer.getvalue().decode())))
    assert rows[0] == ["at", "who", "action", "subject", "changes", "address"]
    assert [row[2] for row in rows[1:]] == actions(get(trodden))
    assert not any(cell.startswith("=") for row in rows for cell in row)


def test_only_owners_and_admins_see_it(trodden):
    assert get(trodden, trodden.member).status_code == 403
    page = casting.browser_of(trodden.member).get(reverse("overview", args=[trodden.organization.public_id]))
    assert "/activity/" not in page.content.decode()
    casting.join(trodden.stranger, trodden.organization, Role.ADMIN)
    assert get(trodden, trodden.stranger).status_code == 200


def test_only_what_has_words_is_shown_and_only_its_fields(cast):
    ours, staff = cast.organization, casting.person(is_staff=True)
    for action in ("price.set", "unheard.of"):
        after = {"input_picos": 5, "slips": ["far too low"], "confirmed": "the boss said so"}
        moments = {"effective_from": "2026-11-21T09:00:00+00:00"}
        audit.note(action, "m-1", actor=staff, organization=ours, after=after | moments)
    answer = get(cast)
    assert actions(answer) == ["price.set"]
    text = answer.content.decode()
    assert "Set a price of this account" in text
    assert '<time datetime="2026-11-21T09:00:00+00:00"' in text
    for hidden in ("slips", "too low", "boss", "picos", "unheard"):
        assert hidden not in text
        assert hidden not in get(cast, format="csv").getvalue().decode()
    assert actions(get(cast, about="price")) == ["price.set"]


def test_a_key_is_named_and_visits_to_the_playground_are_apart(cast):
    key = issuing.issue(organization=cast.organization, name="nightly", actor=cast.owner).key
    playground.open_key(cast.organization, cast.owner, address=None)
    issuing.revoke(key=key, actor=cast.owner)
    answer = get(cast)
    assert actions(answer) == ["key.revoked", "key.issued"]
    assert f"nightly ({key.hint})" in answer.content.decode()
    assert key.public_id not in answer.content.decode()
    assert actions(get(cast, about="playground")) == ["key.issued"]


def test_limits_of_a_key_are_told_in_words(cast):
    tokens: dict[str, int | str] = {"unit": "tokens", "window": "day", "amount": 1_000}
    budget = {"unit": "nanos", "window": "month", "amount": 5 * 10**9}
    key = issuing.issue(organization=cast.organization, name="x", actor=cast.owner, limits=[tokens]).key
    issuing.change(key=key, actor=cast.owner, limits=[tokens, budget])
    text = casting.text_of(get(cast))
    assert "limits: 1,000 tokens per day" in text
    assert "1,000 tokens per day, $5.00 per month" in text


NOTED = re.compile(r"[a-z_]+\.[a-z_]+")
NO_ACTIONS = {"balance.exhausted", "balance.low", "key.concurrent", "webhook.test"}
"""Names of events and limits, in modules that note actions."""


def test_every_action_that_is_noted_has_words_or_is_for_staff():
    root, found = Path(trail.__file__).parents[1], set()
    for path in (path for room in ("keys", "billing", "portal") for path in (root / room).rglob("*.py")):
        text = path.read_text()
        if "audit.note(" in text:
            said = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            found |= {value for value in said if isinstance(value, str) and NOTED.fullmatch(value)}
    assert len(found) > 50
    found -= NO_ACTIONS
    assert {name for name in found if name.partition(".")[0] not in trail.FOR_STAFF} - set(trail.ACTIONS) == set()
    assert set(trail.ACTIONS) <= found
    abouts = {name.partition(".")[0] for name in trail.ACTIONS}
    assert abouts == set(trail.SUBJECTS) - {trail.PLAYGROUND}


def test_settings_rename_the_account(cast):
    where = reverse("settings", args=[cast.organization.public_id])
    assert casting.browser_of(cast.owner).post(where, {"name": "Acme & Sons"}).status_code == 302
    cast.organization.refresh_from_db()
    assert cast.organization.name == "Acme & Sons"
    assert casting.browser_of(cast.owner).post(where, {"name": " "}).status_code == 400
    assert casting.browser_of(cast.viewer).post(where, {"name": "Mine"}).status_code == 403
    assert "Acme &amp; Sons" in casting.browser_of(cast.viewer).get(where).content.decode()


def test_the_switcher_is_there_for_who_has_several(cast):
    overview = reverse("overview", args=[cast.organization.public_id])
    assert "switcher" not in casting.browser_of(cast.owner).get(overview).content.decode()
    casting.join(cast.owner, cast.elsewhere, Role.VIEWER)
    page = casting.browser_of(cast.owner).get(overview).content.decode()
    assert reverse("overview", args=[cast.elsewhere.public_id]) in page
