"""Each safeguard of the script is needed: a scene holds with it and breaks when that one line is taken away."""

import time

import pytest

from billing import script
from tests.billing.stage import EPOCH, open_epoch

SHARD, ORGANIZATION, BRAND = 1, "65", "2"
DAY_MS = 86_400_000


class Lab:
    """One organization with 1,000 nanos and a limit of 1,000 tokens a day, asked in the script's own words."""

    def __init__(self, client, text):
        self.client, self.text = client, text
        client.flushall()
        open_epoch(client, shards=[SHARD])
        for name in ("key:1", f"org:{ORGANIZATION}"):
            client.hset(script.name(SHARD, name), "v", "1")
        client.hset(script.name(SHARD, "policy"), BRAND, "1")
        start = int(time.time() * 1000) // DAY_MS * DAY_MS
        self.bounds = ("d20261121", start - DAY_MS, start + 2 * DAY_MS, "m202611", start - DAY_MS, start + 9 * DAY_MS)

    def ask(self, *entry):
        (verdict,) = self.ask_at_once(entry)
        return verdict

    def ask_at_once(self, *entries):
        payload = script.packed([script.encode(entry) for entry in entries])
        return script.decode(self.client.eval(self.text, 1, script.name(SHARD, script.EPOCH), payload))

    def seed(self, seq="0", last_id="0-0", balance="1000", tokens="0"):
        return self.ask(
            *("seed", SHARD, EPOCH, ORGANIZATION, seq, last_id, balance),
            [("d20261121", 0, "20261121", "20261122", [("o", "tok", tokens)])],
        )

    def reserve(self, call_id, tokens=100, **how):
        return self.ask(*self.reserve_entry(call_id, tokens, **how))

    def reserve_entry(self, call_id, tokens=100, *, epoch=EPOCH, version="1", not_after=2**52, key_limit="", slots=()):
        counters = [1, "o", 4, *([1, "k1", 4] if key_limit else [])]
        numbers = [list(range(1, len(counters) // 3 + 1)), [], [], []]
        static = (
            *(ORGANIZATION, "1", "1", BRAND, version, "1", "1", 0, 0, *self.bounds, counters),
            *([("p", 1, ["1000", *([key_limit] if key_limit else [])])], slots, len(counters) // 3, numbers),
            len(counters) // 3,
        )
        needs = [0, 0, 1] * 3 + [tokens, 0, 1] + [0, 0, 1] + [tokens, 0, 1]
        return "reserve", SHARD, epoch, call_id, script.embedded(static), 0, 0, needs, 60_000, not_after, "{}"

    def settle(self, call_id, tokens=100):
        return self.ask(*self.settle_entry(call_id, tokens))

    def settle_entry(self, call_id, tokens=100, credits=0):
        amounts = [1, tokens, 0, tokens, credits, tokens]
        return "settle", SHARD, 0, call_id, ORGANIZATION, "1", "1", "d20261121", amounts, tokens, "{}"

    def change(self, seq):
        return self.ask(*self.change_entry(seq))

    def change_entry(self, seq):
        return "apply", SHARD, 0, ORGANIZATION, seq, "500", "", "", "", [], ""

    def account(self, field="bal"):
        return int(self.client.hget(script.name(SHARD, f"a:{ORGANIZATION}"), field) or 0)


def settling_twice_charges_once(lab):
    lab.seed()
    lab.reserve("c")
    lab.settle("c")
    lab.settle("c")
    return lab.account() == 900


def reserving_twice_holds_once(lab):
    lab.seed()
    return lab.reserve("c") == lab.reserve("c") and lab.account("held") == 100


def calls_together_never_hold_more_than_there_is(lab):
    lab.seed()
    return sum(lab.reserve(f"c{n}")[0] == "OK" for n in range(20)) == 10


def a_change_adds_to_what_its_run_has_moved(lab):
    lab.seed()
    lab.reserve("c")
    lab.ask_at_once(lab.settle_entry("c"), lab.change_entry("1"), lab.settle_entry("d"))
    return lab.account() == 1_400


def a_step_that_fails_moves_nothing(lab):
    lab.seed()
    lab.reserve("c")
    failed, _ = lab.ask_at_once(lab.settle_entry("c", credits=[]), lab.settle_entry("d"))
    return failed[0] == "ERROR" and lab.account() == 1_000 and lab.settle("c")[3] == 0 and lab.account() == 900


def a_step_that_fails_undoes_nothing_of_others(lab):
    lab.seed()
    lab.reserve("broken", 1)
    lab.reserve("c", 400)
    lab.client.hset(script.name(SHARD, f"w:{ORGANIZATION}:d20261121"), "k1.cred.p", "no number")
    run = (lab.settle_entry("broken"), ("void", SHARD, 0, "c"), lab.reserve_entry("d", 900))
    return [verdict[0] for verdict in lab.ask_at_once(*run)] == ["ERROR", "OK", "OK"] and lab.account("held") == 901


def a_revoked_key_is_refused(lab):
    lab.seed()
    lab.client.hset(script.name(SHARD, "key:1"), "v", "2")
    return lab.reserve("c")[0] == "STALE"


def a_restarted_redis_decides_nothing(lab):
    lab.seed()
    lab.client.set(script.name(SHARD, script.EPOCH), f"{EPOCH}:anotherrunid")
    return lab.reserve("c")[0] == "EPOCH"


def a_worker_that_slept_through_a_rebuild_is_told(lab):
    lab.seed()
    return lab.reserve("c", epoch=EPOCH - 1)[0] == "EPOCH"


def a_reserve_that_arrives_too_late_does_nothing(lab):
    lab.seed()
    return lab.reserve("c", not_after=int(time.time() * 1000) - 5_000)[0] == "STALE"


def a_scope_used_before_its_limit_is_not_taken_for_fresh(lab):
    lab.seed()
    lab.reserve("c")
    return lab.reserve("d", key_limit="1000")[::2] == ["UNSEEDED", [2]]


def a_window_older_than_the_epoch_is_not_taken_for_fresh(lab):
    open_epoch(lab.client, int(time.time() * 1000), shards=[SHARD])
    lab.client.hset(script.name(SHARD, f"a:{ORGANIZATION}"), mapping={"seq": "0", "bal": "1000"})
    epoch = int(lab.client.get(script.name(SHARD, script.EPOCH)).split(b":")[0])
    return lab.reserve("c", epoch=epoch)[0] == "UNSEEDED"


def slots_whose_lease_ran_out_are_free(lab):
    lab.seed()
    lab.reserve("c", slots=["o", 1])
    lab.client.zadd(script.name(SHARD, f"z:{ORGANIZATION}:o"), {"c": 1})
    return lab.reserve("d", slots=["o", 1])[0] == "OK"


def a_renewed_call_does_not_lapse(lab):
    lab.seed()
    lab.reserve("c")
    amounts = [1, 0, 0, 0, 0, 0]
    lapse = ("lapse", SHARD, 0, "c", ORGANIZATION, "1", "1", "d20261121", amounts, 0, "{}", 0)
    return lab.ask(*lapse)[0] == "KEPT" and lab.account("held") == 100


def changes_apply_once(lab):
    lab.seed()
    lab.change("1")
    lab.change("1")
    return lab.account() == 1_500


def changes_apply_in_order(lab):
    lab.seed()
    return lab.change("2")[0] == "GAP" and lab.account() == 1_000


def a_seed_older_than_a_change_it_should_hold_is_refused(lab):
    lab.change("1")
    return lab.seed(seq="0")[0] == "RETRY"


def a_seed_of_another_state_than_redis_is_refused(lab):
    lab.seed()
    lab.client.hdel(script.name(SHARD, f"w:{ORGANIZATION}:d20261121"), "o.tok.p")
    return lab.seed(seq="1", tokens="7")[0] == "SEQ"


def a_seed_from_before_the_journal_deleted_is_refused(lab):
    lab.client.set(script.name(SHARD, script.DRAINED), "5-0")
    return lab.seed(last_id="4-0")[0] == "RETRY"


def a_seed_folds_in_what_the_journal_has_not_booked(lab):
    lab.seed()
    lab.reserve("c")
    lab.settle("c")
    lab.client.delete(script.name(SHARD, f"a:{ORGANIZATION}"))
    lab.seed()
    return lab.account() == 900


def late_entries_are_not_folded_in(lab):
    lab.settle("c")  # no hold: late; the books bring it as a change
    lab.seed()
    return lab.account() == 1_000


def a_seed_keeps_what_is_there(lab):
    lab.seed()
    lab.seed(balance="77")
    return lab.account() == 1_000


def a_hold_is_asserted_once(lab):
    lab.seed()
    lab.reserve("c")
    token = f"1-{lab.client.info('server')['run_id']}-mine"
    lab.client.set(script.name(SHARD, script.EPOCH), f"~{token}")
    lab.client.delete(script.name(SHARD, f"a:{ORGANIZATION}"))
    for _ in range(2):
        lab.ask("assert", SHARD, 0, token, ["c"])
    return lab.account("held") == 100


def deletions_are_remembered_for_good(lab):
    for newest in ("9-0", "5-0"):
        lab.ask("forget", SHARD, 0, "books", [newest])
    return lab.client.get(script.name(SHARD, script.DRAINED)) == b"9-0"


def a_replaced_rebuilder_changes_nothing(lab):
    lab.client.set(script.name(SHARD, script.EPOCH), "~another")
    lab.client.hset(script.name(SHARD, "a:1"), "bal", "1")
    lab.ask("clear", SHARD, 0, "mine", [script.name(SHARD, "a:1")])
    return lab.client.exists(script.name(SHARD, "a:1")) == 1


SAFEGUARDS = {
    "the hold is the marker": (
        settling_twice_charges_once,
        "  redis.call('HDEL', shard.tag .. 'holds', call_id, call_id .. ':u')\n",
        "",
    ),
    "a call id holds once": (reserving_twice_holds_once, "if twin then", "if false then"),
    "what is held is taken": (
        calls_together_never_hold_more_than_there_is,
        "and spare(limit, posted, held)",
        "and spare(limit, posted, 0)",
    ),
    "a run's counts are written before others read": (
        a_change_adds_to_what_its_run_has_moved,
        "if not shares[entry[1]] then",
        "if false then",
    ),
    "what could fail comes before writes": (
        a_step_that_fails_moves_nothing,
        "assert(type(amounts[unit]) == 'number', 'no amount')",
        "",
    ),
    "what is known of counts is not read again": (
        a_step_that_fails_undoes_nothing_of_others,
        "if values[fields[n]] == nil then",
        "if true then",
    ),
    "versions are compared": (a_revoked_key_is_refused, "~= key_version then", "== '' then"),
    "run ids are compared": (a_restarted_redis_decides_nothing, "and run == run_id", ""),
    "epochs are compared": (
        a_worker_that_slept_through_a_rebuild_is_told,
        "not shard.open or counter ~= shard.counter",
        "not shard.open",
    ),
    "a reserve has a time to act": (a_reserve_that_arrives_too_late_does_nothing, "now > entry[10] and", "false and"),
    "scopes leave a mark": (
        a_scope_used_before_its_limit_is_not_taken_for_fresh,
        "if values[asked.scope[i]] or window.began",
        "if window.began",
    ),
    "the epoch says what is fresh": (
        a_window_older_than_the_epoch_is_not_taken_for_fresh,
        "window.began < shard.counter",
        "false",
    ),
    "leases bound slots": (slots_whose_lease_ran_out_are_free, "'(' .. text(now)", "'-inf'"),
    "a lapse asks the lease": (
        a_renewed_call_does_not_lapse,
        " or tonumber(deadline) + entry[12] > now",
        "",
    ),
    "changes are numbered": (changes_apply_once, "if ahead <= 0 then", "if false then"),
    "changes have no gaps": (changes_apply_in_order, "elseif ahead > 1 then", "elseif false then"),
    "a seed knows the least number": (
        a_seed_older_than_a_change_it_should_hold_is_refused,
        "elseif known[2] and",
        "elseif false and",
    ),
    "a seed fits the number": (
        a_seed_of_another_state_than_redis_is_refused,
        "if known[1] and known[1] ~= entry[5]",
        "if false",
    ),
    "a seed knows what was deleted": (
        a_seed_from_before_the_journal_deleted_is_refused,
        "if later(redis.call('GET'",
        "if false and later(redis.call('GET'",
    ),
    "a seed folds the stream": (
        a_seed_folds_in_what_the_journal_has_not_booked,
        "if of.o == organization and",
        "if false and",
    ),
    "late entries are the books' affair": (late_entries_are_not_folded_in, " and of.late == '0'", ""),
    "a seed overwrites nothing": (
        a_seed_keeps_what_is_there,
        "redis.call('HSETNX', key, field, value)",
        "redis.call('HSET', key, field, value)",
    ),
    "asserted holds are named": (
        a_hold_is_asserted_once,
        "and redis.call('HSETNX', shard.tag .. 'asserted', call_id, 'h') == 1 then",
        "then",
    ),
    "what was deleted is kept": (
        deletions_are_remembered_for_good,
        "if not drained or later(ids[#ids], drained) then",
        "if true then",
    ),
    "rebuilders have tokens": (
        a_replaced_rebuilder_changes_nothing,
        "if shard.epoch ~= '~' .. entry[4] then",
        "if false then",
    ),
}


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_a_safeguard_is_needed(redis_connection, safeguard):
    scene, line, without = SAFEGUARDS[safeguard]
    text = script.TEXT.decode()
    assert line in text, f"the script no longer says {line!r}: name the line that does this now"
    assert scene(Lab(redis_connection, text))
    assert not scene(Lab(redis_connection, text.replace(line, without)))
