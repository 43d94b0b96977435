"""`manage.py price preview` and the operators' page: one book, the same answer."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing import prices
from billing.models import Rate, UsageDay
from portal import proposed_book
from tests import cast as casting

PAGE = "/admin/preview-prices/"


@pytest.fixture
def shop(cast):
    model = casting.model(cast.brand, "m-1")
    usual = {"input": "0.20", "output": "0.40", "cache_read": "0.05"}
    prices.set_price(model=model, actor="test", per_million=usual, request_nanos=1_000_000)
    UsageDay.objects.create(
        brand_id=cast.brand.pk,
        organization_id=cast.organization.pk,
        key_id=1,
        model_id=model.pk,
        end_reason="stop",
        day=timezone.now().date() - timedelta(days=1),
        requests=1_000,
        uncached_input_tokens=10_000_000,
        list_cost_nanos=3 * 10**9,
        cost_nanos=3 * 10**9,
    )
    return cast


@pytest.fixture
def staff(shop):
    return casting.browser_of(casting.person("staff", is_staff=True, is_superuser=True))


def previewed(shop, *arguments):
    out = StringIO()
    call_command("price", "preview", "--brand", shop.brand.slug, *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_prices_in_force_are_offered_and_a_book_is_charged(shop, staff):
    assert f'<a href="?brand={shop.brand.slug}">' in staff.get(PAGE).content.decode()
    offered = staff.get(PAGE, {"brand": shop.brand.slug}).context["form"].initial["book"]
    assert json.loads(offered) == {"m-1": {"input": "0.20", "output": "0.40", "cache_read": "0.05", "request": "0.001"}}
    same = staff.post(PAGE, {"brand": shop.brand.slug, "days": 30, "book": offered}).content.decode()
    assert "$3.00 was paid; $3.00 would have been" in same
    assert "0 of 1 customers" in same
    dearer = json.dumps({"m-1": {"input": "2.50", "output": "5"}})
    page = staff.post(PAGE, {"brand": shop.brand.slug, "days": 30, "book": dearer}).content.decode()
    assert "$3.00 was paid; $25.00 would have been" in page
    assert "$0.000001 more by rounding" in page
    assert "a factor of 10 or more" in page
    assert "<td>$22.00</td>" in page
    assert "each call is rounded up to a nano by itself" in page
    assert Rate.objects.count() == 1, "on paper only"


def test_the_command_says_the_same(shop, tmp_path):
    text = previewed(shop, "m-1", "--input", "2.50", "--output", "5")
    assert "$3.00 was paid, $25.00 would have been (and up to $0.000001 more by rounding)" in text
    assert "looks like a slip: m-1: Input goes from 0.20 to 2.50" in text
    assert f"{shop.organization.slug:24} $3.00 → $25.00 ($22.00)" in text
    assert "each call is rounded up" in text
    book = tmp_path / "book.toml"
    book.write_text('[m-1]\ninput = "0.20"\noutput = "0.40"\nrequest = "0.002"')
    assert "$4.00 would have been" in previewed(shop, "--book", str(book))
    assert Rate.objects.count() == 1, "on paper only"


def test_without_a_book_the_prices_to_begin_are_charged(shop, staff):
    with pytest.raises(CommandError, match="No price is to begin"):
        previewed(shop)
    nothing = staff.post(PAGE, {"brand": shop.brand.slug, "days": 30, "book": ""}).content.decode()
    assert "No price is to begin: give some." in nothing
    at = timezone.now() + timedelta(days=3)
    later = {"input": "0.10", "output": "0.40"}
    prices.set_price(model=Rate.objects.get().model, actor="test", effective_from=at, per_million=later)
    assert "$3.00 was paid, $1.00 would have been" in previewed(shop)
    page = staff.post(PAGE, {"brand": shop.brand.slug, "days": 30, "book": ""}).content.decode()
    assert "$3.00 was paid; $1.00 would have been" in page


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting property name"),
        ("[]", "a table per model is expected"),
        ('{"m-9": {}}', "has no model 'm-9'; it has: m-1"),
        ('{"m-1": {"inputs": "1"}}', "m-1: Object contains unknown field `inputs`"),
        ('{"m-1": {"input": 0.2, "output": "1"}}', "m-1: a price per million tokens is given as text"),
        ('{"m-1": {"input": "0.2"}}', "m-1: Give the price of input and of output"),
        ('{"m-1": {"input": "0.2", "output": "1", "request": "x"}}', "m-1: an amount is a plain decimal"),
        ('{"m-1": 3}', "m-1: Expected"),
    ],
)
def test_a_wrong_book_is_refused_with_its_reason(shop, staff, text, says):
    with pytest.raises(proposed_book.BookWrong, match=says.replace("[", r"\[")):
        proposed_book.book_of(text, shop.brand, is_json=True)
    page = staff.post(PAGE, {"brand": shop.brand.slug, "days": 30, "book": text})
    assert "book" in page.context["form"].errors
    assert "was paid" not in page.content.decode().split("</form>")[-1]


def test_arguments_that_make_no_sense_are_refused(shop):
    for arguments, says in (
        (("m-1", "--input", "1"), "output"),
        (("m-9", "--input", "1", "--output", "1"), "no model 'm-9'"),
        (("m-1", "--input", "x", "--output", "1"), "plain decimal"),
        (("--days", "0"), "from 1 to 90"),
        (("--book", "/nowhere.toml"), "nowhere"),
        (("m-1", "--book", "/nowhere.toml"), "not both"),
    ):
        with pytest.raises(CommandError, match=says):
            previewed(shop, *arguments)


def test_who_may_not_see_prices_may_not_preview_them(shop):
    clerk = casting.browser_of(casting.person("clerk", is_staff=True))
    assert clerk.get(PAGE).status_code == 403
    assert "Preview prices" not in clerk.get("/admin/").content.decode()
    assert casting.browser_of(shop.owner).get(PAGE).status_code == 302
