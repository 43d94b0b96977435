"""The benchmark itself works: everything starts, loads run, and every call that an engine saw is in the books. Nothing
here looks at a clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.speed.customer import customers
from tests.speed.load import STREAMED, WHOLE
from tests.speed.programs import engines, programs
from tests.speed.table import aims, table, void
from tests.speed.trial import ENGINE_ROOM_MIN, SHORT, Results, Trial


@pytest.fixture
def results(transactional_db: None, tmp_path: Path) -> Results:
    with engines(tmp_path, SHORT.pace) as ports:
        buyers = customers(
            whole_url=f"http://127.0.0.1:{ports.engine}/v1", streamed_url=f"http://127.0.0.1:{ports.paced}/v1"
        )
        with programs(tmp_path / "var", ports, tmp_path / "gateway") as started:
            return Trial(SHORT, started, buyers, tmp_path).run(print)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_every_call_of_a_benchmark_is_answered_and_metered(results):
    assert results.errors == 0
    assert results.is_whole
    assert results.asked[STREAMED] == SHORT.pace.streams
    assert results.asked[WHOLE] >= results.proxy.bursts[64][0].answers > 0
    assert results.is_metered
    assert results.unlike == 0
    assert void(results) == [] or results.engine_room < ENGINE_ROOM_MIN
    assert "streams of 5: whole" in table(results)
    assert "10 limits" in table(results)
    assert all(aim.value > 0 for aim in aims(results))
    for wrong in (results.asked[WHOLE] - 1, results.asked[WHOLE] + results.left[WHOLE] + 1):
        results.events[WHOLE] = wrong
        assert "VOID: asked" in table(results)
