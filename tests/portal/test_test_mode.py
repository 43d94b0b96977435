"""What people and programs see of test keys and their calls: apart from everything that counts."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing import call_ids
from keys import issuing
from keys.models import ApiKey, AuditEvent, Role
from proxy.models import RefusalRecord
from tests import cast as casting
from tests.portal.managing import furnish, program
from tests.portal.test_keys_page import new_key, secret_on
from tests.portal.tested import called

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(cast) -> ApiKey:
    return issuing.issue(organization=cast.organization, name="ci", actor=cast.owner, mode=ApiKey.Mode.TEST).key


def refused(key: ApiKey) -> RefusalRecord:
    return RefusalRecord.objects.create(
        call_id=UUID(call_ids.mint(int(time.time() * 1000), os.urandom(10))),
        at=datetime.now(UTC),
        organization_id=key.organization_id,
        brand_id=key.organization.brand_id,
        key_id=key.pk,
        key_hint=key.hint,
        status=429,
        reason="rate_limited",
        model="m-9",
    )


def page_of(cast, path: str, user=None) -> str:
    return casting.browser_of(user or cast.owner).get(f"/{cast.organization.public_id}/{path}").content.decode()


def test_a_test_key_is_made_in_the_dashboard_and_says_so(cast):
    owner = casting.browser_of(cast.owner)
    page = new_key(owner, cast, mode="test")
    assert secret_on(page).startswith("ak-test_")
    key = ApiKey.objects.get()
    assert (key.mode, key.hint[:9]) == ("test", "ak-test_…")
    assert AuditEvent.objects.get(action="key.issued").after["mode"] == "test"
    assert '<span class="tag">test</span>' in page_of(cast, "keys/")
    limited = new_key(owner, cast, mode="test", requests_per_minute="5")
    assert limited.status_code == 200
    assert "the one limit that all of them have" in limited.content.decode()


def test_its_calls_are_listed_apart(cast, key):
    call, refusal = called(key), refused(key)
    apart = page_of(cast, "requests/?show=test")
    for shown in (call, refusal):
        assert str(shown.call_id) in apart
        for query in ("", "?show=served", "?show=refused"):
            assert str(shown.call_id) not in page_of(cast, f"requests/{query}")
    told = page_of(cast, f"requests/?id={call.call_id}")
    assert "1,234" in told
    assert "it costs nothing" in told
    assert "1 test call</a> of the past week" in page_of(cast, "usage/")
    assert "1 this week" in page_of(cast, "keys/")
    stranger = casting.browser_of(cast.stranger)
    assert stranger.get(f"/{cast.elsewhere.public_id}/requests/?id={call.call_id}").status_code == 404
    staff = casting.browser_of(casting.person("staff", is_staff=True, is_superuser=True))
    assert "it costs nothing" in staff.get("/admin/support/", {"id": str(call.call_id)}).content.decode()


def test_programs_make_and_read_them(cast, key, redis_connection):
    furnish(cast, redis_connection)
    asks = program(cast.organization, Role.DEVELOPER)
    made = asks.post("/keys", {"name": "tests", "mode": "test"}).json()
    assert made["secret"].startswith("ak-test_")
    assert made["mode"] == "test"
    assert asks.post("/keys", {"name": "live"}).json()["mode"] == "live"
    limits = {"limits": [{"unit": "requests", "window": "day", "amount": 5}]}
    for answer in (
        asks.post("/keys", {"name": "x", "mode": "test"} | limits),
        asks("patch", f"/keys/{made['id']}", limits),
    ):
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/limits")
    call, refusal = called(key), refused(key)
    listed = asks.get("/requests?show=test").json()["data"]
    assert [(row["id"], row["mode"]) for row in listed] == [(str(refusal.call_id), "test"), (str(call.call_id), "test")]
    assert listed[1]["call"]["cost_nanos"] == 0
    assert str(call.call_id) not in [row["id"] for row in asks.get("/requests").json()["data"]]
    assert asks.get(f"/requests/{call.call_id}").json()["explanation"] is None
