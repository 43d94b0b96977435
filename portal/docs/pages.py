"""Which pages there are: one table. A brand's row selects and orders them by name; its numbers are its own order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from keys.models import Brand


class Page(NamedTuple):
    """`name` is its address, its file in templates/docs and its name in Brand.docs_pages."""

    name: str
    title: str
    summary: str


PAGES = {
    page.name: page
    for page in (
        Page("quick-start", "Quick start", "A key, a base URL, and the first answer."),
        Page("authentication", "Authentication", "How requests carry an API key, and what a key may do."),
        Page("endpoints", "Endpoints", "Addresses, parameters and answers."),
        Page("error-codes", "Error codes", "What can go wrong, as the API says it, and what to do."),
        Page("pricing", "Pricing", "Models and prices, as they are charged now."),
        Page("contact-us", "Contact us", "Where to ask, and what to send along."),
        Page("quality-of-service", "Quality of service", "Limits, deadlines, and what was measured."),
        Page("examples", "Complete examples", "Requests to paste, in three languages."),
        Page("caching-and-cost", "Caching and cost", "How cached prompts are found and what they cost."),
        Page("model-verification", "Model verification", "What runs behind each name, and how to check it."),
        Page("ide-integration", "IDE integration", "Settings for editors and chat programs."),
        Page("model-quality", "Model quality monitoring", "Every model, asked every few minutes."),
        Page("network", "Network and connectivity", "Hosts, timeouts, limits, CORS and health."),
        Page("model-naming", "Model naming and compatibility", "Ids, aliases, features and accepted parameters."),
        Page("image-generation", "Image generation", "Pictures through the chat endpoint."),
        Page("tiers-and-limits", "Tiers and limits", "What each plan may use, and how answers tell what is left."),
        Page("changelog", "Changelog", "Prices that are to change, and those that did."),
        Page("security", "Security", "Keeping keys safe."),
        Page("management-api", "Management API", "Looking after your account by program."),
        Page("webhooks", "Webhooks", "Being told of what happens to your account, and knowing that it was us."),
    )
}
USUAL = (
    *("quick-start", "authentication", "endpoints", "error-codes", "pricing", "tiers-and-limits", "examples"),
    *("changelog", "security", "webhooks", "management-api"),
)
"""For a brand whose row names none."""


CHANGELOG = "changelog"


def pages_of(brand: Brand) -> list[Page]:
    """In the brand's order. A name that this release does not know is left out: `unknown` tells writers in time."""
    return [PAGES[name] for name in brand.docs_pages or USUAL if name in PAGES]


def has_page(brand: Brand, name: str) -> bool:
    return any(page.name == name for page in pages_of(brand))


def unknown(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in PAGES]
