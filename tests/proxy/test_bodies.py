import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import bodies, heart
from proxy.bodies import ClientLeft, check_headers, deeper_than, parse_object, read_body
from proxy.call import Call
from proxy.dialects import dialect_named
from proxy.refusals import Declined, Reason


def reason_of(body: bytes) -> Reason:
    with pytest.raises(Declined) as caught:
        parse_object(body)
    return caught.value.problem.reason


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"3", b"{", b'{"a": NaN}', b'{"a": Infinity}', b'{"a":"\\ud800"}', b"\xff"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert reason_of(body) is Reason.INVALID_JSON


def test_deep_nesting_is_refused_before_it_is_parsed() -> None:
    assert reason_of(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}") is Reason.TOO_DEEP
    assert parse_object(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
    assert reason_of(b"[" * 1_000_000) is Reason.TOO_DEEP


def test_brackets_inside_strings_do_not_nest() -> None:
    text = '{"a": "' + "[" * 200 + '\\"' + "{" * 200 + '"}'
    assert parse_object(text.encode())["a"].startswith("[[")


def test_many_flat_objects_are_not_deep() -> None:
    assert len(parse_object(b'{"a":[' + b",".join([b'{"b":[]}'] * 10_000) + b"]}")["a"]) == 10_000


def test_the_depth_check_is_linear_on_hostile_text() -> None:
    began = time.perf_counter()
    deeper_than(b'"' + b'\\"' * 1_000_000, 64)
    deeper_than(b'"\\' * 1_000_000, 64)
    deeper_than(b"[{" * 500_000 + b"}]" * 500_000, 64)
    assert time.perf_counter() - began < 2


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\a') | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_depth_is_that_of_the_parsed_value(value) -> None:
    import orjson

    def depth(found) -> int:
        if isinstance(found, dict):
            return 1 + max(map(depth, found.values()), default=0)
        if isinstance(found, list):
            return 1 + max(map(depth, found), default=0)
        return 0

    text = orjson.dumps(value)
    for bound in range(1, 6):
        assert deeper_than(text, bound) == (depth(value) > bound)


def ignored(size: int) -> None:
    pass


def receiving(*messages):
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return receive


async def test_a_body_in_pieces_is_put_together() -> None:
    receive = receiving(
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": False},
    )
    sizes: list[int] = []
    assert await read_body(receive, sizes.append) == b"abc"
    assert sizes == [2, 1]


async def test_a_client_that_leaves_in_the_body_is_noticed() -> None:
    with pytest.raises(ClientLeft):
        await read_body(receiving({"type": "http.disconnect"}), ignored)
    with pytest.raises(ClientLeft):
        await read_body(
            receiving({"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}), ignored
        )


async def test_a_body_past_the_limit_is_refused_while_it_comes() -> None:
    piece = {"type": "http.request", "body": b"x" * (bodies.BODY_BYTES_MAX // 2 + 1), "more_body": True}
    with pytest.raises(Declined) as caught:
        await read_body(receiving(piece, piece, piece), ignored)
    assert caught.value.problem.status == 413


async def test_a_body_that_never_ends_is_a_timeout(monkeypatch) -> None:
    monkeypatch.setattr(heart, "BODY_SECONDS_MAX", 0.01)
    half = {"type": "http.request", "body": b"{", "more_body": True}
    scope = {"method": "POST", "path": "/", "query_string": b"", "headers": []}
    call = Call(scope, receiving(half), {}, dialect_named("openai"))
    beating = heart.Heart()
    beating.start()
    beating.await_body(call)
    with pytest.raises(Declined) as caught:
        await read_body(call.receive, ignored)
    assert caught.value.problem.status == 408
    await beating.stop()


async def test_a_body_of_which_nothing_comes_is_a_timeout_sooner(monkeypatch) -> None:
    """And one that keeps coming is not, however slowly."""
    monkeypatch.setattr(heart, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(heart, "SILENT_SECONDS_MAX", 0.1)
    scope = {"method": "POST", "path": "/", "query_string": b"", "headers": []}
    silent = Call(scope, receiving(), {}, dialect_named("openai"))

    async def drop() -> dict[str, object]:
        await asyncio.sleep(0.02)
        slow.body_bytes += 1
        return {"type": "http.request", "body": b"x", "more_body": slow.body_bytes < 20}

    slow = Call(scope, drop, {}, dialect_named("openai"))
    beating = heart.Heart()
    beating.start()

    async def read(call: Call) -> bytes:
        call.task = asyncio.current_task()
        beating.await_body(call)
        try:
            return await read_body(call.receive, ignored)
        finally:
            beating.body_came(call)

    slowly = asyncio.ensure_future(read(slow))
    with pytest.raises(Declined) as caught:
        await asyncio.wait_for(asyncio.ensure_future(read(silent)), 5)
    assert caught.value.problem.reason is Reason.BODY_TIMEOUT
    assert await slowly == b"x" * 20
    await beating.stop()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-encoding", b"gzip")], 415),
        ([(b"content-length", b"999999999999")], 413),
        ([(b"content-length", b"9" * 4000)], 413),
        ([(b"x", b"y" * 40_000)], 431),
        ([(b"x%d" % n, b"y") for n in range(200)], 431),
    ],
)
def test_heads_out_of_proportion_are_refused(headers, status: int) -> None:
    with pytest.raises(Declined) as caught:
        check_headers(headers, dict(headers))
    assert caught.value.problem.status == status


def test_an_ordinary_head_passes() -> None:
    headers = [(b"content-encoding", b"identity"), (b"content-length", b"12")]
    check_headers(headers, dict(headers))
