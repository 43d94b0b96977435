"""The management API: who may what, lists, repetition, and that it does what the dashboard does."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.urls import URLPattern
from django.utils import timezone

from keys import access, issuing
from keys.models import ApiKey, AuditEvent, KeyUse, Membership, Role
from portal.manage_api import idempotency, throttling
from portal.manage_api.urls import operations
from portal.models import KeptAnswer
from tests.portal.managing import PREFIX, Stage, furnish, program

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stage(cast, redis_connection) -> Stage:
    return furnish(cast, redis_connection)


def code_of(answer) -> tuple[int, str]:
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    return answer.status_code, body["code"]


def view_of(pattern: URLPattern) -> Any:
    view: Any = pattern.callback
    return view.view_class


def methods_of(pattern: URLPattern) -> list[str]:
    return [name for name in ("get", "post", "put", "patch", "delete") if hasattr(view_of(pattern), name)]


def address_of(pattern: URLPattern, stage: Stage) -> str:
    path = str(pattern.pattern)
    for name, converter in pattern.pattern.converters.items():
        kind = {"StringConverter": "str", "SlugConverter": "slug", "UUIDConverter": "uuid"}[type(converter).__name__]
        path = path.replace(f"<{kind}:{name}>", stage.addresses[name])
    return f"/{path}"


def test_a_stranger_finds_nothing_of_the_account_at_any_address(stage):
    """Every address that names something, by every method it has: as if it were not there."""
    stranger, checked = program(stage.cast.elsewhere), 0
    before = state_of(stage)
    for pattern in operations:
        if not pattern.pattern.converters or "month" in pattern.pattern.converters:
            continue
        for method in methods_of(pattern):
            path = address_of(pattern, stage)
            answer = stranger(method, path, BODIES.get(path.split("/")[1] + " " + method, {}))
            assert code_of(answer) == (404, "not_found"), (method, path)
            checked += 1
    assert checked >= 18
    assert state_of(stage) == before


BODIES = {"members patch": {"role": "viewer"}, "service_accounts patch": {"role": "viewer"}}


def state_of(stage: Stage) -> tuple[object, ...]:
    organization = stage.cast.organization
    keys = [(key.pk, key.revoked_at, key.version) for key in organization.keys.order_by("pk")]
    members = sorted(organization.memberships.values_list("user_id", "role"))
    return (
        keys,
        members,
        organization.webhook_endpoints.count(),
        AuditEvent.objects.filter(organization=organization).count(),
    )


def test_nobody_gets_in_without_a_management_key_that_is_good(stage):
    inference = issuing.issue(organization=stage.cast.organization, name="server", actor="tests").secret
    mine = program(stage.cast.organization)
    for pattern in operations:
        path, method = address_of(pattern, stage), methods_of(pattern)[0]
        answer = type(mine)("")(method, path, Authorization="")
        assert code_of(answer)[0] == 401, path
        assert answer["WWW-Authenticate"] == "Bearer"
        assert code_of(type(mine)(inference)(method, path)) == (403, "not_a_management_key")
    assert code_of(type(mine)(mine.secret + "x").get("/account")) == (401, "invalid_key")
    assert code_of(mine("get", "/account", X_API_Key=mine.secret, Authorization="")) == (401, "malformed_authorization")
    issuing.revoke(key=stage.cast.organization.keys.get(name="terraform"), actor="tests")
    assert code_of(mine.get("/account")) == (401, "key_revoked")


def test_a_key_may_what_its_role_may(stage):
    """The same table as for members: every operation, by every role."""
    rank = {role: program(stage.cast.organization, role) for role in (Role.DEVELOPER, Role.BILLING, Role.VIEWER)}
    seen = set()
    for pattern in operations:
        for method in methods_of(pattern):
            handler = getattr(view_of(pattern), method)
            for role, asks in rank.items():
                if method == "get":
                    answer = asks(method, address_of(pattern, stage))
                    allowed = access.may(role, handler.needs)
                    assert (answer.status_code != 403) == allowed, (method, address_of(pattern, stage), role)
                elif not access.may(role, handler.needs):
                    answer = asks(method, address_of(pattern, stage), {})
                    assert code_of(answer) == (403, "not_allowed")
                    seen.add(role)
    assert seen == set(rank)


def test_an_admin_key_makes_no_owner(stage):
    admin, owner = (program(stage.cast.organization, role) for role in (Role.ADMIN, Role.OWNER))
    member = f"/members/{stage.cast.member.email}"
    assert code_of(admin("patch", member, {"role": "owner"})) == (403, "not_allowed")
    assert code_of(admin("delete", f"/members/{stage.cast.owner.email}")) == (403, "not_allowed")
    assert code_of(admin.post("/invitations", {"email": "x@example.com", "role": "owner"})) == (403, "not_allowed")
    assert code_of(owner("delete", f"/members/{stage.cast.owner.email}")) == (409, "last_owner")
    assert owner("patch", member, {"role": "owner"}).json()["role"] == "owner"


PASSED = {"pointer": "/expires_at", "detail": "This moment has passed."}


def test_a_key_is_made_changed_rotated_and_revoked(stage):
    asks = program(stage.cast.organization, Role.DEVELOPER)
    wish: dict[str, Any] = {"name": "ci", "scopes": ["chat"], "models": ["m-1"], "networks": ["192.0.2.0/24"]}
    wish |= {"limits": [{"unit": "nanos", "window": "month", "amount": 5}], "expires_at": "2030-01-01T00:00:00Z"}
    made = asks.post("/keys", wish)
    assert made.status_code == 201
    row = issuing.existing(made.json()["secret"])
    assert row is not None
    assert {name: made.json()[name] for name in wish} == wish
    assert (row.name, row.scopes, row.model_slugs, row.created_by) == ("ci", ["chat"], ["m-1"], None)
    path = f"/keys/{row.public_id}"
    assert asks("patch", path, {"name": "ci 2", "models": None}).json()["models"] is None
    past = asks("patch", path, {"expires_at": "2020-02-20T00:00:00Z"})
    assert (past.status_code, past.json()["errors"]) == (422, [PASSED])
    assert "secret" not in asks.get(path).json()
    rotated = asks.post(f"{path}/rotate", {"overlap_hours": 1}).json()
    assert (rotated["rotated_from"], rotated["name"]) == (row.public_id, "ci 2")
    assert asks.post(f"{path}/revoke").json()["state"] == "revoked"
    assert code_of(asks.post(f"{path}/rotate")) == (409, "key_not_live")
    foreign = issuing.issue(organization=stage.cast.elsewhere, name="x", actor="tests").key.public_id
    assert code_of(asks.post("/keys/revoke", {"ids": [rotated["id"], foreign]}))[0] == 404
    assert asks.get(f"/keys/{rotated['id']}").json()["state"] == "live"
    assert asks.post("/keys/revoke", {"ids": [rotated["id"]]}).json()["data"][0]["state"] == "revoked"
    who = AuditEvent.objects.filter(action="key.revoked").last()
    assert who is not None
    assert who.actor_name.startswith("terraform (")


def test_a_key_of_the_playground_is_only_ended(stage):
    """No list shows it, so it is neither prolonged nor rotated."""
    minutes: dict[str, Any] = {
        "purpose": ApiKey.Purpose.PLAYGROUND,
        "expires_at": timezone.now() + timedelta(minutes=15),
    }
    visit = issuing.issue(organization=stage.cast.organization, name="x", actor=stage.cast.owner, **minutes)
    asks, path = program(stage.cast.organization), f"/keys/{visit.key.public_id}"
    assert code_of(asks("patch", path, {"expires_at": None})) == (422, "refused")
    assert code_of(asks.post(f"{path}/rotate")) == (422, "refused")
    assert asks.post(f"{path}/revoke").json()["state"] == "revoked"


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"scopes": ["chat"]}, 400, "/name"),
    ({"name": 7}, 400, "/name"),
    ({"name": "x", "nmae": "x"}, 400, "/nmae"),
    ({"name": "x", "limits": [{"unit": "tokens", "window": "day", "amount": "5"}]}, 400, "/limits/0/amount"),
    ({"name": "x", "models": ["no-such"]}, 422, "/models"),
    ({"name": "x", "networks": ["nowhere"]}, 422, "/networks"),
    ({"name": "x\0"}, 422, "/name"),
    ({"name": "x", "expires_at": "2030-02-30T00:00:00Z"}, 422, "/expires_at"),
    ({"name": "x", "limits": [{"unit": "tokens", "window": "day", "amount": 5}] * 2}, 422, "/limits"),
    ({"name": "x", "expires_at": "2020-02-20T00:00:00Z"}, 422, "/expires_at"),
    ({"name": "a\u202eb"}, 422, "/name"),
]


@pytest.mark.parametrize(("wish", "status", "pointer"), WRONG)
def test_what_is_wrong_is_named(stage, wish, status, pointer):
    answer = program(stage.cast.organization).post("/keys", wish)
    assert answer.status_code == status
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert ("does not match the schema" in answer.json()["detail"]) == (status == 400)
    assert stage.cast.organization.keys.filter(manages_as="").count() == 1


def test_what_only_resembles_a_question_is_refused(stage):
    asks = program(stage.cast.organization)
    wrong = [
        "keys?limit=1_0",
        "keys?limit=١",
        "keys?limit=%2B1",
        "activity?since=9999-12-31",
        "activity?until=1970-06-01",
    ]
    assert [asks.get(f"/{path}").status_code for path in wrong] == [400] * 3 + [422] * 2
    assert asks.get("/activity?since=8999-12-31").json()["data"] == []


def test_a_revoked_key_stays_as_it_was(stage):
    asks = program(stage.cast.organization)
    made = asks.post("/keys", {"name": "x"}).json()
    asks.post(f"/keys/{made['id']}/revoke", {})
    assert code_of(asks("PATCH", f"/keys/{made['id']}", {"name": "y"})) == (409, "key_not_live")


def test_every_error_is_problem_details(stage, monkeypatch):
    asks = program(stage.cast.organization)
    assert code_of(asks.get("/nothing-here")) == (404, "not_found")
    answer = asks("delete", "/account")
    assert code_of(answer) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, PATCH"
    assert code_of(asks.post("/keys", "no object")) == (400, "invalid_request")
    assert code_of(asks("post", "/keys", {"name": "x"}, Content_Type="text/plain")) == (415, "unsupported_media_type")
    assert code_of(asks.get("/keys?limit=0")) == (400, "invalid_request")
    assert code_of(asks.get("/keys?colour=red")) == (400, "invalid_request")
    assert code_of(asks.get("/keys?limit=1&limit=2")) == (400, "invalid_request")
    assert code_of(asks.get("/usage?since=2026-01-02&until=2026-01-01")) == (422, "refused")
    assert code_of(asks.post("/wallet/codes", {"code": "NO-SUCH"})) == (422, "code_not_valid")
    assert code_of(asks.post("/top_ups", {"amount_nanos": 10**10})) == (409, "payments_not_set_up")
    monkeypatch.setattr("portal.manage_api.account.account", lambda _organization: 1 / 0)
    assert code_of(asks.get("/account")) == (500, "internal")


def test_a_list_is_read_to_its_end_while_keys_are_added(stage):
    organization = stage.cast.organization
    for number in range(7):
        issuing.issue(organization=organization, name=f"key {number}", actor="tests")
    asks, seen, cursor = program(organization), [], ""
    for page in range(10):
        answer = asks.get(f"/keys?limit=3{cursor}").json()
        seen += [row["name"] for row in answer["data"]]
        issuing.issue(organization=organization, name=f"late {page}", actor="tests")
        if answer["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['next_cursor']}"
    assert seen == [f"key {number}" for number in range(6, -1, -1)] + ["server"]
    assert code_of(asks.get(f"/members?limit=3{cursor}")) == (422, "invalid_cursor")
    assert code_of(program(stage.cast.elsewhere).get(f"/keys?limit=3{cursor}")) == (422, "invalid_cursor")


def test_a_post_with_a_name_is_done_once(stage):
    asks, organization = program(stage.cast.organization), stage.cast.organization
    first = asks.post("/keys", {"name": "ci"}, Idempotency_Key="once")
    again = asks.post("/keys", {"name": "ci"}, Idempotency_Key="once")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again["Idempotent-Replay"] == "true"
    assert first.json()["secret"] not in KeptAnswer.objects.get().sealed
    assert code_of(asks.post("/keys", {"name": "cd"}, Idempotency_Key="once")) == (422, "idempotency_key_reused")
    assert code_of(asks.post("/keys", {"name": "ci"}, Idempotency_Key="a b")) == (400, "invalid_request")
    assert organization.keys.filter(name="ci").count() == 1
    assert code_of(asks.post("/keys", {}, Idempotency_Key="wrong"))[0] == 400
    assert asks.post("/keys", {"name": "right now"}, Idempotency_Key="wrong").status_code == 201
    row = KeptAnswer.objects.order_by("pk").first()
    assert row is not None
    KeptAnswer.objects.filter(pk=row.pk).update(status=None, at=timezone.now() - timedelta(minutes=2))
    assert code_of(asks.post("/keys", {"name": "ci"}, Idempotency_Key="once")) == (409, "idempotent_outcome_unknown")
    KeptAnswer.objects.filter(pk=row.pk).update(at=timezone.now() - timedelta(days=2))
    assert asks.post("/keys", {"name": "cd"}, Idempotency_Key="once").status_code == 201
    KeptAnswer.objects.update(at=timezone.now() - timedelta(days=2))
    assert idempotency.forget(timezone.now()) == 2


def test_of_several_at_once_with_one_name_one_is_done(stage):
    asks, barrier, answers = program(stage.cast.organization), Barrier(4), []

    def post() -> None:
        barrier.wait()
        answers.append(asks.post("/keys", {"name": "ci"}, Idempotency_Key="once").status_code)
        connection.close()

    threads = [Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stage.cast.organization.keys.filter(name="ci").count() == 1
    assert set(answers) <= {201, 409}


def test_too_many_requests_are_put_off(stage, monkeypatch):
    asks = program(stage.cast.organization)
    monkeypatch.setitem(throttling.RATES, "", "3/d")
    answers = [asks.get("/account") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert code_of(answers[-1]) == (429, "rate_limited")
    assert 0 < int(answers[-1]["Retry-After"]) <= 86_400
    monkeypatch.setattr(throttling, "REFUSED", "2/d")
    wrong = [type(asks)("ak-wrong").get("/account").status_code for _ in range(3)]
    assert wrong == [401, 401, 429]


def test_an_invitation_is_mailed_sent_again_and_taken_back(stage):
    asks = program(stage.cast.organization, Role.ADMIN)
    assert asks.post("/invitations", {"email": "eve@example.com", "role": "billing"}).status_code == 201
    assert asks.post("/invitations/eve@example.com/resend").status_code == 200
    assert [message.to for message in mail.outbox] == [["eve@example.com"]] * 2
    assert "/invitations/" in mail.outbox[0].body
    assert "/api/manage" not in mail.outbox[0].body
    assert asks("delete", "/invitations/eve@example.com").status_code == 204
    assert code_of(asks("delete", "/invitations/eve@example.com")) == (404, "not_found")
    answer = asks.post("/invitations", {"email": "not an address", "role": "viewer"})
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/email"]


def test_money_usage_and_a_charge_are_told_exactly(stage):
    asks = program(stage.cast.organization)
    wallet = asks.get("/wallet").json()
    assert (wallet["posted_nanos"], wallet["credits"][0]["left_nanos"]) == (10**12 - 7, 10**12 - 7)
    assert [row["amount_nanos"] for row in asks.get("/wallet/postings").json()["data"]] == [-7, 10**12]
    statement = asks.get("/wallet/statements").json()["data"][0]
    lines = asks.get(f"/wallet/statements/{statement['month']}/lines").json()["data"]
    assert statement["opening_nanos"] + sum(line["amount_nanos"] for line in lines) == statement["closing_nanos"]
    for interval in ("day", "hour", "none"):
        (row,) = asks.get(f"/usage?interval={interval}&group_by=model").json()["data"]
        assert (row["requests"], row["model"], row["cost_nanos"]) == (1, "m-1", 7)
    assert asks.get("/usage?key=key_22222222222222222222").json()["data"] == []
    (listed,) = asks.get("/requests").json()["data"]
    assert (listed["key_id"], listed["key_name"]) == (stage.customer.key.public_id, "server")
    found = {"?end=succeeded": 1, "?end=failed": 0, "?model=m-1": 1, "?model=other": 0, f"?key={listed['key_id']}": 1}
    for query, many in {**found, "?key=nobody": 0, "?until=2001-01-01": 0, "?since=2001-01-01": 1}.items():
        assert len(asks.get(f"/requests{query}").json()["data"]) == many, query
    told = asks.get(f"/requests/{stage.call_id}").json()
    assert (listed["id"], listed["call"]["cost_nanos"]) == (stage.call_id, 7)
    assert sum(line["amount_picos"] for line in told["explanation"]["lines"]) == told["explanation"]["sum_picos"]
    credit = asks.post("/wallet/codes", {"code": "welcome"})
    assert (credit.status_code, credit.json()["amount_nanos"]) == (201, 10**9)


def test_webhooks_are_looked_after(stage):
    asks = program(stage.cast.organization, Role.ADMIN)
    path = f"/webhooks/{stage.addresses['endpoint']}"
    added = asks.post("/webhooks", {"url": "https://other.example.com/", "events": ["tier.changed"]}).json()
    assert added["secret"].startswith("whsec_")
    assert added["low_balance_nanos"] == 5 * 10**9, "or balance.low would never be told"
    assert asks("patch", path, {"is_enabled": False}).json()["is_enabled"] is False
    assert asks("patch", path, {"is_enabled": True, "events": ["balance.low"]}).json()["events"] == ["balance.low"]
    assert asks.post(f"{path}/rotate").json()["previous_secret_until"] is not None
    assert asks.post(f"{path}/deliveries/{stage.addresses['event_id']}/replay").json()["state"] == "waiting"
    assert asks("delete", path).status_code == 204
    assert "secret" not in asks.get("/webhooks").json()["data"][0]


def test_use_is_written_down_and_members_see_who_did_it(stage):
    asks = program(stage.cast.organization)
    asks("patch", "/account", {"name": "Renamed"}, User_Agent="terraform/1")
    key = ApiKey.objects.get(name="terraform")
    assert (KeyUse.objects.get(key=key).agent, KeyUse.objects.get(key=key).address) == ("terraform/1", "127.0.0.1")
    latest = asks.get("/activity?about=organization&limit=1").json()["data"][0]
    assert (latest["who"], latest["action"], latest["address"]) == (str(key), "organization.changed", "127.0.0.1")
    assert Membership.objects.count() == 4


def test_it_is_under_its_brand_and_other_brands_know_nothing(stage, client):
    secret = program(stage.cast.organization).secret
    bearer = {"Authorization": f"Bearer {secret}"}
    inside = client.get(f"/{stage.cast.brand.slug}{PREFIX}/account", headers=bearer)
    assert inside.json()["id"] == stage.cast.organization.public_id
    from tests import cast as casting

    other = casting.brand()
    assert code_of(client.get(f"/{other.slug}{PREFIX}/account", headers=bearer)) == (401, "invalid_key")
