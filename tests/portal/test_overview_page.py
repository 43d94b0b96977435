"""What an account's first page says of models: its own price, and what its tier leaves out."""

import re

import pytest

from billing import ladder, prices
from billing.models import Tier
from keys.models import Role
from tests import cast as casting
from tests.portal.managing import program

pytestmark = pytest.mark.django_db


def models_on(page: str) -> dict[str, str]:
    """The row of each model as text, by its slug."""
    rows = [
        " ".join(re.sub(r"<[^>]+>", " ", row).split())
        for row in re.findall(r"<tr>\s*<th scope=\"row\".*?</tr>", page, re.S)
    ]
    return {row.split()[0]: row for row in rows}


def test_prices_are_the_accounts_own_and_models_of_other_tiers_are_marked(cast, client):
    for slug, input_price in (("m-1", "3"), ("m-2", "5")):
        model = casting.model(cast.brand, slug)
        prices.set_price(model=model, actor="test", per_million={"input": input_price, "output": "7"})
    own = cast.brand.models.get(slug="m-1")
    for organization, price in ((cast.organization, "1.23"), (cast.elsewhere, "9.99")):
        terms = {"input": price, "output": "4"}
        prices.set_price(model=own, organization=organization, actor="test", per_million=terms)
    tier = Tier(brand=cast.brand, rank=1, slug="free", name="Free", model_slugs=["m-1"], is_default=True)
    ladder.assign(organization=cast.organization, tier=ladder.save_tier(tier, actor="test"), actor="test", reason="x")
    page = casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/").content.decode()
    assert models_on(page)["m-1"] == "m-1 8,192 $1.23 $1.23 $4.00"
    assert models_on(page)["m-2"] == "m-2 not on your tier 8,192 $5.00 $5.00 $7.00"
    mine, theirs = program(cast.organization, Role.VIEWER).get("/models").json()["data"]
    assert (mine["id"], mine["is_unlocked"], mine["price"]["is_own"]) == ("m-1", True, True)
    assert (mine["price"]["input_picos"], mine["price"]["cache_read_picos"]) == (1_230_000, None)
    assert (theirs["is_unlocked"], theirs["price"]["is_own"], theirs["price"]["input_picos"]) == (
        False,
        False,
        5 * 10**6,
    )
    front = models_on(client.get(f"/{cast.brand.slug}/").content.decode())
    assert front == {"m-1": "m-1 8,192 $3.00 $3.00 $7.00", "m-2": "m-2 8,192 $5.00 $5.00 $7.00"}
