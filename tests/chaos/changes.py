"""What people change while everything breaks: credit is granted, prices move, keys are issued and revoked."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import redis
from django.db import DatabaseError, connection
from psycopg import Error as PsycopgError

from billing import ledger, prices
from billing.models import Grant, Model
from keys import issuing
from keys.models import ApiKey, Organization
from tests.chaos.load import PATH, Customer

PAUSE_SECONDS: Final = (0.2, 0.9)
RETRY_SECONDS: Final = 0.3
ACTOR: Final = "chaos"
GRANT_NANOS: Final = (200_000, 3_000_000)
T = TypeVar("T")


@dataclass
class Changes(threading.Thread):
    """Each change is repeated until it is known to be done, as its author would; `since` of prices and revocations is
    noted once no publication is pending, which is when they must hold everywhere."""

    customers: dict[int, Customer]
    model: Model
    ports: list[int]
    seed: int
    granted: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    priced: list[tuple[int, float]] = field(default_factory=list)
    """Rates by id, each with the time from which no call may start at an older one."""
    done: Counter[str] = field(default_factory=Counter)
    served_after_revocation: int = 0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name="chaos: changes", daemon=True)
        self._stopping = threading.Event()
        self._luck = random.Random(self.seed)

    def __hash__(self) -> int:
        return id(self)

    def stop(self) -> None:
        self._stopping.set()
        self.join(120)
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        try:
            while not self._stopping.wait(self._luck.uniform(*PAUSE_SECONDS)):
                self._luck.choices((self._grant, self._reprice, self._replace_key), (4, 2, 2))[0]()
        except BaseException as error:
            self.failure = error
        finally:
            connection.close()

    def _grant(self) -> None:
        organization_id = self._luck.choice(list(self.customers))
        amount, reference = self._luck.randint(*GRANT_NANOS), f"chaos:{self._luck.getrandbits(64):x}"
        self._insist(
            lambda: ledger.grant(
                organization=Organization.objects.get(id=organization_id),
                amount_nanos=amount,
                kind=Grant.Kind.PROMOTIONAL,
                reason="chaos",
                reference=reference,
                actor=ACTOR,
            )
        )
        self.granted[organization_id] += amount
        self.done["grants"] += 1

    def _reprice(self) -> None:
        per_million = {
            "input": f"{self._luck.randint(100, 400) / 1000:.3f}",
            "output": f"{self._luck.randint(300, 900) / 1000:.3f}",
            "cache_read": f"{self._luck.randint(10, 90) / 1000:.3f}",
        }
        terms: dict[str, Any] = {"per_million": per_million, "confirmed_reason": "chaos"}
        rate = self._insist(lambda: prices.set_price(model=self.model, actor=ACTOR, **terms))
        if self._is_published():
            self.priced.append((rate.id, time.time()))
        self.done["prices"] += 1

    def _replace_key(self) -> None:
        customer = self._luck.choice(list(self.customers.values()))
        organization = self._insist(lambda: Organization.objects.get(id=customer.organization_id))
        issued = self._insist(lambda: issuing.issue(organization=organization, name="chaos", actor=ACTOR))
        old, customer.secret = customer.secret, issued.secret
        time.sleep(0.2)
        others = organization.keys.filter(revoked_at=None).exclude(id=issued.key.id)
        for key in self._insist(lambda: list(others)):
            self._revoke(key)
        if self._is_published():
            self._try_revoked(old)
        self.done["keys replaced"] += 1

    def _revoke(self, key: ApiKey) -> None:
        self._insist(lambda: issuing.revoke(key=key, actor=ACTOR))

    def _try_revoked(self, secret: str) -> None:
        body = {"model": "aion-v3", "messages": [{"role": "user", "content": "Am I still let in?"}], "max_tokens": 5}
        for port in self.ports:
            with suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{port}{PATH}"
                answer = httpx.post(url, json=body, headers={"authorization": f"Bearer {secret}"}, timeout=10)
                self.served_after_revocation += answer.status_code == 200
                self.done["revoked keys tried"] += 1

    def _is_published(self) -> bool:
        """False when the run is over first."""

        def none_is_pending() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SELECT NOT EXISTS (SELECT 1 FROM keys_publication WHERE applied_at IS NULL)")
                return bool(cursor.fetchone()[0])

        while not self._insist(none_is_pending):
            if self._stopping.wait(RETRY_SECONDS):
                return False
        return True

    def _insist(self, act: Callable[[], T]) -> T:
        while True:
            try:
                return act()
            except (DatabaseError, PsycopgError, redis.RedisError, OSError):
                self.done["repeated"] += 1
                connection.close()
                time.sleep(RETRY_SECONDS)
