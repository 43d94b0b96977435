"""Seven safeguards, taken away one at a time, by the test: what `reconcile --deep` (or the count of calls served) then
names, beside the same scene with the safeguard in place. The table is printed at the end of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from django.db import connection

from billing import event_rows, leases, replay, script, transports
from billing.replay import Replayed
from proxy import forwarding
from tests.conftest import empty_tables
from tests.safeguards import scenes
from tests.safeguards.lab import Lab
from tests.safeguards.scenes import Found

pytestmark = pytest.mark.django_db(transaction=True)


class Safeguard(NamedTuple):
    scene: Callable[[Lab, pytest.MonkeyPatch], Found]
    removed: str
    """In words, for the table."""
    remove: Callable[[pytest.MonkeyPatch], Any]
    fails: str
    """A check that must be among those that fail."""


def without_line(line: str, instead: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The script without it, everywhere it is sent from."""

    def remove(patch: pytest.MonkeyPatch) -> None:
        text = script.TEXT.decode()
        assert line in text, f"the script no longer says {line!r}: name the line that does this now"
        mutilated = text.replace(line, instead).encode()
        digest = hashlib.sha1(mutilated, usedforsecurity=False).hexdigest().encode()
        patch.setattr(transports, "_EVALSHA", transports._EVALSHA.replace(script.SHA, digest))
        patch.setattr(script, "TEXT", mutilated)
        patch.setattr(script, "SHA", digest)

    return remove


def without_replay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "run", lambda client, folder: Replayed())
    patch.setattr(replay, "bring_in", lambda client, folder, tokens: 0)


def without_sweeper(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "sweep", lambda client: 0)


def without_clamp(patch: pytest.MonkeyPatch) -> None:
    """What the client asked for goes to the engine, not what was granted."""
    ask = forwarding._ask_to_generate

    def unclamped(fields: dict[str, Any], asked: Any, engine: Any, granted: int) -> None:
        ask(fields, asked, engine, granted)
        fields["max_tokens"] = 400

    patch.setattr(forwarding, "_ask_to_generate", unclamped)


def without_unique_ids(patch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE usage_event DROP CONSTRAINT usage_event_pkey")
    assert "ON CONFLICT (call_id) DO NOTHING" in event_rows._INSERT
    patch.setattr(event_rows, "_INSERT", event_rows._INSERT.replace("ON CONFLICT (call_id) DO NOTHING", ""))


SAFEGUARDS = {
    "hold as marker": Safeguard(
        scenes.replies_to_settles_are_lost,
        "settle leaves the hold",
        without_line("  redis.call('HDEL', shard.tag .. 'holds', call_id, call_id .. ':u')\n", ""),
        "counter balance",
    ),
    "WAL replay": Safeguard(
        scenes.redis_and_a_worker_are_lost_with_unread_charges, "nobody replays", without_replay, "engine log"
    ),
    "unique call id": Safeguard(scenes.two_journals_book_one_call, "primary key dropped", without_unique_ids, "call"),
    "lease sweeper": Safeguard(scenes.a_worker_dies_after_its_reserve, "nobody sweeps", without_sweeper, "lease"),
    "run_id check": Safeguard(
        scenes.redis_comes_back_with_older_data,
        "any run id opens a shard",
        without_line("and run == run_id", ""),
        "spent once",
    ),
    "version check": Safeguard(
        scenes.a_key_is_revoked,
        "reserve compares no key version",
        without_line("~= key_version then", "== '' then"),
        "served after the revocation",
    ),
    "max_tokens clamp": Safeguard(
        scenes.a_balance_buys_less_than_was_asked,
        "the client's own max_tokens goes upstream",
        without_clamp,
        "engine log",
    ),
}


@contextmanager
def _primary_key() -> Iterator[None]:
    """There again afterwards."""
    try:
        yield
    finally:
        empty_tables()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_constraint WHERE conname = 'usage_event_pkey'")
            if cursor.fetchone() is None:
                cursor.execute("ALTER TABLE usage_event ADD CONSTRAINT usage_event_pkey PRIMARY KEY (call_id)")


@pytest.mark.parametrize("name", SAFEGUARDS)
def test_with_it_nothing_is_wrong(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, record_property: Any) -> None:
    found = SAFEGUARDS[name].scene(lab, monkeypatch)
    assert found.checks == (), found
    record_property("safeguard", [name, "with it", "-", found.figure])


@pytest.mark.parametrize("name", SAFEGUARDS)
def test_without_it_a_check_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, record_property: Any) -> None:
    safeguard = SAFEGUARDS[name]
    with _primary_key():
        safeguard.remove(monkeypatch)
        found = safeguard.scene(lab, monkeypatch)
    assert safeguard.fails in found.checks, found
    record_property("safeguard", [name, safeguard.removed, ", ".join(found.checks), found.figure])
