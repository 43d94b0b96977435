"""Service accounts on the members page, on the pages of keys, and by program."""

import pytest
from django.urls import reverse

from keys import issuing
from keys.models import ApiKey, Role, ServiceAccount
from tests import cast as casting
from tests.portal.managing import Program, furnish, program
from tests.portal.test_keys_page import form_of, new_key

pytestmark = pytest.mark.django_db(transaction=True)


def post(browser, cast, view, **data):
    return browser.post(reverse(view, args=[cast.organization.public_id]), data)


def text_of(browser, cast, path: str) -> str:
    return str(browser.get(f"/{cast.organization.public_id}/{path}").content.decode())


def test_one_is_made_gets_keys_and_is_disabled_with_them(cast, redis_connection):
    owner = casting.browser_of(cast.owner)
    assert "Service account" not in text_of(owner, cast, "keys/new/"), "nothing to choose from yet"
    assert post(owner, cast, "service_account_new", name="nightly", role="developer").status_code == 302
    account = ServiceAccount.objects.get()
    assert account.created_by == cast.owner
    again = post(owner, cast, "service_account_new", name="nightly", role="developer")
    assert again.status_code == 400
    assert "There is a service account of that name." in again.content.decode()

    assert new_key(owner, cast, service_account=account.public_id).status_code == 201
    path = f"/{cast.organization.public_id}/keys/management/new/"
    form = form_of(owner, path, role="developer", service_account=account.public_id)
    assert owner.post(path, form).status_code == 201
    assert "of nightly" in text_of(owner, cast, "keys/")
    assert "of nightly" in text_of(owner, cast, "keys/management/")
    assert ApiKey.objects.filter(service_account=account).count() == 2

    asked = post(owner, cast, "service_account_disable", service_account=account.public_id)
    assert "Its keys are revoked" in asked.content.decode()
    assert ApiKey.objects.filter(revoked_at=None).count() == 2
    done = post(owner, cast, "service_account_disable", service_account=account.public_id, sure="yes")
    assert done.status_code == 302
    assert not ApiKey.objects.filter(revoked_at=None).exists()
    assert '<span class="tag">disabled</span>' in text_of(owner, cast, "members/")


def test_an_admin_makes_no_owner_of_a_program(cast, redis_connection):
    casting.join(cast.stranger, cast.organization, Role.ADMIN)
    admin = casting.browser_of(cast.stranger)
    assert post(admin, cast, "service_account_new", name="x", role="owner").status_code == 403
    assert post(casting.browser_of(cast.owner), cast, "service_account_new", name="x", role="owner").status_code == 302
    account = ServiceAccount.objects.get()
    asked = {"service_account": account.public_id, "sure": "yes"}
    assert post(admin, cast, "service_account_disable", **asked).status_code == 403
    elsewhere = reverse("service_account_disable", args=[cast.elsewhere.public_id])
    assert admin.post(elsewhere, asked).status_code == 404
    account.refresh_from_db()
    assert account.disabled_at is None


def test_its_role_changes(cast, redis_connection):
    owner = casting.browser_of(cast.owner)
    post(owner, cast, "service_account_new", name="nightly", role="developer")
    asked = {"service_account": ServiceAccount.objects.get().public_id}
    assert post(owner, cast, "service_account_role", **asked, role="admin").status_code == 302
    assert "nightly is admin now." in text_of(owner, cast, "members/")
    assert ServiceAccount.objects.get().role == Role.ADMIN
    assert post(owner, cast, "service_account_role", **asked, role="king").status_code == 404
    assert new_key(owner, cast, service_account=asked["service_account"]).status_code == 201
    assert post(owner, cast, "service_account_role", **asked, role="viewer").status_code == 302
    assert "does more; revoke it first." in text_of(owner, cast, "members/")

    casting.join(cast.stranger, cast.organization, Role.ADMIN)
    assert post(owner, cast, "service_account_role", **asked, role="owner").status_code == 302
    admin = casting.browser_of(cast.stranger)
    assert post(admin, cast, "service_account_role", **asked, role="viewer").status_code == 403
    assert ServiceAccount.objects.get().role == Role.OWNER


def test_programs_do_the_same(cast, redis_connection):
    furnish(cast, redis_connection)
    asks = program(cast.organization, Role.ADMIN)
    made = asks.post("/service_accounts", {"name": "deploys", "role": "developer"})
    assert made.status_code == 201
    assert asks.post("/service_accounts", {"name": "x", "role": "owner"}).status_code == 403
    assert asks.post("/service_accounts", {"name": "deploys", "role": "viewer"}).status_code == 422
    wish = {"name": "ci", "service_account": made.json()["id"]}
    key = asks.post("/keys", wish).json()
    assert key["service_account"] == made.json()["id"]
    path = f"/service_accounts/{made.json()['id']}"
    assert asks.get(path).json() == made.json()
    assert asks("patch", path, {"role": "admin"}).json() == made.json() | {"role": "admin"}
    assert asks("patch", path, {"role": "owner"}).status_code == 403
    lower = asks("patch", path, {"role": "viewer"})
    assert (lower.status_code, lower.json()["errors"][0]["pointer"]) == (422, "/role")
    assert [row["name"] for row in asks.get("/service_accounts").json()["data"]] == ["deploys", "import"]
    assert asks.post(f"{path}/disable").json()["state"] == "disabled"
    row = issuing.existing(key["secret"])
    assert row is not None
    assert row.revoked_at is not None
    assert asks.post("/keys", wish).status_code == 422


def test_a_management_key_makes_others_that_may_no_more_than_itself(cast, redis_connection):
    furnish(cast, redis_connection)
    asks = program(cast.organization, Role.ADMIN)
    made = asks.post("/management_keys", {"name": "child", "role": "admin", "networks": ["127.0.0.0/8"]})
    assert made.status_code == 201
    child = Program(made.json()["secret"])
    own = child.get("/management_key").json()
    assert own == {name: value for name, value in made.json().items() if name != "secret"} | {
        "last_use": own["last_use"]
    }
    assert child.post("/management_keys", {"name": "x", "role": "owner"}).status_code == 403
    wrong = child.post("/management_keys", {"name": "x", "role": "viewer", "networks": ["nowhere"]})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/networks")
    account = ServiceAccount.objects.get(name="import")
    above = {"name": "x", "role": "admin", "service_account": account.public_id}
    assert child.post("/management_keys", above).status_code == 422
    of_it = child.post("/management_keys", above | {"role": "developer"}).json()
    assert of_it["service_account"] == account.public_id
    owners = issuing.issue_for_management(organization=cast.organization, name="o", role=Role.OWNER, actor="tests").key
    assert child.post(f"/management_keys/{owners.public_id}/revoke").status_code == 403
    calls = issuing.issue(organization=cast.organization, name="c", actor="tests").key
    assert child.post(f"/management_keys/{calls.public_id}/revoke").status_code == 404
    assert child.post(f"/management_keys/{made.json()['id']}/revoke").json()["state"] == "revoked"
    assert child.get("/management_keys").status_code == 401
    listed = {row["name"]: row["state"] for row in asks.get("/management_keys").json()["data"]}
    assert (listed["child"], listed["o"]) == ("revoked", "live")
    developer = program(cast.organization, Role.DEVELOPER)
    assert developer.get("/management_keys").status_code == 403
