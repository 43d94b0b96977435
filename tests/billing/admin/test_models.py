"""Models and their routes, changed through the writers."""

from __future__ import annotations

import pytest

from billing import engines
from billing.models import (
    Engine,
    Model,
    ModelEngine,
)
from keys.models import AuditEvent
from tests import cast
from tests.billing.admin.forms import noted, refused, saved

pytestmark = pytest.mark.django_db


def test_model_form_changes_through_the_writer(browser, who):
    url = f"/admin/billing/model/{who.model.pk}/change/"
    saved(browser, url, state="maintenance", maintenance_message="back at 9", aliases="m,n")
    model = Model.objects.get(pk=who.model.pk)
    assert (model.state, model.aliases) == ("maintenance", ["m", "n"])
    assert noted("model.changed").after == {
        "aliases": ["m", "n"],
        "state": "maintenance",
        "maintenance_message": "back at 9",
    }
    assert not AuditEvent.objects.filter(action="model.route_removed").exists()
    other = Model.objects.exclude(pk=model.pk).latest("pk")
    assert "aliases" in refused(browser, url, aliases=other.slug)
    assert "modalities" in refused(browser, url, modalities='{"image_url": "many"}')


def test_model_form_creates_with_a_route(browser, who):
    saved(
        browser,
        "/admin/billing/model/add/",
        brand=who.brand.pk,
        slug="fresh",
        name="Fresh",
        context_length=4096,
        default_max_tokens=256,
        max_completion_tokens=1024,
        **{"routes-TOTAL_FORMS": 1, "routes-0-engine": Engine.objects.get().pk, "routes-0-name_there": "fresh-there"},
    )
    fresh = Model.objects.get(slug="fresh")
    assert fresh.default_max_tokens == 256
    assert fresh.routes.get().name_there == "fresh-there"
    assert noted("model.route_set").after == {"engine": "gpu", "name_there": "fresh-there"}
    assert noted("model.created").subject == "fresh"


def test_routes_are_changed_moved_and_removed_through_the_writers(browser, who):
    url = f"/admin/billing/model/{who.model.pk}/change/"
    route = ModelEngine.objects.get()
    saved(browser, url, **{"routes-0-name_there": "renamed"})
    assert ModelEngine.objects.get().name_there == "renamed"
    second = engines.register(name="second", kind="vllm", base_url="http://second/v1", actor="test")
    saved(browser, url, **{"routes-0-engine": second.pk})
    assert ModelEngine.objects.get().engine == second
    elsewhere = engines.register(
        name="theirs", kind="vllm", base_url="http://theirs/v1", brand=cast.brand(), actor="test"
    )
    errors = refused(browser, url, **{"routes-0-engine": elsewhere.pk})
    assert "serves another brand only" in str(errors)
    route = ModelEngine.objects.get()
    saved(browser, url, **{"routes-0-DELETE": "on"})
    assert not ModelEngine.objects.exists()
    assert noted("model.route_removed").before == {"engine": "second", "name_there": route.name_there}
