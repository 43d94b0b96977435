"""A brand as one file: what it makes, that making it again changes nothing, and what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from billing import engines, ladder, prices
from billing.models import Engine, Model, Rate, Tier
from billing.snapshot import Capabilities
from keys import brands, issuing, organizations
from keys.models import AuditEvent, Brand, Publication
from portal.brandfile.exporting import as_text, brand_file
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.brandfile.structure import BrandFileWrong

FILES = sorted((Path(__file__).parents[2] / "portal/demo/brands").glob("*.toml"))
ACTOR = "test"
SMALL = """
slug = "acme"
name = "Acme"
key_prefix = "acme-"

[engines.gpu-1]
kind = "vllm"
base_url = "http://gpu-1:8000/v1"

[[models]]
id = "small"
context_length = 8_192
features = ["chat"]
rates = { input = "0.20", output = "0.40" }
routes = { gpu-1 = "org/small" }

[[tiers]]
slug = "free"
name = "Free"
payer = "included"
is_default = true
models = ["small"]
limits = [{ unit = "requests", window = "day", amount = 100 }, { unit = "concurrent", amount = 4 }]
"""
NO_DIALECT = "dialect: There is no dialect 'nope'; there are aimichat, aionlabs, axione, dialogix, openai."
pytestmark = pytest.mark.django_db


def demo_engine() -> Engine:
    return engines.register(name="demo", kind="vllm", base_url="http://127.0.0.1:9/v1", actor=ACTOR)


def bring(text: str) -> list[str]:
    return import_brand(read(text.encode()), actor=ACTOR)


def refusals(text: str) -> list[str]:
    with pytest.raises(BrandFileWrong) as refused:
        bring(text)
    return refused.value.problems


def everything() -> list[object]:
    """All that an import may write, with versions, trail and publications."""
    tables = (Brand, Engine, Model, Rate, Tier, AuditEvent, Publication)
    rows = [list(table.objects.order_by("pk").values()) for table in tables]
    routes = list(Model.engines.through.objects.order_by("pk").values())
    limits = [list(tier.limits.order_by("pk").values()) for tier in Tier.objects.order_by("pk")]
    return [*rows, routes, limits]


def test_there_is_a_file_for_each_of_the_five():
    assert [file.stem for file in FILES] == ["aimichat", "aione", "aionlabs", "axione", "dialogix"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_importing_twice_changes_nothing_and_exporting_gives_the_same_brand(file):
    demo_engine()
    text = file.read_bytes()
    assert f"brand {file.stem}: new" in import_brand(read(text), actor=ACTOR)
    before = everything()
    assert import_brand(read(text), actor=ACTOR) == []
    assert everything() == before
    exported = as_text(brand_file(Brand.objects.get(slug=file.stem)))
    assert import_brand(read(exported.encode()), actor=ACTOR) == []
    assert everything() == before
    assert as_text(brand_file(Brand.objects.get(slug=file.stem))) == exported


def test_a_file_makes_the_rows_that_it_says():
    bring(SMALL)
    brand = Brand.objects.get(slug="acme")
    model = Model.objects.get(brand=brand)
    rate = Rate.objects.get(model=model)
    route = model.routes.select_related("engine").get()
    assert (model.slug, model.max_completion_tokens, model.default_max_tokens) == ("small", 8192, 4096)
    assert (rate.input_picos, rate.output_picos, rate.cache_read_picos) == (200_000, 400_000, None)
    assert (route.engine.name, route.name_there) == ("gpu-1", "org/small")
    tier = Tier.objects.get(brand=brand)
    assert (tier.rank, tier.is_default, tier.model_slugs) == (1, True, ["small"])
    assert sorted(tier.limits.values_list("unit", "window", "amount")) == [
        ("concurrent", "minute", 4),
        ("requests", "day", 100),
    ]


def test_a_changed_file_changes_what_differs_and_keeps_history():
    bring(SMALL)
    changed = SMALL.replace('"0.20"', '"0.30"').replace("amount = 100", "amount = 200").replace("8_192", "16_384")
    said = bring(changed)
    assert said == [
        "model small: context_length, max_completion_tokens",
        "model small: input 0.30, output 0.40 USD per million tokens",
        "tier free: 200 requests per day and organization",
    ]
    old, new = Rate.objects.order_by("effective_from")
    assert (old.input_picos, new.input_picos) == (200_000, 300_000)
    assert old.effective_until == new.effective_from


def test_what_a_file_does_not_name_is_taken_away_where_it_may_be():
    bring(SMALL)
    brand = Brand.objects.get(slug="acme")
    extra = engines.create_model(brand=brand, slug="extra", context_length=100, actor=ACTOR)
    without = SMALL.replace(', { unit = "concurrent", amount = 4 }', "").replace(
        'rates = { input = "0.20", output = "0.40" }\n', ""
    )
    said = bring(without.replace('routes = { gpu-1 = "org/small" }\n', ""))
    assert said == [
        "model extra: retired, as the file does not name it",
        "model small: no more on gpu-1",
        "model small: its price has ended",
        "tier free: no more 4 concurrent per organization",
    ]
    extra.refresh_from_db()
    assert extra.state == Model.State.RETIRED
    assert not prices.in_force(Rate.objects.all()).exists()


def test_tiers_may_change_places():
    two = SMALL + '\n[[tiers]]\nslug = "pro"\nname = "Pro"\nmonthly_price = "9.90"\n'
    bring(two)
    head, free, pro = two.split("[[tiers]]")
    bring("[[tiers]]".join([head, pro + "\n", free]))
    assert list(Tier.objects.order_by("rank").values_list("slug", "rank")) == [("pro", 1), ("free", 2)]
    assert Tier.objects.get(slug="pro").monthly_price_nanos == 9_900_000_000


def test_the_default_tier_may_change_and_who_pays_with_its_limits():
    two = (
        SMALL
        + '\n[[tiers]]\nslug = "pro"\nname = "Pro"\npayer = "included_then_prepaid"\n'
        + ('limits = [{ unit = "tokens", window = "month", amount = 1_000, is_allotment = true }]\n')
    )
    bring(two)
    other = two.replace("is_default = true\n", "").replace(
        'payer = "included_then_prepaid"\n', 'payer = "prepaid"\nis_default = true\n'
    )
    bring(other.replace(", is_allotment = true", ""))
    pro = Tier.objects.get(slug="pro")
    assert (pro.is_default, pro.payer, pro.limits.get().is_allotment) == (True, "prepaid", False)
    assert not Tier.objects.get(slug="free").is_default


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "Acme"\n', 'name = "Acme\n', "line 3: Illegal character '\\n' (column 13)"),
        ('key_prefix = "acme-"', 'key_prefix = "acme-', "line 4: Illegal character '\\n' (column 20)"),
        ("[[tiers]]", "[[tiers]", "line 17: Expected ']]' at the end of an array declaration (column 8)"),
        ('slug = "acme"\n', 'slug = "acme"\nslug = "twice"\n', "line 3: Cannot overwrite a value (column 15)"),
        ('slug = "acme"\n', 'slug = "acme"\nkolour = 1\n', "kolour: no such key"),
        ('slug = "acme"\n', "", "slug: missing"),
        ('slug = "acme"', 'slug = "admin"', "slug: This word is taken by the house."),
        ("context_length = 8_192", "context_length = 8_192\ncontext = 1", "models[0].context: no such key"),
        ("context_length = 8_192", 'context_length = "8k"', "models[0].context_length: expected `int`, got `str`"),
        ("context_length = 8_192\n", "", "models[0].context_length: missing"),
        ('id = "small"', 'id = "small"\naliases = ["a b"]', "models[0].aliases: A name has"),
        ('"0.20"', "0.20", "models[0].rates.input: a price per million tokens is given"),
        ('"0.20"', '"0.0000001"', "models[0].rates.input: a price per million tokens has at most 6 decimals"),
        ('input = "0.20", ', "", "models[0].rates: Give the price"),
        ('input = "0.20"', 'inputs = "0.20"', "models[0].rates.inputs: no such key"),
        ("gpu-1 = ", "gpu-2 = ", "models[0].routes.gpu-2: there is no engine gpu-2; describe it in [engines.gpu-2]"),
        ('"http://gpu-1:8000/v1"', '"gpu-1"', "engines.gpu-1.base_url: An http(s) address"),
        ('kind = "vllm"', 'kind = "magic"', "engines.gpu-1.kind: invalid enum value 'magic'"),
        ('models = ["small"]', 'models = ["large"]', "tiers[0].models: No such model: large."),
        ("amount = 100", "amount = -1", "tiers[0].limits[0].amount: from 0 to 9007199254740991"),
        ("amount = 100", 'amount = "100"', "tiers[0].limits[0].amount: a whole number of requests"),
        ('unit = "requests", window = "day"', 'unit = "requests"', "tiers[0].limits[0].window: one of minute"),
        ('unit = "requests", window = "day", amount = 100', 'unit = "nanos", window = "day", amount = "5"', "tiers[0]"),
        ('name = "Acme"', 'name = "Acme"\ndefault_model = "none"', "default_model: 'none'"),
        ('name = "Acme"', 'name = "Acme"\nmodel_id_pattern = "[a-z]+/[a-z]+"', "models[0].id: small is not of"),
        ('name = "Acme"', 'name = "Acme"\nmodel_id_pattern = "("', "model_id_pattern: Not a regular expression"),
        ('name = "Acme"', 'name = "Acme"\nkey_scopes = ["chat", "chats"]', "key_scopes: Choose from: chat"),
        ('name = "Acme"', 'name = "Acme"\ndocs_pages = ["stop"]', "docs_pages: There is no page 'stop'"),
        ('name = "Acme"', 'name = "Acme"\ndialect = "nope"', NO_DIALECT),
        ('name = "Acme"', 'name = "Acme"\nsign_up_grant = 5', "sign_up_grant: an amount is"),
        ('name = "Acme"', 'name = "Acme"\ntheme = { accent = "red" }', 'theme.accent: A colour like "#1e7f6e".'),
        ('name = "Acme"', 'name = "Acme"\ntheme = { acent = "#112233" }', "theme.acent: Only accent."),
        ('name = "Acme"', 'name = "Acme"\nparameters.n = { min = 2, max = 1 }', "parameters.n.min: 2 is above max, 1"),
        ('name = "Acme"', 'name = "Acme"\nparameters.n = { max = 1, default = 2 }', "parameters.n.default: 2 is"),
        ('name = "Acme"', 'name = "Acme"\nparameters.n = { maximum = 1 }', "parameters.n.maximum: Only min, max"),
        ('name = "Acme"', 'name = "Ac\\u0000me"', "name: a control character"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_place_and_reason(old, new, problem):
    assert SMALL.count(old) >= 1
    (found,) = refusals(SMALL.replace(old, new, 1))
    assert found.startswith(problem)
    assert not Brand.objects.exists()
    assert not Engine.objects.exists()


def test_all_problems_of_meaning_are_told_at_once_and_nothing_is_applied():
    bring(SMALL)
    before = everything()
    wrong = (
        SMALL.replace('name = "Acme"', 'name = "Acme Ltd"')
        .replace('"0.20"', '"-1"')
        .replace("gpu-1 = ", "gpu-9 = ")
        .replace('models = ["small"]', 'models = ["large"]')
        .replace('currency = "USD"', "")
    )
    assert refusals('currency = "EUR"\n' + wrong) == [
        "currency: books are kept in USD, and that stays",
        "models[0].routes.gpu-9: there is no engine gpu-9; describe it in [engines.gpu-9]",
        'models[0].rates.input: a price per million tokens is a plain decimal of digits and one point, e.g. "0.20", '
        "not '-1'",
        "tiers[0].models: No such model: large.",
    ]
    assert everything() == before


def test_what_is_said_twice_and_tiers_left_out_are_refused():
    model = SMALL[SMALL.index("[[models]]") : SMALL.index("[[tiers]]")]
    assert refusals(SMALL + model) == ["models[1].id: small is there already"]
    bring(SMALL)
    assert refusals(SMALL[: SMALL.index("[[tiers]]")]) == [
        "tiers: free is missing; tiers stay, because customers stand or stood on them"
    ]


def test_an_engines_key_and_headers_stay_out_of_files_and_as_they_are():
    bring(SMALL)
    engine = Engine.objects.get()
    engines.change(engine=engine, actor=ACTOR, api_key="sk-secret", headers={"x-team": "hidden"})
    text = as_text(brand_file(Brand.objects.get()))
    assert "sk-secret" not in text
    assert "hidden" not in text
    bring(text.replace("gpu-1:8000", "gpu-2:8000"))
    engine.refresh_from_db()
    assert (engine.base_url, engine.headers) == ("http://gpu-2:8000/v1", {"x-team": "hidden"})
    assert engine.api_key_sealed


def test_capabilities_go_through_a_file():
    bring(SMALL)
    engines.change(
        engine=Engine.objects.get(), actor=ACTOR, capabilities=engines.as_stored(Capabilities(reports_cached=True))
    )
    text = as_text(brand_file(Brand.objects.get()))
    assert "reports_cached = true" in text
    Engine.objects.update(capabilities={})
    assert bring(text) == ["engine gpu-1: capabilities"]


def test_a_paused_brand_stays_paused_and_customers_prices_stay_theirs():
    bring(SMALL)
    brand = Brand.objects.get()
    customer = organizations.create(brand=brand, name="Customer", slug="customer", actor=ACTOR)
    own = prices.set_price(
        model=Model.objects.get(), organization=customer, actor=ACTOR, per_million={"input": "0.1", "output": "0.1"}
    )
    brands.pause(brand=brand, actor=ACTOR)
    assert bring(SMALL) == []
    assert Brand.objects.get().state == Brand.State.PAUSED
    own.refresh_from_db()
    assert own.effective_until is None


def test_the_commands_say_what_they_did(tmp_path, capsys):
    file = tmp_path / "acme.toml"
    file.write_text(SMALL)
    call_command("brand", "import", str(file))
    assert "brand acme: new\n" in capsys.readouterr().out
    call_command("brand", "import", str(file))
    assert capsys.readouterr().out == "nothing: it was so already\n"
    call_command("brand", "export", "acme")
    exported = capsys.readouterr().out
    file.write_text(exported)
    call_command("brand", "import", str(file))
    assert capsys.readouterr().out == "nothing: it was so already\n"
    file.write_text("slug = \n")
    with pytest.raises(CommandError, match=r"acme.toml: line 1: Invalid value \(column 8\)\nNothing was changed\."):
        call_command("brand", "import", str(file))
    with pytest.raises(CommandError, match="No such file"):
        call_command("brand", "import", str(tmp_path / "none.toml"))


def test_keys_of_a_brand_may_do_no_more_than_it_says():
    bring(SMALL.replace('name = "Acme"', 'name = "Acme"\nkey_scopes = ["chat"]'))
    customer = organizations.create(brand=Brand.objects.get(), name="Customer", slug="customer", actor=ACTOR)
    assert ladder.standing_of(customer)[0] == Tier.objects.get()
    assert issuing.issue(organization=customer, name="key", actor=ACTOR).key.scopes == ["chat"]
