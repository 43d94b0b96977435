"""The five brands side by side, imported from the files that ship with the demo, with customers and keys in every state
that their pages tell of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import httpx
import redis

from billing import engines, ladder, ledger
from billing.models import Grant, Model, Tier
from billing.money import nanos
from keys import issuing, organizations
from keys.models import Brand, Organization
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from tests.billing.stage import open_epoch
from tests.inference import CAPABILITIES, Inference

ACTOR = "tests"
FILES = Path(__file__).resolve().parents[2] / "portal" / "demo" / "brands"
SLUGS = ("dialogix", "aionlabs", "axione", "aimichat", "aione")
OPENAI_LIKE = ("dialogix", "aionlabs", "axione", "aione")
"""Whose pages claim compatibility with OpenAI's clients."""
NEVER_USED_UP = {
    "dialogix": "enterprise",
    "aionlabs": "scale",
    "axione": "tier-5",
    "aimichat": "partner",
    "aione": "business",
}
STATES = {"loading": "demo-loading", "broken": "demo-broken", "reasoning": "demo-reasoning"}
EXHAUSTING_MAX = 120


class Stall(NamedTuple):
    """One brand, as demo.json would tell of it."""

    brand: Brand
    model: str
    keys: dict[str, str]
    models: dict[str, str]

    @property
    def slug(self) -> str:
        return self.brand.slug

    @property
    def path(self) -> str:
        return f"/{self.slug}{self.brand.base_paths[0]}"


class Mall:
    def __init__(self, inference: Inference, store: redis.Redis) -> None:
        self.store = store
        self.inference = inference
        open_epoch(store)
        engines.register(name="demo", kind="vllm", base_url=inference.base_url, actor=ACTOR, capabilities=CAPABILITIES)
        self.stalls = {slug: self._stall(slug) for slug in SLUGS}

    def _stall(self, slug: str) -> Stall:
        import_brand(read((FILES / f"{slug}.toml").read_bytes()), actor=ACTOR)
        brand = Brand.objects.get(slug=slug)
        models = list(Model.objects.filter(brand=brand).order_by("position", "slug").prefetch_related("routes"))
        names = {model.slug: [route.name_there for route in model.routes.all()] for model in models}
        states = {state: next(slug for slug in names if there in names[slug]) for state, there in STATES.items()}
        states["misconfigured"] = next(slug for slug in names if not names[slug])
        demo = self._organization(brand, "demo", NEVER_USED_UP[slug], "1000")
        other_model = next(slug for slug in names if slug != models[0].slug)
        keys = {
            "api_key": _key(demo),
            "second": _key(demo),
            "other": _key(self._organization(brand, "other", NEVER_USED_UP[slug], "1000")),
            "restricted": _key(demo, model_slugs=[other_model]),
            "exhausted": self._exhausted(brand),
            "free": _key(self._organization(brand, "free", "", "")),
        }
        if Tier.objects.filter(brand=brand, slug="pro").exists():
            keys["pro"] = _key(self._organization(brand, "pro", "pro", "10"))
        gone = issuing.issue(organization=demo, name="revoked", actor=ACTOR)
        issuing.revoke(key=gone.key, actor=ACTOR)
        return Stall(brand, models[0].slug, keys | {"revoked": gone.secret}, states)

    def _exhausted(self, brand: Brand) -> str:
        """A key of an account that has nothing left, or soon will: see `use_up`."""
        organization = self._organization(brand, "exhausted", "", "")
        limits: Any = [{"unit": "requests", "window": "day", "amount": 1}] if brand.slug == "axione" else ()
        return _key(organization, limits=limits)

    def _organization(self, brand: Brand, slug: str, tier: str, credit: str) -> Organization:
        organization = organizations.create(brand=brand, name=slug.title(), slug=slug, actor=ACTOR)
        if tier:
            chosen = Tier.objects.get(brand=brand, slug=tier)
            ladder.assign(organization=organization, tier=chosen, reason=ACTOR, actor=ACTOR)
        if credit:
            ledger.grant(
                organization=organization,
                amount_nanos=nanos(credit),
                kind=Grant.Kind.PROMOTIONAL,
                reason=ACTOR,
                reference=f"tests:{brand.slug}:{slug}",
                actor=ACTOR,
            )
        return organization


def _key(organization: Organization, **fields: Any) -> str:
    return issuing.issue(organization=organization, name="tests", actor=ACTOR, **fields).secret


def use_up(stall: Stall, root: str) -> None:
    """Real calls until the exhausted key is refused. AimiChat counts calls; where tokens are counted, long ones."""
    with httpx.Client(base_url=root + stall.path, timeout=30) as client:
        client.headers["authorization"] = f"Bearer {stall.keys['exhausted']}"
        length = 16 if stall.slug == "aimichat" else 8_000
        body = {"model": stall.model, "messages": [{"role": "user", "content": "demo:fill"}], "max_tokens": length}
        for _ in range(EXHAUSTING_MAX):
            answer = client.post("/chat/completions", json=body)
            if answer.status_code == 429:
                return
            assert answer.status_code == 200, answer.text
    raise AssertionError(f"the exhausted key of {stall.slug} is not refused")
