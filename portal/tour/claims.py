"""The list. Later work adds its line here."""

from __future__ import annotations

from portal.tour import Claim
from portal.tour.climbing import a_ladder_is_climbed_by_its_rule
from portal.tour.killing import kills_lose_and_double_nothing
from portal.tour.metering import a_call_is_explained
from portal.tour.revoking import a_revoked_key_is_refused_at_once
from portal.tour.spending import a_balance_is_never_overspent
from portal.tour.surfaces import five_brands_answer_as_their_pages_say
from portal.tour.topping_up import a_top_up_is_booked_to_zero

CLAIMS = (
    Claim("metering", "A call is metered, priced and booked to the nano.", a_call_is_explained),
    Claim("spending", "500 parallel calls never spend more than a balance for 10.", a_balance_is_never_overspent),
    Claim("brands", "Five brands answer at once, each as its own page says.", five_brands_answer_as_their_pages_say),
    Claim("revoking", "A revoked key is refused on the very next request.", a_revoked_key_is_refused_at_once),
    Claim(
        "tiers",
        "Axione's ladder is climbed by its rule, once a night, with reasons; a new tier holds on the next request.",
        a_ladder_is_climbed_by_its_rule,
    ),
    Claim(
        "topup",
        "A top-up through Checkout and a refund of it are booked in lines that sum to zero.",
        a_top_up_is_booked_to_zero,
    ),
    Claim(
        "killing",
        "kill -9 of a proxy worker and of Redis under 50 streams loses no charge and doubles none.",
        kills_lose_and_double_nothing,
    ),
)
