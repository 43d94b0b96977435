import pytest

from keys import brands
from keys.models import AuditEvent
from portal.models import TermsAcceptance
from tests import cast as casting

pytestmark = pytest.mark.django_db(transaction=True)


def test_new_terms_stand_before_an_account_until_they_are_accepted(cast):
    browser, page = casting.browser_of(cast.owner), f"/{cast.organization.public_id}/usage/?days=7"
    assert browser.get(page).status_code == 200
    for version in ("2026-11", "2027-01"):
        brands.change(brand=cast.brand, actor="test", terms_version=version, terms_url="https://dialogix.example/terms")
        asked = browser.get(page)["Location"]
        assert asked.startswith("/accounts/terms/?next=")
        assert "<strong>" + version in browser.get(asked).content.decode()
        wrong = browser.post(asked, {"version": "another", "next": page})
        assert "changed while you read" in wrong.content.decode()
        assert browser.post(asked, {"version": version, "next": page})["Location"] == page
        browser.post(asked, {"version": version})
        assert browser.get(page).status_code == 200
    kept = TermsAcceptance.objects.filter(user=cast.owner, brand=cast.brand).order_by("pk")
    assert [(row.version, row.address) for row in kept] == [("2026-11", "127.0.0.1"), ("2027-01", "127.0.0.1")]
    assert AuditEvent.objects.filter(action="terms.accepted", actor=cast.owner, brand=cast.brand).count() == 2
    assert casting.browser_of(cast.member).get(page).status_code == 302


def test_terms_open_nothing_and_lead_nowhere_else(client, cast):
    brands.change(brand=cast.brand, actor="test", terms_version="1")
    assert client.get("/accounts/terms/")["Location"].startswith("/accounts/login/")
    assert casting.browser_of(cast.stranger).get(f"/{cast.organization.public_id}/").status_code == 404
    browser = casting.browser_of(cast.owner)
    sent = browser.post("/accounts/terms/", {"version": "1", "next": "https://evil.example/"})
    assert sent["Location"] == "/"
