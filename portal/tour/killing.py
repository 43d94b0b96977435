"""kill -9 of a proxy worker and of Redis under running streams: what the engine counted beside what was billed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone

from billing import calls
from billing.admission import PROGRESS_MS
from billing.models import LedgerAccount, UsageEvent
from keys.connections import redis_client
from keys.models import Organization
from portal import engine_audit, roster
from portal.stores import children
from portal.tour import Proof
from portal.tour.customers import new_customer
from portal.tour.demo import Demo, eventually
from proxy.upstream import Response, UpstreamFailure

STREAMS = 50
TOKENS = 160
TOKENS_PER_SECOND = 20
BEGUN_TOKENS = 12
"""Every stream has brought so many before anything is killed."""
UNHEARD_TOKENS_MAX = TOKENS_PER_SECOND * PROGRESS_MS // 1000 + 4
"""What a killed worker may have passed on after its last progress line: one interval, and what a busy machine adds."""
PAUSE_SECONDS = 0.5
RECOVERY_SECONDS_MAX = 120.0
CREDIT_NANOS = 1_000_000_000


@dataclass
class Stream:
    """One client's view of its stream."""

    call_id: str = ""
    tokens: int = 0
    is_whole: bool = False
    trouble: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when BEGUN_TOKENS have come, or no more will."""

    async def read(self, demo: Demo, key: str, number: int) -> None:
        try:
            await self._read(demo, key, number)
        finally:
            self.begun.set()

    async def _read(self, demo: Demo, key: str, number: int) -> None:
        """Refused streams are asked for again, as every SDK does: a worker may just have been replaced."""
        text = f"{number} demo:fill demo:rate={TOKENS_PER_SECOND}"
        body = {"model": demo.model, "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}
        for pause_seconds in (0.2, 0.5, 1.0, 2.0, 0.0):
            try:
                response = await demo.send(key, {**body, "stream": True})
            except UpstreamFailure as failure:
                self.trouble = type(failure).__name__
            else:
                if response.status == 200:
                    await self._listen(response)
                    return
                response.close()
                self.trouble = f"status {response.status}"
            await asyncio.sleep(pause_seconds)

    async def _listen(self, response: Response) -> None:
        self.call_id = response.headers[b"x-request-id"].decode()
        self.trouble = ""
        rest = b""
        try:
            async for piece in response:
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    self._hear(event.removeprefix(b"data: "))
        except UpstreamFailure as failure:
            self.trouble = type(failure).__name__
        finally:
            response.close()

    def _hear(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.is_whole = True
        elif data.startswith(b"{"):
            said: dict[str, Any] = orjson.loads(data)
            if "error" in said:
                self.trouble = str(said["error"])
            self.tokens += sum(bool(choice["delta"].get("content")) for choice in said.get("choices", ()))
            if self.tokens >= BEGUN_TOKENS:
                self.begun.set()


class Account(NamedTuple):
    """Tokens of one call: prompt and output, as the engine's log has them and as they were billed."""

    stream: Stream
    counted: tuple[int, int]
    billed: tuple[int, int]

    @property
    def unheard(self) -> int:
        return self.stream.tokens - self.billed[1]

    @property
    def lost(self) -> bool:
        """Less was billed than was made, and no kill explains it."""
        if self.stream.is_whole:
            return self.billed < self.counted
        return self.billed[0] != self.counted[0] or self.unheard > UNHEARD_TOKENS_MAX

    @property
    def doubled(self) -> bool:
        return self.billed[0] > self.counted[0] or self.billed[1] > self.counted[1]


async def kills_lose_and_double_nothing(demo: Demo) -> Proof:
    running = roster.running(settings.PLACE)
    if not {"web", "redis"} <= running.keys():
        return Proof(["Only a demo with stores of its own can be killed at: start it with make run."], holds=False)
    organization, key = await sync_to_async(new_customer)(demo, CREDIT_NANOS)
    workers = len(children.children_of(running["web"]))
    streams = [Stream() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(stream.read(demo, key, number)) for number, stream in enumerate(streams)]
    lines = [await _kill(running, streams, tasks)]
    killed_at = time.monotonic()
    refused = await _recover(demo, key)
    lines.append(
        f"new calls: {refused} refused, answered again {time.monotonic() - killed_at:.1f} s after Redis was killed"
    )
    await asyncio.gather(*tasks)
    begun = [stream for stream in streams if stream.call_id]
    accounts = await eventually(lambda: _accounts(begun), RECOVERY_SECONDS_MAX) or []
    left = await eventually(lambda: _balanced(organization), RECOVERY_SECONDS_MAX)
    differences = await eventually(_agreement, RECOVERY_SECONDS_MAX)
    restored = len(children.children_of(running["web"])) == workers
    told, holds = _told(accounts)
    lines += [f"{stream.trouble}, though asked for again" for stream in streams if not stream.call_id]
    lines += told
    lines.append(f"granted {CREDIT_NANOS} nanos − billed = left {left}" if left is not None else "the balance is off")
    lines.append(f"manage.py reconcile --deep: {0 if differences is not None else 'some'} differences")
    lines.append(f"{workers} workers serve again" if restored else "a worker is missing")
    return Proof(lines, holds and len(begun) == STREAMS and None not in (left, differences) and restored)


async def _kill(running: dict[str, int], streams: list[Stream], tasks: list[asyncio.Task[None]]) -> str:
    """A worker that has streams, then Redis; what was done, in words."""
    started = time.monotonic()
    await asyncio.gather(*(stream.begun.wait() for stream in streams))
    begun_seconds = time.monotonic() - started
    killed = []
    for worker in children.children_of(running["web"]):
        os.kill(worker, signal.SIGKILL)
        killed.append(str(worker))
        await asyncio.sleep(PAUSE_SECONDS)
        if any(task.done() for task in tasks):
            break
    os.kill(running["redis"], signal.SIGKILL)
    return (
        f"{STREAMS} streams of {TOKENS} tokens, {TOKENS_PER_SECOND} a second; after {begun_seconds:.1f} s kill -9 of"
        f" proxy worker {', '.join(killed)}, {PAUSE_SECONDS:g} s later of Redis ({running['redis']})"
    )


async def _recover(demo: Demo, key: str) -> int:
    """How many calls were refused until one was answered again."""
    refused = 0
    deadline = time.monotonic() + RECOVERY_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            answer = await demo.ask("Anybody there?", key=key, max_tokens=16)
        except UpstreamFailure:
            status = 0
        else:
            status = answer.status
        if status == 200:
            break
        refused += 1
        await asyncio.sleep(0.1)
    return refused


def _accounts(streams: list[Stream]) -> list[Account] | None:
    """Once every call is in the books."""
    counted = engine_audit.counted_by_demo_engines([stream.call_id for stream in streams])
    found = []
    for stream in streams:
        call = calls.call_of(stream.call_id)
        if call is None or stream.call_id not in counted:
            return None
        prompt = sum(
            call.total(name) or 0 for name in ("uncached_input_tokens", "cache_read_tokens", "cache_write_tokens")
        )
        found.append(Account(stream, counted[stream.call_id], (prompt, call.total("output_tokens") or 0)))
    return found


def _told(accounts: list[Account]) -> tuple[list[str], bool]:
    whole = [account for account in accounts if account.stream.is_whole]
    cut = [account for account in accounts if not account.stream.is_whole]
    lost, doubled = sum(account.lost for account in accounts), sum(account.doubled for account in accounts)
    lines = [
        f"{len(whole)} streams came whole:  engine counted {_sum(whole, 'counted')}, we billed {_sum(whole, 'billed')}",
        f"{len(cut)} were cut by the kill: engine counted {_sum(cut, 'counted')}, we billed {_sum(cut, 'billed')};"
        f" their clients had got {sum(account.stream.tokens for account in cut)} out",
        f"   under-charged: {sum(max(0, account.unheard) for account in cut)} tokens of those,"
        f" {max((account.unheard for account in cut), default=0)} on the worst stream"
        f" (bound {UNHEARD_TOKENS_MAX}: one progress interval of {PROGRESS_MS} ms)",
        f"lost {lost}, doubled {doubled}",
    ]
    return lines, bool(whole or cut) and bool(cut) and lost == 0 and doubled == 0


def _sum(accounts: list[Account], name: str) -> str:
    pairs = [getattr(account, name) for account in accounts]
    return f"{sum(prompt for prompt, _ in pairs)} in + {sum(output for _, output in pairs)} out"


def _balanced(organization: Organization) -> int | None:
    """What is left, once it is the grant less every event's cost."""
    costs = UsageEvent.objects.filter(organization_id=organization.id).values_list("cost_nanos", flat=True)
    wallet = LedgerAccount.objects.get(organization=organization, kind=LedgerAccount.Kind.WALLET)
    return wallet.balance_nanos if wallet.balance_nanos == CREDIT_NANOS - sum(costs) else None


def _agreement() -> int | None:
    """None while anything differs: calls of the killed worker may be on their way."""
    return 0 if not list(engine_audit.all_that_differs(redis_client(), now=timezone.now())) else None
