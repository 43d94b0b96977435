"""What an engine counted against what was metered: what is found, what is allowed, and when nothing is said yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing import engine_counters, rebuild, reconcile
from billing.engine_counters import AT_REST, SKEW, UNDER_WAY, Reading
from billing.journal import Journal
from billing.models import Engine, EngineFinding, EngineReading
from tests.billing.draining import drain
from tests.billing.settled import Customer, customer, settle

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = "http://gpu-1:8000"
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Audit:
    """One engine that is read and called by hand."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.who: Customer = customer()
        self.engine = self.new_engine("gpu-1")
        self.journal = Journal(store, name="tests", notify=lambda _line: None)

    def new_engine(self, name: str) -> Engine:
        return Engine.objects.create(name=name, kind="vllm", base_url=f"{ROOT}/v1")

    def read(self, prompt: int, output: int, at: datetime, **fields: Any) -> None:
        usual: dict[str, Any] = {"is_prompt_whole": True, "running": 0, "process_started": 1.0}
        engine_counters.keep({ROOT: Reading(prompt, output, **(usual | fields))}, at)

    def call(self, prompt: int, output: int, started: datetime, seconds: int = 1, **fields: Any) -> None:
        began_ms = int(started.timestamp() * 1000)
        usual: dict[str, Any] = {
            "engine_id": self.engine.id,
            "uncached_input_tokens": prompt,
            "output_tokens": output,
            "started_at_ms": began_ms,
            "settled_at_ms": began_ms + seconds * 1000,
        }
        settle(self.store, self.who.event(**(usual | fields)))
        drain(self.journal)

    def found(self, now: datetime = START + 3 * HOUR) -> list[tuple[str, int, int]]:
        return [(each.kind, each.counted, each.metered) for each in engine_counters.compare(self.store, now)]

    def boundary(self) -> str:
        return EngineReading.objects.latest("at").boundary


@pytest.fixture
def audit(redis_connection) -> Audit:
    rebuild.ensure_epochs(redis_connection)
    return Audit(redis_connection)


def test_what_agrees_is_not_told_and_ends_the_interval(audit):
    audit.read(7, 9, START)
    audit.call(60_000, 70_000, START + MINUTE)
    audit.read(60_007, 70_009, START + HOUR)
    assert audit.found() == []
    assert audit.boundary() == "agreed"


@pytest.mark.parametrize(("metered", "is_found"), [(49_001, False), (48_999, True), (51_020, False), (51_100, True)])
def test_the_bound_is_two_per_cent_and_a_thousand_tokens_in_both_directions(audit, metered, is_found):
    audit.read(0, 0, START)
    audit.call(50_000, metered, START + MINUTE)
    audit.read(50_000, 50_000, START + HOUR)
    assert audit.found() == ([("output", 50_000, metered)] if is_found else [])


def test_ten_per_cent_of_little_are_found_when_they_are_a_thousand(audit):
    audit.read(0, 0, START)
    for turn in range(1, 4):
        audit.call(0, 3_600, START + turn * 10 * MINUTE)
        audit.read(0, turn * 4_000, START + turn * 10 * MINUTE + MINUTE)
        assert audit.found() == ([("output", 12_000, 10_800)] if turn == 3 else [])
    assert audit.found() == [], "told once"
    audit.call(0, 100, START + HOUR)
    audit.read(0, 12_100, START + HOUR + MINUTE)
    assert audit.found() == [], "and the next interval is judged by itself"


def test_cached_tokens_count_where_the_engine_counts_them(audit):
    audit.read(0, 0, START, is_prompt_whole=False)
    audit.call(2_000, 0, START + MINUTE, cache_read_tokens=30_000)
    audit.read(2_000, 0, START + HOUR, is_prompt_whole=False)
    assert audit.found() == []
    audit.read(2_000, 0, START + HOUR + MINUTE)
    audit.call(2_000, 0, START + HOUR + 2 * MINUTE, cache_read_tokens=30_000)
    audit.read(4_000, 0, START + HOUR + 3 * MINUTE)
    assert audit.found() == [("prompt", 2_000, 32_000)]


def test_a_shared_engine_may_count_more_but_not_fewer(audit):
    Engine.objects.update(is_shared=True)
    audit.read(0, 0, START)
    audit.call(10_000, 10_000, START + MINUTE)
    audit.read(900_000, 5_000, START + HOUR)
    assert audit.found() == [("output", 5_000, 10_000)]


def test_rows_of_one_address_are_metered_together(audit):
    second = audit.new_engine("gpu-1-again")
    audit.read(0, 0, START)
    audit.call(0, 9_000, START + MINUTE)
    audit.call(0, 8_000, START + MINUTE, engine_id=second.id)
    audit.read(0, 17_000, START + HOUR)
    assert audit.found() == []
    audit.new_engine("gpu-1-once-more")
    audit.read(0, 17_000, START + HOUR + MINUTE)
    assert audit.boundary() == "first"


@pytest.mark.parametrize("again", [(100, 100, 1.0), (900_000, 900_000, 2.0)], ids=["fewer", "another process"])
def test_an_engine_that_starts_anew_begins_a_new_interval(audit, again):
    prompt, output, process = again
    audit.read(500_000, 500_000, START)
    audit.read(prompt, output, START + MINUTE, process_started=process)
    assert audit.boundary() == "restarted"
    audit.call(2_000, 3_000, START + 2 * MINUTE)
    audit.read(prompt + 2_000, output + 3_000, START + HOUR, process_started=process)
    assert audit.found() == []


def test_a_call_under_way_at_an_end_is_allowed_wherever_the_engine_counted_it(audit):
    audit.read(0, 0, START)
    audit.call(0, 20_000, START + HOUR - MINUTE, seconds=120)
    audit.read(0, 12_000, START + HOUR, running=1)
    audit.read(0, 20_000, START + HOUR + MINUTE, running=1)
    assert audit.found() == []
    assert audit.boundary() == "", "it says nothing about agreement either"


def test_clocks_and_engines_may_be_seconds_late(audit):
    audit.read(0, 0, START)
    audit.call(0, 20_000, START + HOUR - SKEW + timedelta(seconds=2))
    audit.read(0, 0, START + HOUR)
    assert audit.found() == []


def test_a_reading_is_judged_when_its_calls_have_ended(audit):
    audit.read(0, 0, START)
    audit.read(0, 5_000, START + HOUR)
    assert audit.found(START + HOUR + AT_REST - MINUTE) == []
    assert len(audit.found(START + HOUR + AT_REST)) == 1
    audit.read(0, 10_000, START + 2 * HOUR, running=3)
    audit.read(0, 10_000, START + 2 * HOUR + MINUTE, running=None)
    assert audit.found(START + 2 * HOUR + AT_REST + MINUTE) == []
    assert len(audit.found(START + 2 * HOUR + MINUTE + UNDER_WAY)) == 1


def test_calls_whose_end_nobody_heard_are_not_the_engines_fault(audit):
    audit.read(0, 0, START)
    audit.call(0, 3_000, START + MINUTE)
    audit.call(0, 10, START + 2 * MINUTE, usage_source="running", end_reason="lapsed")
    audit.call(0, 0, START + 3 * MINUTE, usage_source="none", end_reason="lapsed", engine_id=None)
    audit.read(0, 8_500, START + HOUR)
    assert audit.found() == []
    audit.read(0, 10_100, START + HOUR + MINUTE)
    assert audit.found() == [("output", 10_100, 3_010)]


UNHEARD = {"usage_source": "none", "end_reason": "client_gone"}


def talk(audit: Audit) -> None:
    """A large call and many small ones, at a hundred tokens a second: of ten thousand and more each way."""
    audit.call(9_000, 9_000, START + MINUTE, stream=True, first_token_ms=500, duration_ms=90_500)
    for number in range(4):
        audit.call(1_000, 1_000, START + 2 * MINUTE + number * MINUTE, first_token_ms=10_000, duration_ms=10_000)


@pytest.mark.parametrize(
    ("broken_off", "allowed"),
    [
        ({"granted_tokens": 50, "prompt_tokens_max": 70}, {"output": 50, "prompt": 70}),
        ({"granted_tokens": 20, "prompt_tokens_max": 90, "choices": 3}, {"output": 60, "prompt": 90}),
        (
            {"granted_tokens": 30_000, "prompt_tokens_max": 300, "stream": True, "duration_ms": 500},
            {"output": 4 * 50 + 64, "prompt": 300},
        ),
        (
            {"granted_tokens": 30_000, "prompt_tokens_max": 300, "choices": 2, "stream": True, "duration_ms": 500},
            {"output": 4 * 2 * 50 + 64, "prompt": 300},
        ),
    ],
    ids=["its grant", "all its choices", "its time", "its time with every choice"],
)
def test_a_call_of_which_nothing_was_heard_hides_no_more_than_it_could_have_cost(audit, broken_off, allowed):
    audit.read(0, 0, START)
    talk(audit)
    audit.call(0, 0, START + 20 * MINUTE, **(UNHEARD | broken_off))
    audit.read(13_000 + allowed["prompt"] + 1_000, 13_000 + allowed["output"] + 1_000, START + HOUR)
    assert audit.found() == []
    audit.read(13_000 + allowed["prompt"] + 1_001, 13_000 + allowed["output"] + 1_001, START + HOUR + MINUTE)
    assert [kind for kind, _, _ in audit.found()] == ["prompt", "output"]


@pytest.mark.parametrize("stops", [True, False])
def test_a_whole_call_ends_with_its_client_only_where_the_engine_stops(audit, stops):
    Engine.objects.update(capabilities={"stops_on_close": stops})
    audit.read(0, 0, START)
    talk(audit)
    audit.call(0, 0, START + 20 * MINUTE, granted_tokens=8_000, duration_ms=500, **UNHEARD)
    audit.read(13_000, 13_000 + 8_000 + 1_000, START + HOUR)
    assert [kind for kind, _, _ in audit.found()] == (["output"] if stops else [])


def test_a_call_that_lapsed_may_have_gone_on_to_its_grant(audit):
    audit.read(0, 0, START)
    talk(audit)
    lapsed = {"usage_source": "running", "end_reason": "lapsed", "stream": True, "duration_ms": 500}
    audit.call(100, 100, START + 20 * MINUTE, granted_tokens=8_000, prompt_tokens_max=400, **lapsed)
    audit.read(13_400 + 1_000, 13_000 + 8_000 + 1_000, START + HOUR)
    assert audit.found() == []
    audit.read(13_400 + 1_001, 13_000 + 8_000 + 1_001, START + HOUR + MINUTE)
    assert [kind for kind, _, _ in audit.found()] == ["prompt", "output"]


def test_a_call_broken_off_while_the_engine_is_read_may_have_been_counted_before(audit):
    audit.read(0, 0, START)
    talk(audit)
    audit.call(0, 0, START + HOUR - MINUTE, seconds=90, granted_tokens=3_000, duration_ms=90_000, **UNHEARD)
    audit.read(13_000, 13_000 + 3_500, START + HOUR)
    assert audit.found(START + 3 * HOUR) == []


def test_a_guess_at_a_call_broken_off_may_be_wrong_either_way(audit):
    guessed = {"usage_source": "estimated", "end_reason": "client_gone", "stream": True, "duration_ms": 10_000}
    for turn, counted in enumerate((0, 5_000)):
        since = START + turn * HOUR
        audit.read(turn * 10_000, 0, since)
        audit.call(2_500, 0, since + MINUTE, prompt_tokens_max=5_000, granted_tokens=10, **guessed)
        audit.read(turn * 10_000 + counted, 0, since + 30 * MINUTE)
        assert audit.found() == []


def test_nothing_is_said_while_the_journal_is_behind(audit):
    audit.read(0, 0, START)
    audit.read(0, 5_000, START + HOUR)
    settle(audit.store, audit.who.event(engine_id=audit.engine.id))
    assert audit.found(datetime.now(UTC) + 2 * MINUTE) == []
    drain(audit.journal)
    assert len(audit.found(datetime.now(UTC) + 2 * MINUTE)) == 1


def test_an_interval_that_never_comes_to_rest_ends_after_a_day(audit):
    audit.read(0, 0, START)
    audit.read(0, 10, START + timedelta(days=1, seconds=1))
    assert audit.found(START + timedelta(days=2)) == []
    assert audit.boundary() == "too_long"


def test_readings_are_kept_for_a_week(audit):
    audit.read(0, 0, START - timedelta(days=8))
    audit.read(0, 0, START)
    assert [reading.at for reading in EngineReading.objects.all()] == [START]


def test_reconcile_names_what_was_found_until_it_is_resolved(audit):
    audit.read(0, 0, START)
    audit.read(0, 5_000, START + HOUR)
    audit.found()
    (difference,) = reconcile.reconcile(audit.store)
    assert str(difference).startswith(f"engine counters: {ROOT}, output tokens")
    assert str(difference).endswith("expected 5000 counted there, give or take 1000, found 0 metered")
    assert engine_counters.resolve([EngineFinding.objects.get().id], START) == 1
    assert list(reconcile.reconcile(audit.store)) == []


def test_what_a_probe_made_the_engine_do_is_not_held_against_it(audit):
    audit.read(0, 0, START)
    engine_counters.begin_anew(audit.engine.base_url)
    audit.read(0, 5_000, START + HOUR)
    assert audit.found() == []
    assert audit.boundary() == "first"
