"""Row 6 of the fault matrix under an Idempotency-Key: a worker dies at each moment between an answer's making and its
delivery, and the same request is sent again to a worker that lives. It is charged once, and its client has the answer,
or is told why not.
"""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import orjson
import pytest

from billing.models import UsageEvent
from tests.chaos.processes import Processes, Proxy, wait_for
from tests.chaos.test_fault_matrix import at_rest, cut_fairly, delivered, made, true_cost
from tests.proxy.shop import HELLO, Shop

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(240)]

PATH = "/chat/completions"
RUNS_ANEW = "before_answer_kept"
POINTS = (RUNS_ANEW, "after_answer_kept", "before_answer_marked")
"""About the answer's keeping. Rows 5 and 6 (test_fault_matrix.py) are killed about its charge, between the two last."""


def body_of(case: str, *, stream: bool) -> bytes:
    tokens = 200 if case == "mid_stream" else 16
    return orjson.dumps({"model": "aion-v3", "messages": HELLO, "max_tokens": tokens, "stream": stream, "user": case})


def ask(proxy: Proxy, case: str, *, stream: bool) -> httpx.Response:
    return proxy.client.post(PATH, content=body_of(case, stream=stream), headers={"idempotency-key": case})


def killed(proxy: Proxy, case: str, *, stream: bool) -> bytes:
    """What came before the worker died."""
    got, headers = b"", {"idempotency-key": case}
    with (
        suppress(httpx.TransportError),
        proxy.client.stream("POST", PATH, content=body_of(case, stream=stream), headers=headers) as response,
    ):
        for piece in response.iter_raw():
            got += piece
    assert proxy.wait() == -signal.SIGKILL, case
    assert b"[DONE]" not in got
    return got


def retried(shop: Shop, proxy: Proxy, case: str, *, stream: bool) -> httpx.Response:
    """As a client goes on asking that is told to wait."""
    answers = [ask(proxy, case, stream=stream)]

    def judged() -> bool:
        if answers[-1].status_code == 409 and answers[-1].headers["x-should-retry"] == "true":
            for name in shop.store.scan_iter("*:idem:*"):
                if shop.store.getrange(name, 0, 6) == b"running":
                    shop.store.delete(name)  # as if 90 s had passed
            answers.append(ask(proxy, case, stream=stream))
            return False
        return True

    wait_for(judged, what=f"a judgement of {case}")
    return answers[-1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_6_the_same_request_again_is_charged_once_wherever_its_worker_died(
    shop: Shop, processes: Processes, stream: bool
) -> None:
    points = (*POINTS, "mid_stream") if stream else POINTS
    shop.inference.engine.control.tokens_per_second = 60
    with ThreadPoolExecutor() as pool:
        alive, *doomed = pool.map(processes.worker, ("", *points))
        got = dict(
            zip(
                points,
                pool.map(lambda pair: killed(*pair, stream=stream), zip(doomed, points, strict=True)),
                strict=True,
            )
        )
    if stream:
        processes.journal()  # a cut stream counts as running until somebody has charged what came of it
    again = {point: retried(shop, alive, point, stream=stream) for point in points}
    third = {point: ask(alive, point, stream=stream) for point in points}
    if not stream:
        processes.journal()
    at_rest(shop, len(points) if stream else len(points) + 1)
    truth = made(shop)
    rows = {str(row.call_id): row for row in UsageEvent.objects.filter(kind="call")}
    charged: Counter[str] = Counter()
    for row in UsageEvent.objects.filter(cost_nanos__gt=0):  # a correction: charged as lapsed before it was asked again
        charged[str(row.corrects or row.call_id)] += row.cost_nanos
    for point in points:
        if point == "mid_stream" or (stream and point == RUNS_ANEW):
            error = again[point].json()["error"]
            assert (again[point].status_code, error["code"]) == (409, "idempotency_key_used")
            (call_id,) = [each for each in rows if each in error["message"]]
            cut_fairly(rows[call_id], truth[call_id], tokens=delivered(got[point]), rate=60)
            del charged[call_id]
            continue
        assert again[point].status_code == 200, (point, again[point].text)
        call_id = again[point].headers["x-request-id"]
        assert charged.pop(call_id) == true_cost(truth[call_id]), point
        assert third[point].headers["idempotent-replayed"] == "true"
        assert third[point].content == again[point].content
        assert ("idempotent-replayed" in again[point].headers) is (point != RUNS_ANEW), point
        if stream:
            assert again[point].content.startswith(got[point])
            assert again[point].content.endswith(b"data: [DONE]\n\n")
    assert charged == {}  # nothing beside
