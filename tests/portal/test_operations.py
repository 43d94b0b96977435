"""What operators do every morning, and that no list of the site asks a question per row."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing import reconcile, tasks
from billing.models import DeadLetter, Engine, UsageDay
from billing.payment_models import StripeEvent
from keys import staff
from keys.models import ApiKey, Brand, Organization, User
from portal import jobs
from portal.celery import SCHEDULE
from tests import cast
from tests.marked import Rows

pytestmark = pytest.mark.django_db

admin.autodiscover()
PAGES = list(admin.site._registry)
MORE = 3


@pytest.fixture
def rows(settings):
    made = Rows("aardvark")
    settings.DEFAULT_BRAND = made[Brand].slug
    return made


@pytest.fixture
def chief(rows):
    return cast.browser_of(cast.person("chief", is_staff=True, is_superuser=True))


def fill(rows: Rows) -> None:
    for model in (*PAGES, *apps.get_app_config("billing").get_models(), *apps.get_app_config("keys").get_models()):
        rows[model]


def test_no_list_asks_a_question_per_row(rows, chief):
    """The same number of questions for a list with one brand's rows and with those of four."""

    def asked() -> dict[str, int]:
        counts = {}
        for model in PAGES:
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
            with CaptureQueriesContext(
                connection,
            ) as queries:
                chief.get(url)
            counts[url] = len(queries)
        return counts

    fill(rows)
    fill(Rows("badger"))
    chief.get("/admin/")  # what is looked up once per process
    before = asked()
    for number in range(MORE):
        fill(Rows(f"camel{'x' * number}"))
    after = asked()
    assert {url: (before[url], after[url]) for url in before if after[url] > before[url]} == {}


def test_the_morning_page_counts_today_by_brand(rows, chief):
    day = rows[UsageDay]
    today = {"day": timezone.now().date(), "cost_nanos": 1_500_000_000, "requests": 8, "failures": 2}
    UsageDay.objects.filter(pk=day.pk).update(**today)
    page = chief.get("/admin/")
    (found,) = [line for line in page.context["days"] if line.brand == rows[Brand]]
    assert (found.revenue_nanos, found.requests, found.failed_percent, found.new) == (1_500_000_000, 8, "25.0", 1)
    assert "$1.50" in page.content.decode()


def test_the_morning_page_names_what_is_wrong_and_not_to_everybody(rows, chief):
    engine, model = rows[Engine], rows.of("billing.Model")
    rows.of("billing.ModelEngine")
    rows[DeadLetter]
    Engine.objects.filter(pk=engine.pk).update(state="draining")
    said = " ".join(finding.says for finding in chief.get("/admin/").context["findings"])
    for expected in (
        f"Engine {engine.name} is draining",
        f"Model {model.slug} of",
        "not be written down",
        "never",
    ):
        assert expected in said
    worker = cast.person("worker")
    staff.appoint(user=worker, brand=rows[Brand], role="manager", actor="test")
    page = cast.browser_of(worker).get("/admin/")
    assert page.context["findings"] == []
    assert "/admin/jobs/" not in page.content.decode()


@pytest.mark.parametrize("what", ["public id", "name", "hint", "last four", "mail", "key id", "request id"])
def test_search_finds_by_what_a_customer_quotes(rows, chief, what):
    organization, key, user = rows[Organization], rows[ApiKey], rows[User]
    ApiKey.objects.filter(pk=key.pk).update(hint="ak-…Zz9Q")
    call = rows.of("billing.UsageEvent").pk
    asked, url = {
        "public id": (organization.public_id, f"/admin/keys/organization/{organization.pk}/change/"),
        "name": (organization.name.upper(), f"/admin/keys/organization/{organization.pk}/change/"),
        "hint": ("ak-…Zz9Q", f"/admin/keys/apikey/{key.pk}/change/"),
        "last four": ("Zz9Q", f"/admin/keys/apikey/{key.pk}/change/"),
        "mail": (user.email, f"/admin/keys/user/{user.pk}/change/"),
        "key id": (key.public_id, f"/admin/keys/apikey/{key.pk}/change/"),
        "request id": (str(call), f"/admin/support/?id={call}"),
    }[what]
    assert chief.get("/admin/search/", {"q": asked})["Location"] == url


def test_search_lists_several_and_says_when_nothing_is_there(rows, chief):
    rows[Organization], rows[User]
    page = chief.get("/admin/search/", {"q": "aardvark"}).content.decode()
    assert rows[Organization].name in page
    assert rows[User].email in page
    assert "Nothing of your brands" in chief.get("/admin/search/", {"q": "nobody-there"}).content.decode()


def test_jobs_say_when_each_ran_and_what_waits(rows, chief):
    page = chief.get("/admin/jobs/").content.decode()
    assert page.count(">not yet<") == len(SCHEDULE)
    name = "billing.tasks.forget_old_alerts"
    tasks.forget_old_alerts.apply()
    first = chief.get("/admin/jobs/").content.decode()
    assert first.count(">not yet<") == len(SCHEDULE) - 1
    assert "success" in first
    (ran,) = [job for job in jobs.runs(SCHEDULE, timezone.now() + timedelta(days=1)) if job.name == name]
    assert ran.is_late


@pytest.mark.django_db(transaction=True)  # a comparison reads within a transaction of its own
def test_the_books_are_compared_by_a_button(rows, chief, redis_connection):
    assert "never done" in chief.get("/admin/reconcile/").content.decode()
    page = chief.post("/admin/reconcile/").content.decode()
    assert "The books agree." in page
    last = reconcile.last(redis_connection)
    assert last is not None
    assert last.differences == 0
    rows[DeadLetter]
    assert "dead letter" in chief.post("/admin/reconcile/").content.decode().lower()


def test_an_event_of_stripe_is_tried_again_at_once(rows, chief):
    event = rows[StripeEvent]
    later = timezone.now() + timedelta(days=1)
    StripeEvent.objects.filter(pk=event.pk).update(kind="refund.created", due_at=later, error="no answer")
    chief.post("/admin/billing/stripeevent/", {"action": "try_again", "_selected_action": [event.pk]})
    event.refresh_from_db()
    assert event.error == ""
    assert event.due_at < timezone.now()


def test_a_customers_page_says_what_it_may_spend_and_where_to_look(rows, chief):
    organization = rows[Organization]
    page = chief.get(f"/admin/keys/organization/{organization.pk}/change/").content.decode()
    assert "available (" in page
    for word in ("ledger", "give credit", "adjust or refund"):
        assert f">{word}</a>" in page
    assert ">Suspend: refuse its calls</button>" in page
