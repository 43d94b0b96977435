"""Django's own forms, filled in as a browser would: unchanged but for what is named."""

from __future__ import annotations

from typing import Any

import msgspec

from keys.models import AuditEvent


def values_of(form: Any) -> dict[str, Any]:
    """What a browser would send back unchanged."""
    values: dict[str, Any] = {}
    for bound in form:
        value = bound.value()
        if value is None or value is False or value == "":
            continue
        if isinstance(value, dict):
            values[bound.html_name] = msgspec.json.encode(value).decode()
        elif isinstance(value, list):
            values[bound.html_name] = ",".join(map(str, value))
        else:
            values[bound.html_name] = value
    return values


def fields_of(page):
    values = values_of(page.context["adminform"].form)
    if "as_seen" in page.context:
        values["_as_seen"] = page.context["as_seen"]
    for inline in page.context["inline_admin_formsets"]:
        formset = inline.formset
        values |= values_of(formset.management_form)
        for form in formset.initial_forms:
            values |= values_of(form)
    return values


def errors_of(page) -> Any:
    if page.context is None or "adminform" not in page.context:
        return page
    found = dict(page.context["adminform"].form.errors)
    for inline in page.context["inline_admin_formsets"]:
        found |= {f"{inline.formset.prefix}": inline.formset.errors} if any(inline.formset.errors) else {}
    return found


def saved(browser, url, **changes):
    reply = browser.post(url, {**fields_of(browser.get(url)), **changes})
    assert reply.status_code == 302, errors_of(reply)
    return reply


def refused(browser, url, **changes):
    reply = browser.post(url, {**fields_of(browser.get(url)), **changes})
    assert reply.status_code == 200
    return errors_of(reply)


def noted(action):
    return AuditEvent.objects.filter(action=action).latest("id")


def act(browser, name, action, *rows):
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return said_on(browser.post(f"/admin/billing/{name}/", data, follow=True))


def said_on(page):
    return [str(message) for message in page.context["messages"]]
