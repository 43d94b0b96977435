"""The operator's pages: all open, writers are used, no digest is shown."""

import re

import pytest
from django.contrib import admin

from keys import invitations, issuing, organizations, service_accounts
from keys.models import (
    ApiKey,
    AuditEvent,
    Brand,
    BrandStaff,
    KeyUse,
    Membership,
    Organization,
    Publication,
    Role,
    User,
)
from tests import cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def company():
    return cast.assemble()


@pytest.fixture
def browser(company, settings):
    settings.DEFAULT_BRAND = company.brand.slug
    return cast.browser_of(cast.person("operator", is_staff=True, is_superuser=True))


@pytest.fixture
def key(company):
    key = issuing.issue(organization=company.organization, name="one", actor="test").key
    BrandStaff.objects.create(user=company.stranger, brand=company.brand)
    KeyUse.objects.create(key=key, last_used_at=key.created_at or "2026-01-01T00:00Z", address="192.0.2.1")
    return key


admin.autodiscover()
ROOM = [model._meta.model_name for model in admin.site._registry if model._meta.app_label == "keys"]


def first(name):
    model = next(model for model in admin.site._registry if model._meta.model_name == name)
    row = model._default_manager.first()
    assert row
    return row


@pytest.mark.parametrize("name", ROOM)
def test_every_list_and_every_row_opens(browser, company, key, name):
    invitations.invite(organization=company.organization, email="x@example.com", role=Role.VIEWER, actor="test")
    service_accounts.create(organization=company.organization, name="x", role=Role.VIEWER, actor="test")
    page = browser.get(f"/admin/keys/{name}/?q=a")
    assert page.status_code == 200
    row = first(name)
    page = browser.get(f"/admin/keys/{name}/{row.pk}/change/")
    assert page.status_code == 200
    assert bytes(key.digest).hex().encode() not in page.content
    assert b"digest" not in page.content


@pytest.mark.parametrize("name", ["auditevent", "keyuse", "publication", "invitation"])
def test_what_machines_write_is_read_only(browser, company, key, name):
    invitations.invite(organization=company.organization, email="x@example.com", role=Role.VIEWER, actor="test")
    service_accounts.create(organization=company.organization, name="x", role=Role.VIEWER, actor="test")
    row = first(name)
    for url in (f"{row.pk}/change/", "add/", f"{row.pk}/delete/"):
        assert browser.post(f"/admin/keys/{name}/{url}", {}).status_code == 403


@pytest.mark.parametrize("name", ["apikey", "organization", "brand", "user"])
def test_what_others_name_is_never_deleted(browser, company, key, name):
    row = first(name)
    assert browser.post(f"/admin/keys/{name}/{row.pk}/delete/", {"post": "yes"}).status_code == 403


def act(browser, name, action, row, **more):
    data = {"action": action, "_selected_action": [row.pk], **more}
    assert browser.post(f"/admin/keys/{name}/", data).status_code == 302


def test_actions_go_through_the_writers(browser, company, key):
    act(browser, "organization", "suspend", company.organization)
    assert Organization.objects.get(id=company.organization.id).state == "active"  # nobody said why
    act(browser, "organization", "suspend", company.organization, reason="did not pay")
    assert Organization.objects.get(id=company.organization.id).suspended_reason == "did not pay"
    assert Organization.objects.get(id=company.organization.id).state == "suspended"
    act(browser, "organization", "resume", company.organization)
    act(browser, "apikey", "revoke", key)
    assert ApiKey.objects.get(id=key.id).revoked_at
    act(browser, "brand", "pause", company.brand)
    act(browser, "brand", "resume", company.brand)
    noted = AuditEvent.objects.order_by("id").values_list("action", "address")
    assert list(noted)[1:] == [
        ("organization.suspended", "127.0.0.1"),
        ("organization.resumed", "127.0.0.1"),
        ("key.revoked", "127.0.0.1"),
        ("brand.paused", "127.0.0.1"),
        ("brand.resumed", "127.0.0.1"),
    ]
    assert Publication.objects.filter(subject="brand").count() == 2


def test_a_reason_that_is_too_long_is_said_to_be(browser, company):
    data = {"action": "suspend", "_selected_action": [company.organization.pk], "reason": "x" * 201, "index": 0}
    said = browser.post("/admin/keys/organization/", data, follow=True).content.decode()
    assert "Not suspended: the reason has 201 characters" in said
    assert Organization.objects.get(pk=company.organization.pk).state == "active"


def test_suspending_several_asks_first_and_leaves_the_houses_own(browser, company):
    other = organizations.create(brand=company.brand, name="Other", actor="test")
    house = organizations.create(brand=company.brand, name="Watch", slug="_watch", actor="test")
    data = {"action": "suspend", "reason": "x", "_selected_action": [other.pk], "select_across": "1"}
    asked = browser.post("/admin/keys/organization/", data)
    assert "Suspend 3 customers?" in asked.content.decode()
    assert "1 of the house" in asked.content.decode()
    assert not Organization.objects.filter(state="suspended").exists()
    browser.post("/admin/keys/organization/", {**data, "sure": "7"})
    assert not Organization.objects.filter(state="suspended").exists(), "another number was agreed to"
    browser.post("/admin/keys/organization/", {**data, "sure": "3"})
    assert set(Organization.objects.filter(state="suspended")) == {company.organization, company.elsewhere, other}
    act(browser, "organization", "suspend", house, reason="it may rest")
    assert Organization.objects.get(pk=house.pk).state == "suspended"


def fields_of(page):
    """What a browser would send back unchanged."""
    form = page.context["adminform"].form
    values = {"_as_seen": page.context["as_seen"]} if "as_seen" in page.context else {}
    for bound in form:
        value = bound.value()
        if value is None or value is False:
            continue
        values[bound.html_name] = ",".join(value) if isinstance(value, list) and bound.name != "scopes" else value
    for formset in page.context["inline_admin_formsets"]:
        values |= {f"{formset.formset.prefix}-{name}": 0 for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
    return values


def saved(browser, url, **changes):
    page = browser.get(url)
    reply = browser.post(url, {**fields_of(page), **changes})
    assert reply.status_code == 302, reply.context["adminform"].form.errors
    return reply


def test_key_form_changes_through_issuing(browser, company, key):
    url = f"/admin/keys/apikey/{key.id}/change/"
    saved(browser, url, name="renamed", cidrs="10.0.0.1", scopes=["chat"])
    key.refresh_from_db()
    assert (key.name, key.cidrs, key.scopes, key.model_slugs) == ("renamed", ["10.0.0.1/32"], ["chat"], None)
    assert set(AuditEvent.objects.get(action="key.changed").after) == {"name", "cidrs", "scopes"}
    reply = browser.post(url, {**fields_of(browser.get(url)), "cidrs": "10.0.0.0/99"})
    assert reply.status_code == 200
    assert reply.context["adminform"].form.errors["cidrs"]


def test_brand_form_creates_and_changes_through_brands(browser):
    saved(
        browser,
        "/admin/keys/brand/add/",
        slug="fresh",
        name="Fresh",
        key_prefix="fr-",
        schemes="bearer",
        base_paths="/v1",
    )
    brand = Brand.objects.get(slug="fresh")
    url = f"/admin/keys/brand/{brand.pk}/change/"
    saved(browser, url, hosts="fresh.example.com", slug="other")
    brand.refresh_from_db()
    assert (brand.slug, brand.hosts) == ("fresh", ["fresh.example.com"])
    assert [*AuditEvent.objects.order_by("id").values_list("action", flat=True)] == ["brand.created", "brand.changed"]
    reply = browser.post(url, {**fields_of(browser.get(url)), "legacy_key_patterns": "(a+)+"})
    assert "legacy_key_patterns" in reply.context["adminform"].form.errors


def test_organization_form_creates_and_changes_through_organizations(browser, company):
    saved(browser, "/admin/keys/organization/add/", brand=company.brand.pk, name="Fresh", slug="fresh")
    fresh = Organization.objects.get(slug="fresh")
    saved(browser, f"/admin/keys/organization/{fresh.pk}/change/", name="Fresher")
    assert Organization.objects.get(slug="fresh").name == "Fresher"
    assert [*AuditEvent.objects.order_by("id").values_list("action", flat=True)] == [
        *("organization.created", "organization.changed")
    ]


def test_what_staff_note_stays_among_staff(browser, company):
    url = f"/admin/keys/organization/{company.organization.pk}/change/"
    saved(browser, url, **{"notes-TOTAL_FORMS": 1, "notes-0-text": "Pays late, but pays."})
    note = company.organization.notes.get()
    assert (note.text, str(note.author), note.written_by[:8]) == ("Pays late, but pays.", note.written_by, "operator")
    assert "Pays late" in browser.get(url).content.decode()
    noted = AuditEvent.objects.get(action="note.written")
    assert (noted.brand, noted.organization, noted.after) == (company.brand, None, {})
    saved(
        browser, url, **{"notes-INITIAL_FORMS": 1, "notes-TOTAL_FORMS": 1, "notes-0-id": note.pk, "notes-0-text": "x"}
    )
    assert company.organization.notes.get().text == "Pays late, but pays."


def test_membership_form_keeps_the_last_owner(browser, company):
    owner = Membership.objects.get(user=company.owner)
    url = f"/admin/keys/membership/{owner.pk}/"
    for act, data in (("change/", {"role": "viewer"}), ("delete/", {"post": "yes"})):
        page = browser.post(url + act, data, follow=True)
        assert [str(said) for said in page.context["messages"]] == [
            "Not changed: an organization keeps at least one owner."
        ]
    owner.refresh_from_db()
    assert owner.role == Role.OWNER
    data = {"user": company.stranger.pk, "organization": company.organization.pk, "role": "billing"}
    assert browser.post("/admin/keys/membership/add/", data).status_code == 302
    added = Membership.objects.get(user=company.stranger, organization=company.organization)
    browser.post(f"/admin/keys/membership/{added.pk}/delete/", {"post": "yes"})
    assert not Membership.objects.filter(pk=added.pk).exists()


def test_rights_that_were_taken_are_not_given_back_by_an_old_page(browser, company):
    url = f"/admin/keys/user/{company.owner.pk}/change/"
    User.objects.filter(pk=company.owner.pk).update(is_staff=True, is_superuser=True)
    opened = fields_of(browser.get(url))
    User.objects.filter(pk=company.owner.pk).update(is_staff=False, is_superuser=False)
    said = browser.post(url, {**opened, "name": "Other"}, follow=True).content.decode()
    assert "somebody else changed: is staff, superuser status." in re.findall("somebody else.*", said)[0]
    assert not User.objects.filter(pk=company.owner.pk, is_superuser=True).exists()


def test_operator_can_add_a_person(browser):
    data = {
        "email": "made@example.com",
        "usable_password": "true",
        "password1": cast.PASSWORD,
        "password2": cast.PASSWORD,
    }
    assert browser.post("/admin/keys/user/add/", data).status_code == 302
    assert User.objects.get(email="made@example.com").check_password(cast.PASSWORD)
