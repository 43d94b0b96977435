"""Who is in the demo: of each brand the customers and keys in every state that its page knows. Data only; what the
brands themselves are is in brands/."""

from __future__ import annotations

from typing import Any, NamedTuple

ORGANIZATIONS = {
    "demo": "Demo Company",
    "other": "Other Company",
    "exhausted": "Exhausted Company",
    "free": "Free Company",
    "pro": "Pro Company",
}
CREDITS = {"demo": "1000000.00", "other": "1000.00", "exhausted": "0.01", "free": "5.00", "pro": "100.00"}
"""Given where the organization's tier asks for money."""


class Demo(NamedTuple):
    """`model`: what a newcomer calls. `roomy`: the tier that has room for a million calls. `restricted_to`: the only
    model of the key that may not call `model`. `states`: what else demo.json names, by what is special about it."""

    slug: str
    model: str
    roomy: str
    free: str
    pro: str
    restricted_to: str
    states: dict[str, str]

    @property
    def tiers(self) -> dict[str, str]:
        """Organization → tier."""
        return {
            "demo": self.roomy,
            "other": self.roomy,
            "exhausted": self.free,
            "free": self.free,
            "pro": self.pro,
        }

    @property
    def keys(self) -> tuple[tuple[str, str, dict[str, Any]], ...]:
        """(name, organization, what the key may do)."""
        return (
            ("api_key", "demo", {}),
            ("second", "demo", {}),
            ("other", "other", {}),
            ("revoked", "demo", {}),
            ("exhausted", "exhausted", {}),
            ("restricted", "demo", {"model_slugs": [self.restricted_to]}),
            ("test", "demo", {"mode": "test"}),
            ("free", "free", {}),
            ("pro", "pro", {}),
        )


def _states(form: str, reasoning: str, **more: str) -> dict[str, str]:
    return {state: form.format(state) for state in ("loading", "broken", "misconfigured")} | {
        "reasoning": reasoning,
        **more,
    }


DEMOS = (
    Demo(
        slug="dialogix",
        model="aion-v3",
        roomy="enterprise",
        free="free",
        pro="pro",
        restricted_to="aion-v3-tools",
        states=_states("aion-v3-{}", "aion-v3-reasoning"),
    ),
    Demo(
        slug="aionlabs",
        model="aion-labs/aion-2.0",
        roomy="scale",
        free="standard",
        pro="scale",
        restricted_to="aion-labs/aion-1.0-mini",
        states=_states("aion-labs/aion-{}", "aion-labs/aion-1.0"),
    ),
    Demo(
        slug="axione",
        model="openai/gpt-4o",
        roomy="partner",
        free="tier-1",
        pro="tier-5",
        restricted_to="openai/gpt-4o-mini",
        states=_states("axione/{}", "axione/reasoning"),
    ),
    Demo(
        slug="aimichat",
        model="aimichat-1",
        roomy="partner",
        free="free",
        pro="pro",
        restricted_to="aimichat-1-thinking",
        states=_states("aimichat-1-{}", "aimichat-1-thinking"),
    ),
    Demo(
        slug="aione",
        model="claude-sonnet-4-6",
        roomy="business",
        free="standard",
        pro="business",
        restricted_to="claude-opus-4-6",
        states=_states("aione-{}", "aione-reasoning", image="gemini-2.5-flash-image"),
    ),
)
