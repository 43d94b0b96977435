"""A shop for tests of the proxy: a brand with a catalogue and customers, written through the same writers that people
use, and the real app served to it by uvicorn on loopback."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import orjson
import redis
import uvicorn

from billing import engines, ladder, ledger, prices, script
from billing.journal import Journal
from billing.models import Engine, Grant, Model, Payer, Tier, TierLimit, UsageEvent
from billing.money import nanos
from billing.snapshot import Capabilities
from keys import brands, issuing, organizations
from keys.caller import SHARDS
from keys.issuing import Issued
from keys.models import Brand, Organization, Scheme
from proxy import app
from tests.billing.draining import drain
from tests.billing.stage import open_epoch
from tests.inference import CAPABILITIES, Inference

ACTOR = "tests"
PER_MILLION = {"input": "0.20", "output": "0.60", "cache_read": "0.05"}
_numbers = itertools.count(10)
HELLO = [{"role": "user", "content": "Say hello to everybody here."}]


class Shop:
    """One brand on the ladder's only tier `open` (prepaid, no limits), one engine, one customer with 1000 units."""

    def __init__(self, inference: Inference, store: redis.Redis) -> None:
        self.store = store
        self.inference = inference
        open_epoch(store)
        self.brand = self.new_brand("dialogix", "ak-")
        self.engine = self.new_engine("demo", inference.base_url)
        self.models = {
            slug: self.new_model(slug, there, **fields)
            for slug, there, fields in (
                ("aion-v3", "demo-chat", {}),
                ("aion-reasoning", "demo-reasoning", {"is_reasoning": True}),
                ("aion-embed", "demo-embed", {"context_length": 8_192, "features": ["embeddings"]}),
                ("aion-loading", "demo-loading", {}),
                ("aion-broken", "demo-broken", {}),
            )
        }
        self.tier = self.new_tier("open", rank=1, payer=Payer.PREPAID, is_default=True)
        self.organization = self.new_organization("acme", credit="1000")
        self.issued = self.new_key(self.organization)

    @property
    def secret(self) -> str:
        return self.issued.secret

    def new_brand(self, slug: str, key_prefix: str, **fields: Any) -> Brand:
        usual: dict[str, Any] = {"base_paths": ["/v1"], "schemes": [scheme.value for scheme in Scheme]}
        return brands.create(slug=slug, name=slug.title(), key_prefix=key_prefix, actor=ACTOR, **(usual | fields))

    def new_engine(self, name: str, base_url: str, kind: str = "vllm", **fields: Any) -> Engine:
        capabilities = fields.pop("capabilities", CAPABILITIES)
        assert isinstance(capabilities, Capabilities)
        return engines.register(
            name=name, kind=kind, base_url=base_url, actor=ACTOR, capabilities=capabilities, **fields
        )

    def new_model(self, slug: str, there: str, **fields: Any) -> Model:
        engine = fields.pop("engine", self.engine)
        per_million = fields.pop("per_million", PER_MILLION)
        usual: dict[str, Any] = {
            "context_length": 32_768,
            "max_completion_tokens": 8_192,
            "features": ["chat", "completions", "tools"],
            "extra_fields": ["top_k"],
        }
        model, _ = engines.draft_model(
            brand=fields.pop("brand", self.brand),
            slug=slug,
            engine=engine,
            name_there=there,
            actor=ACTOR,
            **(usual | fields),
        )
        if per_million is not None:
            prices.set_price(model=model, actor=ACTOR, per_million=per_million, confirmed_reason="tests")
        return model

    def new_tier(self, slug: str, *limits: dict[str, Any], brand: Brand | None = None, **fields: Any) -> Tier:
        usual: dict[str, Any] = {"rank": 2, "payer": Payer.PREPAID, "name": slug.title()}
        tier = ladder.save_tier(Tier(brand=brand or self.brand, slug=slug, **(usual | fields)), actor=ACTOR)
        for limit in limits:
            ladder.save_limit(TierLimit(tier=tier, **limit), actor=ACTOR)
        return tier

    def new_organization(
        self, slug: str, *, credit: str = "", tier: Tier | None = None, brand: Brand | None = None
    ) -> Organization:
        organization = organizations.create(brand=brand or self.brand, name=slug.title(), slug=slug, actor=ACTOR)
        if tier is not None:
            ladder.assign(organization=organization, tier=tier, reason="tests", actor=ACTOR)
        if credit:
            self.grant(organization, nanos(credit))
        return organization

    def grant(self, organization: Organization, amount_nanos: int) -> None:
        ledger.grant(
            organization=organization,
            amount_nanos=amount_nanos,
            kind=Grant.Kind.PROMOTIONAL,
            reason="tests",
            reference=f"tests:{organization.slug}:{time.monotonic_ns()}",
            actor=ACTOR,
        )

    def new_key(self, organization: Organization, **fields: Any) -> Issued:
        return issuing.issue(organization=organization, name="tests", actor=ACTOR, **fields)

    def event(self, call_id: str, *, within_seconds: float = 10.0) -> UsageEvent:
        """The settled call, once the journal has it."""
        journal = Journal(self.store, name="tests", notify=lambda line: None)
        deadline = time.monotonic() + within_seconds
        while True:
            drain(journal)
            found = UsageEvent.objects.filter(call_id=call_id).first()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"no event of call {call_id}")
            time.sleep(0.02)

    def customer(self, *limits: dict[str, Any], credit: str = "1", **tier: Any) -> Customer:
        """A new organization on a tier of its own with these limits, and its key."""
        number = next(_numbers)
        own = self.new_tier(f"tier-{number}", *limits, rank=number, **tier) if limits or tier else None
        organization = self.new_organization(f"customer-{number}", credit=credit, tier=own)
        return Customer(organization, self.new_key(organization))

    def holds(self) -> int:
        """Holds that stand in Redis now."""
        return sum(self.store.hlen(script.name(shard, script.HOLDS)) for shard in range(SHARDS))


def splitting_brand(shop: Shop) -> str:
    """A brand `labs` with reasoning_split and the model `thinker`; a key of it."""
    brand = shop.new_brand("labs", "al-", splits_reasoning=True)
    shop.new_tier("labs", brand=brand, is_default=True)
    shop.new_model("thinker", "demo-reasoning", brand=brand, is_reasoning=True)
    return shop.new_key(shop.new_organization("labs", credit="100", brand=brand)).secret


class Customer(NamedTuple):
    organization: Organization
    issued: Issued

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issued.secret}"}


class Streamed(NamedTuple):
    """The events' data, JSON read, and b"[DONE]" as it is."""

    call_id: str
    events: list[Any]

    @property
    def text(self) -> str:
        choices = [event["choices"][0] for event in self.events if event != b"[DONE]" and event.get("choices")]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class Gateway:
    """The served app. `client` sends as the shop's customer."""

    def __init__(self, shop: Shop, port: int) -> None:
        self.shop = shop
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/dialogix/v1"
        self.client = httpx.Client(
            base_url=self.base_url, headers={"authorization": f"Bearer {shop.secret}"}, timeout=30
        )

    @property
    def worker(self) -> Any:
        return app._worker

    def chat(self, content: str = "Say hello.", **fields: Any) -> httpx.Response:
        headers = fields.pop("headers", None)
        body = {"model": "aion-v3", "messages": [{"role": "user", "content": content}], "max_tokens": 64} | fields
        return self.client.post("/chat/completions", json=body, headers=headers)

    def stream(self, content: str = "Say hello.", **fields: Any) -> Streamed:
        response = self.chat(content, stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return Streamed(response.headers["x-request-id"], read_events(response.content))

    def event_of(self, answer: httpx.Response | Streamed) -> UsageEvent:
        return self.shop.event(answer.call_id if isinstance(answer, Streamed) else answer.headers["x-request-id"])


def read_events(body: bytes) -> list[Any]:
    found: list[Any] = []
    for frame in body.split(b"\n\n"):
        if frame.startswith(b"data: "):
            data = frame.removeprefix(b"data: ")
            found.append(data if data == b"[DONE]" else orjson.loads(data))
        else:
            assert not frame or frame.startswith(b":"), frame
    return found


@contextmanager
def serve(shop: Shop, application: Any = app.application) -> Iterator[Gateway]:
    """The app for a shop, on a port of its own."""
    with serve_app(application) as port:
        gateway = Gateway(shop, port)
        try:
            yield gateway
        finally:
            gateway.client.close()


@contextmanager
def serve_app(application: Any) -> Iterator[int]:
    """An app on a port of its own, in a thread with an event loop of its own; gives the port."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gateway", daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the gateway did not start")
        time.sleep(0.002)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        assert not thread.is_alive()
