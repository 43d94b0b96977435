from billing import ledger, promo_codes
from billing.models import PromoCode
from keys.models import Role
from tests import cast as casting


def page_of(cast):
    return f"/{cast.organization.public_id}/balance/code/"


def launch(cast):
    code = PromoCode(brand=cast.brand, code="LAUNCH", amount_nanos=5 * 10**9, claims_max=3)
    promo_codes.save(code, actor="test")


def test_a_code_is_redeemed_on_the_balance_page(cast):
    launch(cast)
    browser = casting.browser_of(cast.owner)
    assert page_of(cast) in browser.get(f"/{cast.organization.public_id}/balance/").content.decode()
    assert "Redeem a code" in browser.get(page_of(cast)).content.decode()
    page = browser.post(page_of(cast), {"code": "launch"}, follow=True).content.decode()
    assert "$5.00 of credit is yours." in page
    assert "Code LAUNCH" in page
    again = browser.post(page_of(cast), {"code": "launch"})
    assert "has used this code already" in again.content.decode()
    assert ledger.balance_nanos(cast.organization) == 5 * 10**9


def test_only_who_looks_after_money_may(cast):
    launch(cast)
    member = casting.browser_of(cast.member)
    assert member.post(page_of(cast), {"code": "launch"}).status_code == 403
    assert page_of(cast) not in member.get(f"/{cast.organization.public_id}/balance/").content.decode()
    clerk = casting.person("clerk")
    casting.join(clerk, cast.organization, Role.BILLING)
    assert casting.browser_of(clerk).post(page_of(cast), {"code": "launch"}).status_code == 302


def test_guessing_is_slow(cast):
    browser = casting.browser_of(cast.owner)
    answers = [browser.post(page_of(cast), {"code": f"GUESS-{number}"}).status_code for number in range(11)]
    assert answers == [200] * 10 + [429]
