"""Calls as operators find them, and entries that could not be booked."""

from __future__ import annotations

import pytest

from billing.models import (
    DeadLetter,
    UsageEvent,
)
from tests.billing.admin.forms import act

pytestmark = pytest.mark.django_db


def test_calls_are_found_by_their_id_and_by_customer(browser, who):
    event = UsageEvent.objects.get()
    for term, found in (
        (str(event.call_id), True),
        (who.organization.public_id, True),
        ("01890000-0000-7000-8000-000000000000", False),
        ("org_nobody", False),
    ):
        page = browser.get(f"/admin/billing/usageevent/?q={term}")
        assert (str(event.call_id) in page.content.decode()) == found
    page = browser.get(f"/admin/billing/usageevent/{event.pk}/change/").content.decode()
    for text in (who.organization.name, who.key.hint, who.model.slug, "$0.000000007", "curl/8"):
        assert text in page


def test_a_dead_letter_is_booked_from_its_page(browser, monkeypatch):
    letter = DeadLetter.objects.get()
    said = act(browser, "deadletter", "retry", letter)
    assert len(said) == 1, "of what was not booked nothing else is said"
    assert "stays" in said[0]
    retried: list[int] = []
    monkeypatch.setattr("billing.dead_letters.retry", retried.append)
    assert act(browser, "deadletter", "retry", letter) == ["Booked: 1."]
    assert retried == [letter.pk]
