import re

import pytest
from django.utils import timezone

from billing import alerts, ladder, ledger
from billing.models import Tier
from keys import invitations, issuing
from keys.models import KeyUse, Role
from portal import onboarding
from tests import cast as casting

pytestmark = pytest.mark.django_db(transaction=True)


def steps(organization, role=Role.OWNER) -> dict[str, bool]:
    found = onboarding.checklist(organization, role)
    assert found is not None
    return {step.label: step.done for step in found.steps}


def test_every_step_ticks_itself_and_then_the_list_is_gone(cast):
    organization = casting.organization(cast.brand, name="Fresh")
    casting.join(cast.owner, organization, Role.OWNER)
    browser, path = casting.browser_of(cast.owner), f"/{organization.public_id}/first-steps/"
    assert list(steps(organization).values()) == [True, False, False, False, False]
    assert "First steps" in browser.get(f"/{organization.public_id}/").content.decode()
    tag = browser.get(path)["ETag"]
    assert browser.get(path, headers={"If-None-Match": tag}).status_code == 304

    key = issuing.issue(organization=organization, name="server", actor=cast.owner).key
    assert steps(organization)["Create an API key"]
    assert browser.get(path, headers={"If-None-Match": tag}).status_code == 200
    KeyUse.objects.create(key=key, last_used_at=timezone.now())
    assert steps(organization)["Make a first call"]
    ledger.grant(organization=organization, amount_nanos=5, kind="paid", reason="x", reference="x", actor="t")
    assert steps(organization)["Add credit"]
    invitations.invite(organization=organization, email="a@example.com", role=Role.VIEWER, actor=cast.owner)
    assert all(steps(organization).values())
    assert "All done" in browser.get(path).content.decode()
    assert "First steps" not in browser.get(f"/{organization.public_id}/").content.decode()


def test_credit_that_was_given_is_credit_and_every_open_step_leads_on(cast):
    organization = casting.organization(cast.brand, name="Fresh")
    casting.join(cast.owner, organization, Role.OWNER)
    page = casting.browser_of(cast.owner).get(f"/{organization.public_id}/first-steps/").content.decode()
    for place in ("keys/new", "requests", "balance/add", "members"):
        assert f'href="/{organization.public_id}/{place}/"' in page, place
    ledger.grant(organization=organization, amount_nanos=5, kind="promotional", reason="x", reference="y", actor="t")
    assert steps(organization)["Add credit"]


def test_where_the_plan_pays_limits_are_what_to_look_at(cast):
    tier = Tier(brand=cast.brand, rank=1, slug="free", name="Free", payer="included", is_default=True)
    tier = ladder.save_tier(tier, actor="test")
    ladder.assign(organization=cast.organization, tier=tier, reason="sign-up", actor="test")
    label = "Choose when to be told about your limits"
    assert steps(cast.organization)[label] is False
    alerts.choose(organization=cast.organization, actor=cast.owner, percents=[80], limits=[])
    assert steps(cast.organization)[label]


def test_roles_see_the_steps_they_can_take_and_put_them_away_for_themselves(cast):
    assert len(steps(cast.organization, Role.DEVELOPER)) == 3
    assert onboarding.checklist(cast.organization, Role.VIEWER) is None
    overview, path = f"/{cast.organization.public_id}/", f"/{cast.organization.public_id}/first-steps/"
    assert "First steps" not in casting.browser_of(cast.viewer).get(overview).content.decode()
    assert casting.browser_of(cast.viewer).get(path).content == b""
    developer = casting.browser_of(cast.member)
    assert developer.post(path)["Location"] == overview
    developer.post(path)
    assert "First steps" not in developer.get(overview).content.decode()
    assert "First steps" in casting.browser_of(cast.owner).get(overview).content.decode()


def test_the_page_with_a_new_key_shows_what_comes_next(cast):
    browser = casting.browser_of(cast.member)
    form = browser.get(f"/{cast.organization.public_id}/keys/new/").content.decode()
    token = re.search(r'name="form_token" value="([^"]+)"', form)
    assert token is not None
    sent = {"name": "laptop", "scopes": ["chat"], "form_token": token[1]}
    page = browser.post(f"/{cast.organization.public_id}/keys/new/", sent).content.decode()
    assert "Make a first call" in page
