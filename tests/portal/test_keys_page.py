import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import orjson
import pytest
from django.test import Client
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisGone

from billing.models import UsageDay
from keys import issuing, publication, records
from keys.models import ApiKey, AuditEvent, Brand, KeyUse, Role
from tests import cast as casting

COMMITS = pytest.mark.django_db(transaction=True)


@pytest.fixture
def owner(cast):
    return casting.browser_of(cast.owner)


def form_of(browser: Client, path: str, **fields) -> dict[str, Any]:
    """What the form would send: its hidden token, all scopes, and the fields given."""
    page = browser.get(path).content.decode()
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', page)
    scopes = re.findall(r'name="scopes" value="([^"]+)"', page)
    return {"form_token": token, "scopes": scopes, "name": "server", **fields}


def new_key(browser: Client, cast, **fields):
    path = f"/{cast.organization.public_id}/keys/new/"
    return browser.post(path, form_of(browser, path, **fields))


def secret_on(page) -> str:
    (secret,) = re.findall(r'id="secret"[^>]*>([^<]+)<', page.content.decode())
    return str(secret)


def issued(cast, **fields) -> ApiKey:
    return issuing.issue(organization=cast.organization, name="server", actor=cast.owner, **fields).key


def test_the_list_is_empty_and_says_what_to_do(owner, cast):
    page = owner.get(f"/{cast.organization.public_id}/keys/").content.decode()
    assert "No keys yet" in page
    assert f'href="/{cast.organization.public_id}/keys/new/"' in page


def test_a_new_key_is_shown_once(owner, cast):
    page = new_key(owner, cast)
    assert page.status_code == 201
    secret = secret_on(page)
    assert secret.startswith("ak-")
    assert "no-store" in page["Cache-Control"]
    assert issuing.existing(secret) == ApiKey.objects.get()
    for path in ("keys/", "", "keys/new/"):
        assert secret not in owner.get(f"/{cast.organization.public_id}/{path}").content.decode()
    assert secret not in str(list(AuditEvent.objects.values())) + str(dict(owner.session))


def test_the_curl_of_a_new_key_has_the_readers_own_address_and_the_key(owner, cast):
    casting.model(cast.brand, "m-1")
    prefixed = owner.get(f"/{cast.brand.slug}/{cast.organization.public_id}/keys/new/").content.decode()
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', prefixed)
    data = {"form_token": token, "name": "server", "scopes": ["chat"]}
    page = owner.post(f"/{cast.brand.slug}/{cast.organization.public_id}/keys/new/", data)
    text = unescape(page.content.decode())
    assert f"curl http://testserver/{cast.brand.slug}/v1/chat/completions" in text
    assert f"'Authorization: Bearer {secret_on(page)}'" in text
    assert '"model": "m-1"' in text


def test_sending_the_form_again_makes_no_second_key(owner, cast):
    path = f"/{cast.organization.public_id}/keys/new/"
    form = form_of(owner, path)
    owner.post(path, form)
    again = owner.post(path, form, follow=True)
    assert "shown only once" in again.content.decode()
    assert ApiKey.objects.count() == 1


def test_a_key_is_made_with_what_the_form_says(owner, cast):
    casting.model(cast.brand, "m-1")
    fields = {
        "scopes": ["chat", "models"],
        "models": ["m-1"],
        "cidrs": "203.0.113.9\n2001:db8::/32",
        "requests_per_minute": "60",
        "spend_per_month": "12.50",
        "expires_in": "30",
    }
    assert new_key(owner, cast, **fields).status_code == 201
    key = ApiKey.objects.get()
    assert (key.scopes, key.model_slugs) == (["chat", "models"], ["m-1"])
    assert key.cidrs == ["203.0.113.9/32", "2001:db8::/32"]
    assert [(limit["unit"], limit["window"], limit["amount"]) for limit in key.limits] == [
        ("requests", "minute", 60),
        ("nanos", "month", 12_500_000_000),
    ]
    assert key.expires_at is not None
    assert abs(key.expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    assert key.created_by == cast.owner
    assert AuditEvent.objects.get(action="key.issued").address == "127.0.0.1"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "", "required"),
        ("name", "x" * 10_000, "at most 100"),
        ("name", "\u202egnp.exe", "line breaks"),
        ("scopes", ["root"], "not one of the available choices"),
        ("models", ["another-brands-model"], "not one of the available choices"),
        ("cidrs", "not a network", "does not appear to be"),
        ("requests_per_minute", "-1", "greater than or equal to 1"),
        ("spend_per_month", "1e9", "plain decimal"),
        ("expires_in", "99999", "not one of the available choices"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_made(owner, cast, field, value, said):
    casting.model(cast.brand, "m-1")
    page = new_key(owner, cast, **{field: value})
    assert page.status_code == 200
    assert said in unescape(page.content.decode())
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "={1+1}", "x" * 100])
def test_any_name_is_shown_as_text(owner, cast, name):
    new_key(owner, cast, name=name)
    page = owner.get(f"/{cast.organization.public_id}/keys/").content.decode()
    assert "<script>alert" not in page
    assert name in unescape(page)


def test_fields_that_the_form_does_not_have_change_nothing(owner, cast):
    new_key(owner, cast, organization=str(cast.elsewhere.pk), created_by=str(cast.stranger.pk), version="99999")
    key = ApiKey.objects.get()
    assert (key.organization, key.created_by) == (cast.organization, cast.owner)


@COMMITS
def test_revoking_asks_first_and_holds_at_once(owner, cast):
    key = issued(cast)
    path = f"/{cast.organization.public_id}/keys/{key.public_id}/revoke/"
    assert "cannot be undone" in owner.get(path).content.decode()
    assert ApiKey.objects.filter(revoked_at=None).exists()
    page = owner.post(path, follow=True).content.decode()
    assert not ApiKey.objects.filter(revoked_at=None).exists()
    assert "is revoked. Requests with it are refused from now on." in page
    assert not publication.apply_pending()


@COMMITS
def test_revoking_while_redis_is_away_says_so(owner, cast, monkeypatch):
    key = issued(cast)

    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    monkeypatch.setattr(publication, "_publish", gone)
    page = owner.post(f"/{cast.organization.public_id}/keys/{key.public_id}/revoke/", follow=True).content.decode()
    assert "unreachable just now" in page


def test_rotating_shows_a_new_secret_and_keeps_the_old_for_a_while(owner, cast):
    key = issued(cast, scopes=["chat"])
    path = f"/{cast.organization.public_id}/keys/{key.public_id}/rotate/"
    page = owner.post(path, form_of(owner, path, overlap_hours="1"))
    assert page.status_code == 201
    replacement = issuing.existing(secret_on(page))
    assert replacement is not None
    assert (replacement.rotated_from, replacement.scopes) == (key, ["chat"])
    key.refresh_from_db()
    assert key.expires_at is not None
    assert key.revoked_at is None


def test_a_revoked_key_cannot_be_rotated(owner, cast):
    key = issued(cast)
    path = f"/{cast.organization.public_id}/keys/{key.public_id}/rotate/"
    form = form_of(owner, path, overlap_hours="0")
    issuing.revoke(key=key, actor=cast.owner)
    assert "revoked or expired already" in owner.post(path, form, follow=True).content.decode()


def test_a_key_of_the_playground_is_not_rotated_into_one_that_no_list_shows(owner, cast):
    minutes = {"purpose": ApiKey.Purpose.PLAYGROUND, "expires_at": timezone.now() + timedelta(minutes=15)}
    path = f"/{cast.organization.public_id}/keys/{issued(cast, **minutes).public_id}/rotate/"
    page = owner.post(path, form_of(owner, path, overlap_hours="0"), follow=True).content.decode()
    assert "A key of the playground ends within minutes" in page
    assert ApiKey.objects.get().revoked_at is None


def test_a_developer_makes_keys_and_a_viewer_only_looks(cast):
    developer, viewer = casting.browser_of(cast.member), casting.browser_of(cast.viewer)
    assert new_key(developer, cast).status_code == 201
    key = ApiKey.objects.get()
    listed = viewer.get(f"/{cast.organization.public_id}/keys/").content.decode()
    assert key.hint in listed
    assert "keys/new/" not in listed
    assert "Revoke" not in listed
    for path in ("keys/new/", f"keys/{key.public_id}/revoke/", f"keys/{key.public_id}/rotate/"):
        for ask in (viewer.get, viewer.post):
            answer = ask(f"/{cast.organization.public_id}/{path}")
            assert answer.status_code == 403
            assert "role does not allow" in answer.content.decode()


def test_the_first_key_waits_for_a_confirmed_address(cast):
    newcomer = casting.person("newcomer", verified=False)
    casting.join(newcomer, cast.organization, Role.DEVELOPER)
    page = casting.browser_of(newcomer).get(f"/{cast.organization.public_id}/keys/new/").content.decode()
    assert "Check your mail" in page


def test_the_list_asks_as_few_questions_for_many_keys_as_for_one(owner, cast, django_assert_max_num_queries):
    for _ in range(30):
        issued(cast)
    with django_assert_max_num_queries(11):
        owner.get(f"/{cast.organization.public_id}/keys/")


def test_key_making_is_throttled_per_person(owner, cast):
    path = f"/{cast.organization.public_id}/keys/new/"
    statuses = [owner.post(path, {}).status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]


def test_a_suspended_account_is_told_so(owner, cast):
    cast.organization.state, cast.organization.suspended_reason = "suspended", "Unpaid invoice"
    cast.organization.save()
    page = owner.get(f"/{cast.organization.public_id}/keys/").content.decode()
    assert "This account is suspended: Unpaid invoice" in page


def test_under_another_brand_the_account_does_not_exist(owner, cast):
    other: Brand = casting.brand()
    assert owner.get(f"/{other.slug}/{cast.organization.public_id}/keys/").status_code == 404


def test_the_list_says_what_a_key_may_and_what_it_did(owner, cast):
    key = issuing.issue(
        organization=cast.organization,
        name="narrow",
        actor=cast.owner,
        scopes=["chat"],
        cidrs=["203.0.113.0/24"],
        limits=[{"unit": "requests", "window": "minute", "amount": 60}],
    ).key
    KeyUse.objects.create(key=key, last_used_at=timezone.now(), address="203.0.113.9", agent="openai-python/3.5")
    day = timezone.now().date()
    for when, requests in ((day, 3), (day.replace(day=1) - timedelta(days=1), 100)):
        UsageDay.objects.create(
            brand_id=cast.brand.pk,
            organization_id=cast.organization.pk,
            key_id=key.pk,
            model_id=1,
            end_reason="stop",
            day=when,
            requests=requests,
            cost_nanos=requests * 10**9,
            list_cost_nanos=requests * 10**9,
        )
    page = owner.get(f"/{cast.organization.public_id}/keys/").content.decode()
    row = " ".join(re.sub(r"<[^>]+>", " ", page.partition("<tbody>")[2]).split())
    for said in ("chat", "60 requests per minute", "from 203.0.113.0/24", "203.0.113.9", "openai-python/3.5"):
        assert said in row
    assert "3 · $3.00" in row, "last month's are not counted"


@COMMITS
def test_chosen_keys_are_revoked_together_after_one_is_asked(owner, cast, redis_connection):
    keys = [issuing.issue(organization=cast.organization, name=f"server {n}", actor=cast.owner).key for n in range(3)]
    theirs = issuing.issue(organization=cast.elsewhere, name="theirs", actor=cast.stranger).key
    base = f"/{cast.organization.public_id}/keys/"
    page = owner.get(base).content.decode()
    assert page.count('form="chosen"') == 3
    sent = {"key": [keys[0].public_id, keys[2].public_id, theirs.public_id]}
    asked = owner.post(f"{base}revoke/", sent).content.decode()
    assert "Revoke 2 keys?" in asked
    assert theirs.public_id not in asked
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    assert owner.post(f"{base}revoke/", {**sent, "sure": "yes"})["Location"] == base
    revoked = list(ApiKey.objects.exclude(revoked_at=None).order_by("pk"))
    assert revoked == [keys[0], keys[2]]
    for key in revoked:
        record = redis_connection.hget(records.key_name(key.organization_id, key.pk), "data")
        assert orjson.loads(record)["revoked"]
        assert AuditEvent.objects.filter(action="key.revoked", subject=key.public_id, actor=cast.owner).count() == 1
    assert owner.post(f"{base}revoke/", {"sure": "yes"})["Location"] == base


def test_who_may_not_revoke_chooses_nothing(cast):
    key = issuing.issue(organization=cast.organization, name="server", actor=cast.owner).key
    viewer, base = casting.browser_of(cast.viewer), f"/{cast.organization.public_id}/keys/"
    assert 'form="chosen"' not in viewer.get(base).content.decode()
    assert viewer.post(f"{base}revoke/", {"key": [key.public_id], "sure": "yes"}).status_code == 403


def edit_form(browser: Client, path: str, **fields) -> dict[str, Any]:
    """What the form would send as it stands, but for the fields given."""
    form = browser.get(path).context["form"]
    return {bound.name: "" if bound.value() is None else bound.value() for bound in form} | fields


@COMMITS
def test_a_key_is_edited_and_keeps_what_the_form_does_not_show(owner, cast, redis_connection):
    casting.model(cast.brand, "m-1")
    day = {"unit": "requests", "window": "day", "amount": 9}
    spend = {"unit": "nanos", "window": "month", "amount": 12_500_000_000}
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    key = issued(cast, limits=[spend, day], model_slugs=["m-1", "gone"], cidrs=["192.0.2.0/24"], expires_at=ends)
    path = f"/{cast.organization.public_id}/keys/{key.public_id}/edit/"
    page = owner.get(path).content.decode()
    assert 'value="12.50"' in page
    assert "As it is: 1 Jan 2030" in page
    before = AuditEvent.objects.count()
    assert owner.post(path, edit_form(owner, path)).status_code == 302
    assert AuditEvent.objects.count() == before, "nothing was changed"

    stale = edit_form(owner, path, name="old page")
    sent = edit_form(owner, path, name="worker", spend_per_month="20", tokens_per_day="500", cidrs="", scopes=["chat"])
    assert owner.post(path, sent).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.scopes, key.cidrs, key.expires_at) == ("worker", ["chat"], [], ends)
    assert sorted(key.model_slugs or []) == ["gone", "m-1"]
    tokens = {"unit": "tokens", "window": "day", "amount": 500}
    assert sorted(key.limits, key=str) == sorted([tokens, spend | {"amount": 20_000_000_000}, day], key=str)

    late = owner.post(path, stale)
    assert (late.status_code, "Somebody changed this key meanwhile." in late.content.decode()) == (200, True)
    wrong = owner.post(path, edit_form(owner, path, cidrs="nowhere"))
    assert list(wrong.context["form"].errors) == ["cidrs"]
    assert owner.post(path, edit_form(owner, path, expires_in="", models=[])).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.expires_at, key.model_slugs) == ("worker", None, ["gone"])
    issuing.revoke(key=key, actor=cast.owner)
    assert owner.get(path).status_code == 302
