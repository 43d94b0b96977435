"""The documentation of brands: every page says what rows and tables say, to everybody; no row can break it."""

import html
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import engines, money, prices
from billing.models import Model, Payer, Tier, TierLimit, UsageDay, UsageQuarter
from keys import brands
from keys.models import Brand
from keys.parameters import FIELDS
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.canary import accounts as canary
from portal.docs import pages, parameters, refused, sources, tables
from portal.docs.surface import Surface
from proxy.dialects import DIALECTS
from proxy.fields import Fate
from proxy.refusals import TABLE, Reason, Row
from proxy.requests import RULES
from tests import cast as casting

FILES = Path(__file__).parents[2] / "portal/demo/brands"
HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) `|` {{ request }} \"'&"


def words_of(answer) -> str:
    """What a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


@pytest.fixture
def brand(db, settings):
    found = casting.brand(
        name="Dialogix",
        docs_pages=list(pages.PAGES),
        default_model="aion-v3",
        support_email="help@dialogix.example",
        parameters={"temperature": {"min": 0, "max": 1, "default": 0.7}},
        conversation_days=7,
        splits_reasoning=True,
    )
    settings.DEFAULT_BRAND = found.slug
    tier = Tier.objects.create(brand=found, rank=1, slug="free", name="Free", payer=Payer.INCLUDED, is_default=True)
    TierLimit.objects.create(tier=tier, unit="requests", window="day", amount=1_234)
    for slug, fields in (
        ("aion-v3", {"features": ["chat", "completions", "tools"], "aliases": ["aion-latest"]}),
        ("aion-think", {"is_reasoning": True}),
        ("aion-embed", {"features": ["embeddings"]}),
        ("aion-image", {"images_per_call_max": 1, "extra_fields": ["aspect_ratio", "top_k"]}),
    ):
        model = casting.model(found, slug, **fields)
        prices.set_price(model=model, actor="tests", per_million={"input": "0.20", "output": "0.60"})
    return found


def get(client, name, brand=None, **headers):
    return client.get(f"/{brand.slug}/docs/{name}/" if brand else f"/docs/{name}/", **headers)


@pytest.mark.parametrize("name", pages.PAGES)
def test_every_page_is_there_for_everybody(client, brand, name):
    answer = get(client, name)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert f"<h1>{pages.PAGES[name].title}</h1>" in text
    assert "zqtag" not in text
    assert "{{" not in text
    assert "{%" not in text


def test_a_brand_selects_and_orders_its_pages(client, brand):
    brand.docs_pages = ["security", "quick-start"]
    brand.save()
    assert client.get("/docs/")["Location"] == "/docs/security/"
    text = get(client, "security").content.decode()
    assert re.findall(r'docs-number">(\d\d)</span>([^<]+)</a>', text)[:2] == [
        ("01", "Security"),
        ("02", "Quick start"),
    ]
    assert get(client, "pricing").status_code == 404
    assert get(client, "no-such-page").status_code == 404


def test_a_brand_that_names_no_pages_has_the_usual_ones(client, house):
    assert client.get("/docs/")["Location"] == "/docs/quick-start/"
    for page in pages.pages_of(house):
        assert get(client, page.name).status_code == 200


def test_writers_refuse_a_page_that_is_not_there(house):
    with pytest.raises(ValidationError, match="There is no page 'no-such-page'; there are authentication"):
        brands.change(brand=house, actor="tests", docs_pages=["quick-start", "no-such-page"])


def test_writers_refuse_a_dialect_that_is_not_there(house):
    with pytest.raises(ValidationError, match="There is no dialect 'nope'; there are aimichat"):
        brands.change(brand=house, actor="tests", dialect="nope")


FOURTEEN = (
    *("quick-start", "authentication", "error-codes", "pricing", "contact-us", "quality-of-service", "examples"),
    *("caching-and-cost", "model-verification", "ide-integration", "model-quality", "network", "model-naming"),
    "image-generation",
)


@pytest.mark.django_db
@pytest.mark.parametrize("file", sorted(FILES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_brand_of_the_demo_has_what_every_brand_is_to_have(client, file):
    engines.register(name="demo", kind="vllm", base_url="http://127.0.0.1:9/v1", actor="tests")
    import_brand(read(file.read_bytes()), actor="tests")
    brand = Brand.objects.get(slug=file.stem)
    for name in (*pages.USUAL, "contact-us") if file.stem == "aione" else pages.USUAL:
        assert get(client, name, brand).status_code == 200, name
    for name in ("quick-start", "contact-us") if file.stem == "aione" else ("quick-start",):
        assert f'href="/{file.stem}/docs/security/">' in get(client, name, brand).content.decode().split("<h1>")[1]


def test_the_menu_of_aione_begins_with_its_documents_fourteen():
    named = read((FILES / "aione.toml").read_bytes()).docs_pages
    assert tuple(named[:14]) == FOURTEEN
    assert named[14:] == ["endpoints", "tiers-and-limits", "changelog", "security", "webhooks", "management-api"]


def test_the_readers_own_base_url_is_in_every_example(client, brand):
    other = casting.brand(name="Axione", base_paths=["/api/v1"], hosts=["axione.example"])
    casting.model(other, "openai/gpt-4o")
    assert f"curl http://testserver/{other.slug}/api/v1/chat/completions" in words_of(get(client, "quick-start", other))
    here = client.get("/docs/quick-start/", headers={"host": "axione.example"})
    assert "curl http://axione.example/api/v1/chat/completions" in words_of(here)


def test_a_price_that_changes_changes_the_page(client, brand):
    assert "$0.20" in words_of(get(client, "pricing"))
    model = Model.objects.get(slug="aion-v3")
    per_million = {"input": "7.77", "output": "8.88", "cache_read": "0.11"}
    prices.set_price(model=model, actor="tests", per_million=per_million, confirmed_reason="to be seen")
    text = words_of(get(client, "pricing"))
    assert {"$7.77", "$8.88", "$0.11", "Cached input"} <= set(re.findall(r"\$\d+\.\d+|Cached input", text))
    cost = (4_000 - 3_840) * 7_770 + 3_840 * 110 + 200 * 8_880  # nanos at these rates
    assert money.display(cost, "USD") in words_of(get(client, "caching-and-cost")).split()


def test_a_price_for_one_customer_is_nobody_elses_business(client, brand, cast):
    model = Model.objects.get(slug="aion-v3")
    own = casting.organization(brand)
    per_million = {"input": "0.01", "output": "0.02"}
    prices.set_price(model=model, organization=own, actor="tests", per_million=per_million, confirmed_reason="a friend")
    assert "$0.01" not in words_of(get(client, "pricing"))


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_refusal_is_told_in_the_dialects_words(client, brand, dialect):
    Brand.objects.filter(pk=brand.pk).update(dialect=dialect)
    text = words_of(get(client, "error-codes"))
    surface = Surface(Brand.objects.get(pk=brand.pk), base_url="http://testserver/v1", now=timezone.now())
    shown = 0
    for reason in TABLE:
        if refused._concerns(surface, reason):
            found = refused.sample(surface, reason)
            assert f"{found.status} {refused._words(surface, found)[0]}" in text, reason
            shown += 1
    assert shown > 40
    body = surface.dialect.error(refused.sample(surface, Reason.INVALID_KEY), surface.record)
    assert json.dumps(body, indent=2, ensure_ascii=False) in html.unescape(
        get(client, "authentication").content.decode()
    )


def test_a_row_of_the_table_of_refusals_that_changes_changes_the_page(client, brand, monkeypatch):
    changed = Row(418, "teapot_error", "short_and_stout", "The model '{model}' is a teapot.")
    monkeypatch.setitem(TABLE, Reason.MODEL_NOT_FOUND, changed)
    text = words_of(get(client, "error-codes"))
    assert "418 short_and_stout teapot_error The model 'no-such-model' is a teapot." in text


def test_ranges_and_defaults_of_the_brand_are_told(client, brand):
    text = words_of(get(client, "endpoints"))
    assert "from 0 to 1; default 0.7" in text
    Brand.objects.filter(pk=brand.pk).update(parameters={"top_p": {"min": 0.25}, "n": {"values": [1, 2]}})
    text = words_of(get(client, "endpoints"))
    assert "from 0.25 to 1" in text
    assert "one of 1, 2" in text
    assert "default 0.7" not in text


def test_tiers_and_their_headers_are_told(client, brand):
    text = words_of(get(client, "tiers-and-limits"))
    assert "1,234 requests per day" in text
    assert "x-ratelimit-limit-requests: 1234" in text
    Tier.objects.filter(brand=brand).update(is_listed=False)
    assert "1,234 requests per day" not in words_of(get(client, "quality-of-service"))


def test_what_a_day_and_a_month_reset_to_are_the_brands_own_midnights(client, brand):
    """2026-12-31 at 23:30 UTC: in Kolkata it is 05:00 of the new year already."""
    Brand.objects.filter(pk=brand.pk).update(dialect="aimichat", timezone="Asia/Kolkata")
    now = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    surface = Surface(Brand.objects.get(pk=brand.pk), base_url="http://testserver/v1", now=now)
    assert "x-ratelimit-reset: 2027-01-01T18:30:00" in refused.limit_headers(surface)
    assert '"resetAt": "2027-01-01T18:30:00' in refused.example_body(surface, "insufficient_quota")
    TierLimit.objects.filter(tier__brand=brand).update(window="month")
    assert "x-ratelimit-reset: 2027-01-31T18:30:00" in refused.limit_headers(surface)
    assert '"resetAt": "2027-01-31T18:30:00' in refused.example_body(surface, "insufficient_quota")


def test_only_the_schemes_and_scopes_of_the_brand_are_told(client, brand):
    text = words_of(get(client, "authentication"))
    assert "X-API-Key: ak-your-api-key" in text
    assert "?api_key=ak-your-api-key" in text
    Brand.objects.filter(pk=brand.pk).update(schemes=["bearer"], key_scopes=["chat"], is_plain_chat=True)
    text = words_of(get(client, "authentication"))
    assert "X-API-Key" not in text
    assert "embeddings" not in text
    assert "/embeddings" not in words_of(get(client, "endpoints"))


def test_everything_there_is_is_described(brand):
    assert tables.every_endpoint_is_described()
    known = {name for rules in RULES.values() for name, rule in rules.items() if rule.fate is not Fate.IDLE}
    assert known <= parameters.SAID.keys()
    assert set(FIELDS) - {"repetition_penalty", "max_output_tokens"} <= parameters.SAID.keys()


@pytest.mark.parametrize("name", pages.PAGES)
def test_no_row_can_break_a_page(client, brand, name):
    Brand.objects.filter(pk=brand.pk).update(
        name=HOSTILE, default_model=HOSTILE[:100], key_prefix="a<b", support_email='"<img src=x>"@example.com'
    )
    Model.objects.filter(brand=brand).update(description=HOSTILE, name=HOSTILE, weights=HOSTILE, aliases=[HOSTILE])
    Tier.objects.filter(brand=brand).update(name=HOSTILE[:80], label="<b>")
    answer = get(client, name)
    text = answer.content.decode()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert 'href="javascript:' not in text
    assert "WSGIRequest" not in text


@pytest.mark.parametrize("name", pages.PAGES)
def test_pages_need_no_more_than_the_policy_allows(client, brand, name):
    answer = get(client, name)
    assert "unsafe" not in answer["Content-Security-Policy"]
    text = answer.content.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:data-copy|aria-controls|aria-labelledby)="([^"]+)"', text):
        assert target in ids
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert anchor in ids


def test_links_between_pages_lead_somewhere(client, brand):
    found: dict[str, str] = {}
    for name in pages.PAGES:
        found |= dict.fromkeys(re.findall(r'href="(/docs/[^"]*)"', get(client, name).content.decode()), name)
    assert len(found) > len(pages.PAGES)
    for path, name in found.items():
        assert client.get(path, follow=True).status_code == 200, f"{path} on {name}"


def test_markdown_meets_only_our_own_text():
    text = sources.template_text(
        "Hello {{ brand.name }}, {% if x|default:\"*a*\" %}*yes*{% endif %}\n\n{% facts 'x' %}\n"
    )
    assert '<p>Hello {{ brand.name }}, {% if x|default:"*a*" %}<em>yes</em>{% endif %}</p>' in text
    assert "\n{% facts 'x' %}" in text
    assert "&lt;b&gt;" in sources.template_text("<b>raw</b>")


def test_what_was_measured_is_told_without_the_houses_own_calls(client, brand):
    model = Model.objects.get(slug="aion-v3")
    ours = casting.organization(brand, slug=canary.SLUG)
    theirs = casting.organization(brand)
    now = timezone.now()
    for organization, failures, first in ((theirs, 25, [0] * 6 + [100]), (ours, 0, [100])):
        values = {
            "brand_id": brand.pk,
            "organization_id": organization.pk,
            "key_id": 1,
            "model_id": model.pk,
            "end_reason": "stop",
            "requests": 100,
            "failures": failures,
            "first_token_histogram": first,
            "speed_histogram": [0] * 5 + [100],
        }
        UsageQuarter.objects.create(starts_at=now, **values)
        UsageDay.objects.create(day=now.date(), **values)
    text = words_of(get(client, "quality-of-service"))
    assert text.count("aion-v3 75.00 % 87 ms 98 ms 17 15") == 2
