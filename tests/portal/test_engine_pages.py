"""An engine is added by its address, looked at and switched: what operators see before anything is kept."""

from __future__ import annotations

import socket
from typing import Any

import orjson
import pytest

from billing import engine_counters, engines
from billing.models import Engine, EngineReading, Model, ModelEngine, Rate
from keys import sealing, staff
from keys.models import AuditEvent
from portal import engine_watch
from portal.views import engine_intake
from tests import cast as casting
from tests.inference import demo_engine
from tests.proxy.test_probe import serving

pytestmark = pytest.mark.django_db(transaction=True)
ADD = "/admin/engines/add/"


@pytest.fixture(scope="module")
def inference():
    with demo_engine(api_key="engine-secret") as running:
        yield running


@pytest.fixture
def chief(cast):
    return casting.browser_of(casting.person("chief", is_staff=True, is_superuser=True))


def asked(chief, cast, url: str, **more: Any) -> Any:
    return chief.post(ADD, {"url": url, "brand": cast.brand.pk, **more})


def test_an_address_is_asked_shown_and_kept_with_its_models(chief, cast, inference):
    url = f"{inference.base_url}/chat/completions"  # as copied from a curl command
    page = asked(chief, cast, url, api_key="engine-secret", models="demo-chat, demo-embed demo-broken")
    shown = page.content.decode()
    for text in (">vllm<", "counts tokens", "stops when a client hangs up", "demo-broken</code> answered 500"):
        assert text in shown
    assert "engine-secret" not in shown
    assert Engine.objects.count() == 0, "nothing is kept yet"
    sent = {"found": page.context["token"], "m0-take": "on", "m0-slug": "chat-1", "m0-input": "0.2"}
    sent |= {"m1-take": "on", "m1-slug": "embed"}
    again = chief.post(ADD, sent).content.decode()
    assert "Give the price of input and of output" in again
    assert Engine.objects.count() == 0
    done = chief.post(ADD, sent | {"m0-output": "0.4"}, follow=True)
    said = [str(message) for message in done.context["messages"]]
    engine = Engine.objects.get()
    assert (engine.kind, engine.brand, engine.base_url) == ("vllm", cast.brand, inference.base_url)
    assert sealing.open_text(bytes(engine.api_key_sealed or b"").decode()) == "engine-secret"
    assert set(ModelEngine.objects.values_list("model__slug", "name_there")) == {
        ("chat-1", "demo-chat"),
        ("embed", "demo-embed"),
    }
    assert Rate.objects.get().model.slug == "chat-1"
    assert said[1] == "Model chat-1 is drafted."
    assert f"/admin/billing/rate/add/?model={Model.objects.get(slug='embed').pk}" in said[2]
    assert AuditEvent.objects.get(action="engine.registered").address == "127.0.0.1"
    assert "well <small>" in done.content.decode()
    assert "Ask the engine again" in chief.post(ADD, sent, follow=True).content.decode(), "the button works once"
    assert Engine.objects.count() == 1


def test_what_a_writer_refuses_stands_at_its_model_and_nothing_is_kept(chief, cast, inference):
    page = asked(chief, cast, inference.root, api_key="engine-secret", models="demo-chat")
    sent = {"found": page.context["token"], "m0-take": "on", "m0-slug": "two words"}
    assert "without blanks" in chief.post(ADD, sent).content.decode()
    assert (Engine.objects.count(), Model.objects.count()) == (0, 0)
    assert chief.post(ADD, sent | {"m0-slug": "one"}).status_code == 302, "what was found is still there"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, b"<html>"), "no list of models"),
        ((401, {"error": {"message": "no"}}), "refuses the key"),
        ((200, {"data": []}), "lists no models"),
    ],
)
def test_a_wrong_engine_is_answered_with_what_to_do(chief, cast, answer, says):
    with serving(lambda _path, _body: answer) as url:
        assert says in asked(chief, cast, url).context["form"].errors["url"][0]


def test_a_wrong_address_is_named_and_one_that_never_answers_is_given_up(chief, cast, monkeypatch):
    for url, says in (("ftp://x", "no http"), ("http://127.0.0.1:9", "cannot be reached"), ("http://x:y", "no http")):
        assert says in asked(chief, cast, url).context["form"].errors["url"][0]
    monkeypatch.setattr(engine_intake, "SECONDS_MAX", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (said,) = asked(chief, cast, f"http://127.0.0.1:{silent.getsockname()[1]}").context["form"].errors["url"]
    assert "was not done within 1 s: it was asked GET /models" in said


def known(cast, inference, **fields: Any) -> Engine:
    engine = engines.register(
        name="gpu", kind="vllm", base_url=inference.base_url, api_key="engine-secret", actor="test", **fields
    )
    model = casting.model(cast.brand, "chat-1")
    engines.set_route(model=model, engine=engine, name_there="demo-chat", actor="test")
    return engine


def test_an_engine_is_drained_brought_back_and_asked_anew(chief, cast, inference):
    engine = known(cast, inference)
    url = f"/admin/engines/{engine.pk}/"
    for act, state in (("drain", "draining"), ("down", "down"), ("live", "live")):
        chief.post(url, {"act": act})
        engine.refresh_from_db()
        assert engine.state == state
    page = chief.post(url, {"act": "probe"}, follow=True)
    assert "running_usage &#x27;&#x27; → &#x27;continuous_usage_stats&#x27;" in page.content.decode()
    engine.refresh_from_db()
    assert engine.capabilities["tokenize"] == "vllm"
    again = chief.post(url, {"act": "probe"}, follow=True)
    assert [str(message) for message in again.context["messages"]] == ["Asked anew: everything is as it was."]
    inference.engine.control.update({"loading": True})
    try:
        assert "not ready <small>HTTP 503" in chief.get(url).content.decode()
        assert "Nothing is changed." in chief.post(url, {"act": "probe"}, follow=True).content.decode()
    finally:
        inference.engine.control.update({"loading": False})


def test_the_list_says_how_engines_are_and_how_their_counters_compare(chief, cast, inference, settings, tmp_path):
    engine = known(cast, inference)
    reading = engine_counters.Reading(0, 0, True, 0, None)
    engine_counters.keep({inference.root: reading}, Engine.objects.get().created_at)
    EngineReading.objects.update(boundary="agreed")
    settings.VAR_DIR = tmp_path
    engine_watch._read.cache_clear()
    page = chief.get("/admin/billing/engine/").content.decode()
    assert "no worker here" in page
    assert f"agreed {engine.created_at:%m-%d %H:%M}" in page
    (tmp_path / "metrics").mkdir()
    told = {"in_flight": {str(engine.pk): 3}, "unreachable": [], "healthy": {str(engine.pk): ["gpu", True]}}
    for number, changes in enumerate(({}, {"unreachable": [engine.pk]})):
        gauges = {"pid": 1, "gauges": told | changes}
        (tmp_path / "metrics" / f"{number}.json").write_bytes(orjson.dumps(gauges))
        engine_watch._read.cache_clear()
        page = chief.get("/admin/billing/engine/").content.decode()
        assert f"{(number + 1) * 3} of 256" in page
        assert f'/admin/engines/{engine.pk}/">{("well", "unreachable")[number]}</a>' in page


def test_a_brands_staff_switch_their_engine_and_see_no_other(cast, inference):
    engine, shared = (
        known(cast, inference, brand=cast.brand),
        engines.register(name="all", kind="vllm", base_url="http://127.0.0.1:9/v1", actor="test"),
    )
    for role, state in (("support", "live"), ("manager", "draining")):
        person = casting.person(role)
        staff.appoint(user=person, brand=cast.brand, role=role, actor="test")
        browser = casting.browser_of(person)
        assert "Ask anew" not in browser.get(f"/admin/engines/{engine.pk}/").content.decode()
        browser.post(f"/admin/engines/{engine.pk}/", {"act": "drain"})
        engine.refresh_from_db()
        assert engine.state == state
        assert browser.get(f"/admin/engines/{shared.pk}/").status_code == 404
        assert browser.get(ADD).status_code == 403
    assert browser.post(f"/admin/engines/{engine.pk}/", {"act": "probe"}).status_code == 403
