"""Staff of one brand never see a word of another's: over every page, list, filter, choice and action of the site.

Taken from the site itself, so a new table or page is covered by being there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.core import serializers
from django.db import models
from django.urls import URLPattern, reverse

from keys import staff
from keys.models import AuditEvent, Brand, BrandStaff, Role, User
from tests import cast
from tests.marked import Rows

pytestmark = pytest.mark.django_db

admin.autodiscover()
PAGES = dict(admin.site._registry)
SCOPED = {model: page for model, page in PAGES.items() if page.brand_path}  # type: ignore[attr-defined]
ROOMS = ("keys", "billing", "proxy", "portal")
INLINE = [model for room in ROOMS for model in apps.get_app_config(room).get_models() if model not in PAGES]
INSTALLATION = {
    *("deadletter", "emailaddress", "enginefinding", "enginereading", "group", "journalshard", "journalwriter"),
    *("publication", "workerlease"),
}
"""What belongs to no brand: for superusers only, and so is whatever does not say where it belongs."""
OURS, THEIRS = "aardvark", "zebra"
MODEL = "billing.Model"
FORMS_THAT_NAME = {
    *(("grant", "organization"), ("posting", "organization"), ("rate", "model"), ("rate", "organization")),
    *(("tierassignment", "organization"), ("tierassignment", "tier"), ("limitoverride", "model")),
    *(("membership", "user"), ("membership", "organization"), ("promocode", "brand"), ("organization", "brand")),
    *(("model", "routes-0-engine"), ("tier", "limits-0-model")),
}
"""Some of the fields that name a row: they are among those that are found."""


@pytest.fixture
def houses(settings) -> tuple[Rows, Rows]:
    """Two brands with a row in every table that the site shows, each word of theirs marked."""
    houses = Rows(OURS), Rows(THEIRS)
    for house in houses:
        for model in (*PAGES, *INLINE):
            house[model]
    settings.DEFAULT_BRAND = houses[0][Brand].slug
    return houses


def worker(brand: Brand, role: str = "manager") -> User:
    person = cast.person("worker")
    staff.appoint(user=person, brand=brand, role=role, actor="test")
    return person


def text(answer: Any) -> str:
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    said = f"{answer.headers} {body.decode()}".lower()
    return re.sub(r"with id “[^”]*” doesn’t exist", "", said)  # what was asked for, said back


def page_of(model: type[models.Model], act: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{act}", args=args)


def says_nothing_of_theirs(answer: Any, where: str) -> None:
    assert answer.status_code in (200, 302, 403, 404, 405), (where, answer.status_code)
    said = text(answer)
    found = re.search(rf".{{0,200}}{THEIRS}.{{0,200}}", said, re.DOTALL)
    assert found is None, f"{where}: {found.group()}"


def test_every_page_about_rows_is_silent_about_another_brand(houses):
    ours, theirs = houses
    browser = cast.browser_of(worker(ours[Brand]))
    for model, page in PAGES.items():
        listed = page_of(model, "changelist")
        answer = browser.get(listed)
        says_nothing_of_theirs(answer, listed)
        assert answer.status_code == (200 if model in SCOPED else 403), listed
        if model in SCOPED:
            shown = [str(row.pk) for row in answer.context["cl"].result_list]
            assert shown.count(str(ours[model].pk)) == 1, listed
        searches = type(page).get_search_results is not admin.ModelAdmin.get_search_results
        for url in (page_of(model, "add"), *([f"{listed}?q=zebr"] if searches else ())):
            says_nothing_of_theirs(browser.get(url), url)
        for act in ("change", "history", "delete"):
            url = page_of(model, act, theirs[model].pk)
            answer = browser.get(url)
            assert answer.status_code in (302, 403, 404), url  # 302: to the index, as for a row that never was
            says_nothing_of_theirs(answer, url)
        url = page_of(model, "change", ours[model].pk)
        answer = browser.get(url)
        says_nothing_of_theirs(answer, url)
        assert answer.status_code == (200 if model in SCOPED else 403), url


def test_what_leads_to_no_brand_is_for_superusers(houses):
    ours, _ = houses
    index = text(cast.browser_of(worker(ours[Brand])).get("/admin/"))
    unscoped = PAGES.keys() - SCOPED.keys()
    names = {str(model._meta.model_name) for model in unscoped}
    assert names >= INSTALLATION
    assert not names & {"organization", "apikey", "usageevent", "posting", "engine", "model", "tier", "topup"}
    assert not [model for model in unscoped if page_of(model, "changelist") in index]


def relations(model: type[models.Model]) -> list[Any]:
    return [field for field in model._meta.get_fields() if field.many_to_one or (field.one_to_one and field.concrete)]


def test_no_choice_completes_to_another_brand(houses):
    ours, _ = houses
    browser = cast.browser_of(worker(ours[Brand]))
    for model in (*PAGES, *INLINE):
        for field in relations(model):
            asked: dict[str, Any] = {
                "app_label": model._meta.app_label,
                "model_name": model._meta.model_name,
                "field_name": field.name,
            }
            says_nothing_of_theirs(browser.get("/admin/autocomplete/", {**asked, "term": ""}), str(asked))


def other_pages() -> list[str]:
    """Every address of the site that is not one model's."""
    mine = {f"{model._meta.app_label}_{model._meta.model_name}_" for model in PAGES}
    found = []
    for pattern in admin.site.get_urls():
        name = pattern.name if isinstance(pattern, URLPattern) else None
        if name and not any(name.startswith(prefix) for prefix in mine) and name not in ("app_list", "logout"):
            found.append(name)
    return found


def test_every_other_page_is_silent_about_another_brand(houses):
    ours, theirs = houses
    browser = cast.browser_of(worker(ours[Brand]))
    call, refused = theirs.of("billing.UsageEvent"), theirs.of("proxy.RefusalRecord")
    organization, limit, model = (theirs.of(label) for label in ("keys.Organization", "billing.TierLimit", MODEL))
    rows_named = {"engine": theirs.of("billing.Engine").pk}
    forged = {"act": "set", f"l{limit.pk}-amount": "1", f"l{limit.pk}-seen": limit.amount}
    forged |= {f"m{model.pk}-{name}": "1" for name in ("input", "output")}
    before = everything_of(theirs)
    for name in other_pages():
        pattern = next(p for p in admin.site.get_urls() if isinstance(p, URLPattern) and p.name == name)
        url = reverse(f"admin:{name}", args=[rows_named[named] for named in pattern.pattern.converters])
        for asked in (
            {},
            {"brand": theirs[Brand].slug, "days": "30", "q": "zebr"},
            {"brand": theirs[Brand].pk, "format": "csv", "organization": organization.pk},
            {"id": str(call.pk), "q": str(call.pk), "format": "detail"},
            {"id": str(refused.pk), "q": organization.public_id[1:]},
        ):
            says_nothing_of_theirs(browser.get(url, asked), f"{url} {asked}")
            says_nothing_of_theirs(browser.post(url, asked), f"POST {url} {asked}")
        for sent in (forged, {"act": "down"}, {"act": "probe"}):
            says_nothing_of_theirs(browser.post(f"{url}?brand={theirs[Brand].slug}", sent), f"POST {url} {sent}")
    for app in {model._meta.app_label for model in PAGES}:
        says_nothing_of_theirs(browser.get(f"/admin/{app}/"), app)
    assert everything_of(theirs) == before, "and nothing of theirs was changed"


def everything_of(rows: Rows) -> str:
    fresh = [model._default_manager.get(pk=rows[model].pk) for model in PAGES]
    return str(serializers.serialize("json", fresh))


def test_nothing_of_another_brand_is_changed_by_a_form_or_an_action(houses):
    ours, theirs = houses
    browser = cast.browser_of(worker(ours[Brand]))
    before, trail = everything_of(theirs), AuditEvent.objects.filter(brand=theirs[Brand]).count()
    for model, page in PAGES.items():
        row = theirs[model]
        for name in (*(page.actions or ()), "delete_selected"):
            data = {"action": name, "_selected_action": [row.pk], "post": "yes", "reason": "x"}
            says_nothing_of_theirs(browser.post(page_of(model, "changelist"), data), f"{model} {name}")
        for act in ("change", "delete"):
            answer = browser.post(page_of(model, act, row.pk), {"post": "yes", "name": "taken", "role": "support"})
            assert answer.status_code in (302, 403, 404), (model, act)
        sent = {f.name: theirs[f.related_model].pk for f in relations(model) if f.related_model in PAGES}
        answer = browser.post(
            page_of(model, "add"), {**sent, "name": "mine", "reason": "x", "amount": "1", "memo": "x"}
        )
        assert answer.status_code in (200, 403), model
    assert everything_of(theirs) == before
    assert AuditEvent.objects.filter(brand=theirs[Brand]).count() == trail


def choices_of(form: Any) -> dict[str, type[models.Model]]:
    """Its fields that name a row, as they are sent."""
    fields = ((form.add_prefix(name), field) for name, field in form.fields.items())
    return {name: field.queryset.model for name, field in fields if getattr(field, "queryset", None) is not None}


def refused(form: Any, names: Iterable[str]) -> bool:
    found = form.errors.as_data()
    codes = {form.add_prefix(name): {error.code for error in errors} for name, errors in found.items()}
    return all("invalid_choice" in codes.get(name, set()) for name in names)


def test_no_form_takes_a_row_of_another_brand(houses):
    """Each field that names a row is sent theirs, in new rows' forms and in the tables below our own rows."""
    ours, theirs = houses
    browser = cast.browser_of(worker(ours[Brand]))
    before, tried = everything_of(theirs), set()
    for model in SCOPED:
        url = page_of(model, "add")
        if browser.get(url).status_code == 200:
            names = choices_of(browser.get(url).context["adminform"].form)
            answer = browser.post(url, {name: theirs[of].pk for name, of in names.items()})
            assert refused(answer.context["adminform"].form, names), (url, names)
            tried |= {(model._meta.model_name, name) for name in names}
        url = page_of(model, "change", ours[model].pk)
        for inline in browser.get(url).context.get("inline_admin_formsets", ()):
            prefix, names = inline.formset.prefix, choices_of(inline.formset.empty_form)
            names = {name.replace("__prefix__", "0"): of for name, of in names.items() if not name.endswith("-id")}
            if not names or not inline.has_add_permission:
                continue
            sent = {name: theirs[of].pk for name, of in names.items()}
            answer = browser.post(url, {f"{prefix}-TOTAL_FORMS": 1, f"{prefix}-INITIAL_FORMS": 0, **sent})
            formset = next(each.formset for each in answer.context["inline_admin_formsets"])
            assert refused(formset.forms[0], names), (url, names)
            tried |= {(model._meta.model_name, name) for name in names}
    assert tried >= FORMS_THAT_NAME
    assert everything_of(theirs) == before


def test_support_looks_and_changes_nothing(houses):
    ours, _ = houses
    browser = cast.browser_of(worker(ours[Brand], "support"))
    before = everything_of(ours)
    for model, page in SCOPED.items():
        for name in page.actions or ():
            data = {"action": name, "_selected_action": [ours[model].pk], "reason": "x"}
            browser.post(page_of(model, "changelist"), data)
        assert browser.get(page_of(model, "add")).status_code == 403
        assert browser.post(page_of(model, "delete", ours[model].pk), {"post": "yes"}).status_code in (302, 403)
    assert everything_of(ours) == before
    organizations = text(browser.get("/admin/keys/organization/"))
    assert OURS in organizations
    assert 'name="action"' not in organizations


def test_a_manager_acts_for_their_brand_only_where_they_manage(houses):
    ours, theirs = houses
    person = worker(ours[Brand])
    staff.appoint(user=person, brand=theirs[Brand], role="support", actor="test")
    browser = cast.browser_of(person)
    for rows, state in ((ours, "suspended"), (theirs, "active")):
        row = rows.of("keys.Organization")
        assert browser.get(page_of(type(row), "change", row.pk)).status_code == 200
        data = {"action": "suspend", "_selected_action": [row.pk], "reason": "x"}
        browser.post(page_of(type(row), "changelist"), data)
        row.refresh_from_db()
        assert row.state == state


def test_nobody_learns_who_works_elsewhere(houses):
    """A customer of ours may be another brand's staff."""
    ours, theirs = houses
    customer = cast.person("customer")
    cast.join(customer, ours.of("keys.Organization"), Role.VIEWER)
    staff.appoint(user=customer, brand=theirs[Brand], role="manager", actor="test")
    browser = cast.browser_of(worker(ours[Brand]))
    page = browser.get(page_of(User, "changelist"))
    assert customer.email in page.content.decode()
    assert "is_staff" not in page.content.decode()
    for asked in (
        "is_staff__exact=1",
        "is_superuser=0",
        "staff_of__gt=0",
        "staff_of__isnull=0",
        "password__gt=a",
    ):
        assert browser.get(f"{page_of(User, 'changelist')}?{asked}").status_code == 400, asked
    chief = cast.browser_of(cast.person("chief", is_staff=True, is_superuser=True))
    assert chief.get(f"{page_of(User, 'changelist')}?is_staff__exact=1").status_code == 200


def test_nobody_gives_themselves_rights(houses):
    ours, _ = houses
    person = worker(ours[Brand])
    cast.join(person, ours.of("keys.Organization"), Role.OWNER)
    browser = cast.browser_of(person)
    me = browser.get(page_of(User, "change", person.pk)).content.decode()
    assert person.email in me
    assert "superuser" not in me
    assert browser.post(page_of(User, "change", person.pk), {"is_superuser": "on"}).status_code == 403
    assert browser.get(f"/admin/keys/user/{person.pk}/password/").status_code in (302, 403)
    new = {"user": person.pk, "brand": ours[Brand].pk, "role": "manager"}
    assert browser.post(page_of(BrandStaff, "add"), new).status_code == 403
    assert browser.get("/admin/auth/group/").status_code == 403


def test_appointing_and_dismissing_are_written_once_and_audited(houses):
    _, theirs = houses
    browser = cast.browser_of(cast.person("chief", is_staff=True, is_superuser=True))
    person = cast.person("fresh")
    for role in ("support", "manager"):
        data = {"user": person.pk, "brand": theirs[Brand].pk, "role": role}
        if role == "support":
            browser.post(page_of(BrandStaff, "add"), data)
        else:
            row = BrandStaff.objects.get(user=person)
            browser.post(page_of(BrandStaff, "change", row.pk), data)
    assert cast.browser_of(person).get("/admin/").status_code == 200
    browser.post(page_of(BrandStaff, "delete", row.pk), {"post": "yes"})
    person.refresh_from_db()
    assert not person.is_staff
    noted = AuditEvent.objects.filter(subject=person.email).order_by("id")
    assert [(event.action, event.before, event.after) for event in noted] == [
        ("staff.appointed", {}, {"role": "support"}),
        ("staff.appointed", {"role": "support"}, {"role": "manager"}),
        ("staff.dismissed", {"role": "manager"}, {}),
    ]


def test_somebody_let_in_without_a_brand_sees_nothing(houses):
    browser = cast.browser_of(cast.person("idle", is_staff=True))
    for name in (*other_pages(),):
        if name not in ("index", "login", "password_change", "password_change_done", "jsi18n", "support", "search"):
            pattern = next(p for p in admin.site.get_urls() if isinstance(p, URLPattern) and p.name == name)
            url = reverse(f"admin:{name}", args=[1] * len(pattern.pattern.converters))
            assert browser.get(url).status_code in (403, 404), name
    for model in PAGES:
        assert browser.get(page_of(model, "changelist")).status_code == 403
