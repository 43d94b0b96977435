"""The meter, on what engines are known to send (shapes captured from llama.cpp and transformers, and from vLLM's,
SGLang's and TGI's own sources), on lies, and under any cut of the bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.snapshot import Capabilities
from billing.usage import Usage
from proxy.meter import Bounds, Ending, Flag, Kind, Measured, Meter, Source
from proxy.reporting import can_count_choices, reporting_fields

PLAIN = Capabilities()
REPORTS_CACHED = Capabilities(reports_cached=True)
VLLM = Capabilities(reports_cached=True, running_usage="continuous_usage_stats")
LLAMACPP = Capabilities(reports_cached=True, running_usage="timings_per_token", counts_every_choice=False)
NO_DONE = Capabilities(sends_done=False)


def bounds(**fields) -> Bounds:
    return Bounds(**{"prompt_tokens_max": 1000, "output_tokens_max": 100, "context_length": 2000} | fields)


def sse(*events, done: bool = True) -> bytes:
    """Compact JSON, as every engine's serialiser writes it."""
    texts = [json.dumps(event, separators=(",", ":")) for event in events] + (["[DONE]"] if done else [])
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)


def choice(text: str | None = None, *, finish: str | None = None, index: int = 0, **delta) -> dict[str, Any]:
    body = ({} if text is None else {"content": text}) | delta
    return {"index": index, "delta": body, "finish_reason": finish}


def chunk(*choices, **fields) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)} | fields


def usage(prompt: int, output: int, **fields) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output} | fields


def timings(cache: int, prompt: int, predicted: int) -> dict[str, Any]:
    return {"cache_n": cache, "prompt_n": prompt, "prompt_ms": 1.5, "predicted_n": predicted, "predicted_ms": 2.5}


def stream(
    text: bytes, capabilities: Capabilities = PLAIN, *, ending: Ending = Ending.COMPLETE, limits: Bounds | None = None
) -> Measured:
    meter = Meter(capabilities, limits or bounds())
    meter.feed(text)
    meter.finish()
    return meter.result(ending)


def whole(body: object, capabilities: Capabilities = PLAIN, *, limits: Bounds | None = None) -> Measured:
    meter = Meter(capabilities, limits or bounds())
    meter.whole(body if isinstance(body, bytes) else json.dumps(body).encode())
    return meter.result(Ending.COMPLETE)


def answer(text: str = "hello there", finish: str = "stop", **fields) -> dict[str, Any]:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]} | fields


HELLO = (chunk(choice(role="assistant")), chunk(choice("hel")), chunk(choice("lo")))
END = chunk(choice(finish="stop"))


# streams that end well ----------------------------------------------------------------------------------------------


def test_final_usage_of_a_stream_is_taken():
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}
    result = stream(sse(*HELLO, END, chunk(usage=usage(10, 2, **details))))
    assert result == Measured(Usage(6, 4, None, 2, 1), Source.FINAL, "stop", (), 10)
    assert result.succeeded


def test_events_are_sorted_for_the_client():
    meter = Meter(PLAIN, bounds())
    events = meter.feed(b": ping\n\n" + sse(*HELLO, END, chunk(usage=usage(10, 2))))
    kinds = [event.kind for event in events]
    assert kinds == [Kind.SIGN_OF_LIFE, Kind.CONTENT, Kind.CONTENT, Kind.CONTENT, Kind.FINISH, Kind.USAGE, Kind.DONE]
    assert meter.content_events == 2
    assert meter.finished
    assert meter.feed(sse(chunk(choice("after the end")))) == []


def test_running_usage_is_replaced_never_added():
    """vLLM with continuous_usage_stats; cached tokens are only in the final chunk."""
    running = [chunk(choice("x"), usage=usage(10, n)) for n in (1, 2, 3)]
    final = chunk(usage=usage(10, 3, prompt_tokens_details={"cached_tokens": 8}))
    result = stream(sse(*running, chunk(choice(finish="length"), usage=usage(10, 3)), final), VLLM)
    assert result == Measured(Usage(2, 8, None, 3), Source.FINAL, "length", (), 10)


def test_text_with_running_count_is_not_parsed_until_asked():
    meter = Meter(VLLM, bounds())
    meter.feed(sse(chunk(choice("w"), usage=usage(10, 1)), done=False))  # the first text is read
    events = meter.feed(sse(*[chunk(choice("x"), usage=usage(10, n)) for n in (1, 2, 3)], done=False))
    assert [(event.kind, event.parsed, event.extra) for event in events] == [(Kind.CONTENT, None, True)] * 3
    assert meter.running() == Usage(input=10, output=3)
    meter.feed(sse(chunk(choice("x"), usage=usage(10, 4)), done=False))
    assert meter.running() == Usage(input=10, output=4)


def test_text_that_looks_like_counts_is_only_text():
    tricky = ',"usage":{"completion_tokens":90}},"finish_reason":null,"timings":{"predicted_n":90},"error":"[DONE]"'
    result = stream(sse(chunk(choice(tricky)), chunk(choice('"usage"')), END, chunk(usage=usage(10, 2))))
    assert result == Measured(Usage(10, None, None, 2), Source.FINAL, "stop", ("cache_unknown",), 10)


def test_llamacpp_finish_timings_count_when_usage_is_missing():
    """Captured: without include_usage llama.cpp sends only timings, in the finish chunk."""
    result = stream(sse(*HELLO, chunk(choice(finish="length"), timings=timings(4, 6, 12))), LLAMACPP)
    assert result == Measured(Usage(6, 4, None, 12), Source.FINAL, "length", (), 10)


def test_transformers_finish_chunk_carries_usage_and_no_done():
    finish = chunk(choice(finish="length")) | {"usage": usage(7, 5)}
    result = stream(sse(*HELLO, finish, done=False), NO_DONE)
    assert result == Measured(Usage(7, None, None, 5), Source.FINAL, "length", ("cache_unknown",), 7)


def test_completions_stream_with_usage_in_the_finish_chunk():
    text = {"index": 0, "text": "ab", "finish_reason": None}
    end = {"index": 0, "text": "", "finish_reason": "length"}
    result = stream(sse({"choices": [text]}, {"choices": [end], "usage": usage(3, 9)}))
    assert (result.usage.output, result.source, result.end_reason) == (9, Source.FINAL, "length")


def test_event_without_choices_or_usage_is_only_a_sign_of_life():
    meter = Meter(PLAIN, bounds())
    assert [event.kind for event in meter.feed(sse(chunk(prompt_filter_results=[]), done=False))] == [Kind.SIGN_OF_LIFE]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos_token", "stop"),
        ("repetition", "stop"),
        ("abort", "upstream_error"),
        ("error", "upstream_error"),
    ],
)
def test_finish_reasons(finish, expected):
    assert stream(sse(chunk(choice("x", finish=finish)), chunk(usage=usage(1, 1)))).end_reason == expected
    assert whole(answer(finish=finish, usage=usage(1, 1))).end_reason == expected


# several choices ----------------------------------------------------------------------------------------------------


def test_running_counts_of_choices_are_added_newest_of_each():
    """vLLM with n=2: each chunk's count is that choice's own."""
    events = [chunk(choice("x", index=i), usage=usage(10, n)) for i, n in ((0, 1), (1, 1), (0, 2), (1, 2), (1, 3))]
    result = stream(sse(*events, done=False), VLLM, ending=Ending.CLIENT_GONE, limits=bounds(choices=2))
    assert result == Measured(Usage(10, None, None, 5), Source.RUNNING, "client_gone", ("cache_unknown",), 10)


def test_final_usage_of_all_choices_wins():
    events = [chunk(choice("x", index=i, finish="length"), usage=usage(10, 2)) for i in (0, 1)]
    result = stream(sse(*events, chunk(usage=usage(10, 4))), VLLM, limits=bounds(choices=2))
    assert (result.usage.output, result.source, result.end_reason) == (4, Source.FINAL, "length")


def test_engine_that_counts_only_the_first_choice_is_counted_by_its_running_counts():
    """llama.cpp with n=2: told 208, really made 409."""
    events = [chunk(choice("x", index=i), timings=timings(0, 10, n)) for i, n in ((0, 1), (1, 1), (0, 2), (1, 40))]
    ends = [chunk(choice(finish="stop", index=i), timings=timings(0, 10, n)) for i, n in ((0, 3), (1, 41))]
    result = stream(sse(*events, *ends), LLAMACPP, limits=bounds(choices=2))
    assert (result.usage, result.source) == (Usage(10, 0, None, 44), Source.FINAL)
    result = stream(sse(*events, *ends, chunk(usage=usage(10, 3))), LLAMACPP, limits=bounds(choices=2))
    assert (result.usage, result.source) == (Usage(10, 0, None, 44), Source.RUNNING)


def test_stream_is_finished_only_with_every_choice_it_showed():
    events = sse(
        chunk(choice("a")), chunk(choice("b", index=1)), chunk(choice(finish="stop")), chunk(usage=usage(1, 2))
    )
    result = stream(events, limits=bounds(choices=2))
    assert (result.end_reason, result.flags) == ("upstream_cut", ("cache_unknown", "no_done"))


def test_whether_choices_can_be_counted():
    assert can_count_choices(VLLM, stream=False)
    assert can_count_choices(LLAMACPP, stream=True)
    assert not can_count_choices(LLAMACPP, stream=False)
    assert not can_count_choices(Capabilities(counts_every_choice=False), stream=True)


# streams that end badly ---------------------------------------------------------------------------------------------


def test_stream_without_done_is_cut_unless_the_engine_never_sends_it():
    events = sse(*HELLO, END, chunk(usage=usage(10, 2)), done=False)
    result = stream(events)
    assert (result.end_reason, result.flags) == ("upstream_cut", ("cache_unknown", "no_done"))
    assert result.usage.output == 2
    assert not result.succeeded
    assert stream(events, NO_DONE).end_reason == "stop"


def test_done_without_finish_reason_is_cut():
    result = stream(sse(*HELLO))
    assert (result.end_reason, Flag.NO_FINISH_REASON in result.flags) == ("upstream_cut", True)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "died", "type": "InternalServerError", "param": None, "code": 500}},
        {"error": "text", "error_type": "overloaded"},
        {"object": "error", "message": "out of memory", "type": "x", "code": 500},
        chunk(error={"message": "with choices"}, usage=usage(10, 2)),
    ],
)
def test_error_frame_in_a_200_stream_ends_it(error):
    meter = Meter(PLAIN, bounds())
    events = meter.feed(sse(*HELLO, error, END))
    assert events[-1].kind is Kind.ERROR
    assert meter.error
    assert meter.feed(sse(END)) == meter.finish() == []
    result = meter.result(Ending.COMPLETE)
    assert (result.end_reason, result.source, result.usage.output) == ("upstream_error", "estimated", 2)


@pytest.mark.parametrize("event", [b"data: {oops\n\n", b"data: [1]\n\n", b"data: \n\n", b"data: null\n\n"])
def test_event_that_is_no_json_object_is_an_error(event):
    result = stream(event)
    assert (result.end_reason, result.flags, result.source) == ("upstream_error", ("bad_event",), Source.NONE)


def test_broken_text_behind_a_running_count_is_no_crash():
    meter = Meter(VLLM, bounds())
    meter.feed(sse(chunk(choice("x")), done=False))
    meter.feed(b'data: {"finish_reason":null,"usage":{\n\n')
    meter.feed(b'data: {"x":{"finish_reason":null},"usage":{"prompt_tokens":3}}\n\n')
    assert meter.running().input == 3
    meter.feed(b'data: {"finish_reason":null,"usage":{\n\n')
    assert meter.result(Ending.COMPLETE).flags == ("bad_event", "cache_unknown", "no_finish_reason", "output_estimated")


def test_client_gone_is_charged_what_was_made():
    events = [chunk(choice("x"), timings=timings(2, 8, n)) for n in (1, 2, 3, 4, 5)]
    result = stream(sse(*events, done=False), LLAMACPP, ending=Ending.CLIENT_GONE)
    assert result == Measured(Usage(8, 2, None, 5), Source.RUNNING, "client_gone", (), 10)


def test_client_gone_from_an_engine_that_counts_nothing_is_charged_its_chunks():
    events = sse(*[chunk(choice("word "))] * 5, done=False)
    result = stream(events, ending=Ending.CLIENT_GONE, limits=bounds(prompt_bytes=41))
    assert result.usage == Usage(input=11, output=5)
    assert result.source == "estimated"
    assert result.flags == ("cache_unknown", "output_estimated", "prompt_estimated", "usage_missing")
    known = stream(events, ending=Ending.CLIENT_GONE, limits=bounds(prompt_bytes=41, prompt_tokens=9))
    assert known.usage.input == 9


def test_chunks_of_many_words_are_more_than_one_token():
    result = stream(sse(chunk(choice("x" * 800)), done=False), ending=Ending.CUT)
    assert result.usage.output == 100


def test_what_had_arrived_when_the_client_left_is_counted_but_does_not_end_well():
    meter = Meter(PLAIN, bounds())
    meter.feed(sse(*HELLO, done=False))
    meter.absorb(sse(END, chunk(usage=usage(10, 2))))
    result = meter.result(Ending.CLIENT_GONE)
    assert (result.usage.output, result.source, result.end_reason) == (2, Source.FINAL, "client_gone")


def test_what_to_ask_a_stream_for():
    assert reporting_fields(PLAIN, choices=2) == {"stream_options": {"include_usage": True}}
    assert reporting_fields(VLLM, choices=1)["stream_options"]["continuous_usage_stats"] is True
    assert reporting_fields(LLAMACPP, choices=1) == {
        "timings_per_token": True,
        "stream_options": {"include_usage": True},
    }
    assert reporting_fields(LLAMACPP, choices=2)["stream_options"]["include_usage"] is False


@pytest.mark.parametrize("ending", [Ending.CUT, Ending.TIMEOUT, Ending.CLIENT_GONE, Ending.LAPSED, Ending.ERROR])
def test_nothing_seen_is_nothing_charged(ending):
    assert stream(b": ping\n\n", ending=ending) == Measured(Usage(), Source.NONE, ending.value, (), None)


def test_client_that_leaves_after_done_has_been_served():
    result = stream(sse(*HELLO, END, chunk(usage=usage(10, 2))), ending=Ending.CLIENT_GONE)
    assert (result.end_reason, result.source) == ("stop", Source.FINAL)


# whole answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (usage(10, 5), Usage(10, 0, None, 5)),
        (usage(10, 5, prompt_tokens_details=None), Usage(10, 0, None, 5)),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": 4}), Usage(6, 4, None, 5)),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": 4, "cache_write_tokens": 3}), Usage(3, 4, 3, 5)),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": 4, "created_cache_tokens": 3}), Usage(3, 4, 3, 5)),
        (usage(10, 5, cache_read_input_tokens=4), Usage(6, 4, None, 5)),
        (usage(10, 5, cache_read_input_tokens=4, cache_creation_input_tokens=1), Usage(5, 4, 1, 5)),
        (usage(10, 5, prompt_cache_hit_tokens=4), Usage(6, 4, None, 5)),
        (usage(10, 5, reasoning_tokens=2), Usage(10, 0, None, 5, 2)),
        (usage(10, 5, completion_tokens_details={"reasoning_tokens": 2}), Usage(10, 0, None, 5, 2)),
        ({"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}, Usage(6, 4, None, 5)),
        ({"input_tokens": 10, "cache_read_input_tokens": 4, "output_tokens": 5}, Usage(10, 4, None, 5)),
    ],
)
def test_spellings_of_usage(said, expected):
    result = whole(answer(usage=said), REPORTS_CACHED)
    assert (result.usage, result.source, result.flags) == (expected, Source.FINAL, ())


def test_absent_cache_is_unknown_where_the_engine_does_not_report_it():
    result = whole(answer(usage=usage(10, 5)))
    assert result.usage.cache_read is None
    assert result.flags == (Flag.CACHE_UNKNOWN,)


def test_llamacpp_whole_answer():
    """Captured: usage and timings agree; prompt_tokens includes the cached ones."""
    body = answer(usage=usage(19, 8, prompt_tokens_details={"cached_tokens": 18}), timings=timings(18, 1, 8))
    assert whole(body, LLAMACPP).usage == Usage(1, 18, None, 8)


def test_embeddings():
    body = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 3000, "total_tokens": 3000}}
    result = whole(body, limits=bounds(generates=False, prompt_tokens_max=5000, output_tokens_max=0))
    assert (result.usage, result.end_reason) == (Usage(input=3000), "stop")


def test_responses_api_whole_and_streamed():
    said = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}}
    body = {"object": "response", "status": "incomplete", "output": [], "usage": said}
    result = whole(body)
    assert (result.usage, result.end_reason) == (Usage(8, 1, None, 4), "length")
    events = (
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": "hel"},
        {"type": "response.completed", "response": body},
    )
    result = stream(sse(*events, done=False))
    assert (result.usage, result.end_reason, result.source) == (Usage(8, 1, None, 4), "stop", Source.FINAL)
    cut = stream(sse(*events[:2], done=False), ending=Ending.CUT)
    assert (cut.usage.output, cut.source) == (1, Source.ESTIMATED)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"choices":[{"message"'])
def test_whole_answer_that_is_no_json_object_is_an_error(body):
    result = whole(body)
    assert (result.end_reason, result.flags) == ("upstream_error", ("bad_event",))


def test_error_body_under_200_is_an_error():
    assert whole({"error": {"message": "x"}}).end_reason == "upstream_error"
    assert whole({"object": "error", "message": "x"}).source == "none"


def test_whole_answer_without_usage_is_estimated_from_its_text():
    result = whole(answer("x" * 41), limits=bounds(prompt_bytes=8))
    assert (result.usage, result.source) == (Usage(input=2, output=11), Source.ESTIMATED)
    assert Flag.USAGE_MISSING in result.flags
    assert result.end_reason == "stop"


def test_tool_calls_and_reasoning_are_content():
    calls = [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]
    assert stream(sse(chunk(choice(tool_calls=calls)), done=False), ending=Ending.CUT).usage.output >= 1
    assert stream(sse(chunk(choice(reasoning="hm")), done=False), ending=Ending.CUT).usage.output == 1
    assert stream(sse(chunk(choice(reasoning_content="hm")), done=False), ending=Ending.CUT).usage.output == 1


# lies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected", "flags"),
    [
        (usage(10, 101), Usage(10, 0, None, 100), {"output_over_grant"}),
        (usage(1001, 5), Usage(1000, 0, None, 5), {"prompt_over_hold"}),
        (usage(10, 10**12), Usage(10, 0, None, 100), {"output_over_grant"}),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": 11}), Usage(0, 10, None, 5), {"cached_over_prompt"}),
        (
            usage(10, 5, prompt_tokens_details={"cached_tokens": 8, "cache_write_tokens": 8}),
            Usage(0, 8, 2, 5),
            {"cached_over_prompt"},
        ),
        (usage(10, 5, reasoning_tokens=6), Usage(10, 0, None, 5, 5), {"reasoning_over_output"}),
        (usage(10, 5, reasoning_tokens="6"), Usage(10, 0, None, 5), {"usage_invalid"}),
        (usage(10, 5, prompt_tokens_details=7), Usage(10, 0, None, 5), {"usage_invalid"}),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": -1}), Usage(10, 0, None, 5), {"usage_negative"}),
        (usage(10, 5, prompt_tokens_details={"cached_tokens": True}), Usage(10, 0, None, 5), {"usage_invalid"}),
    ],
)
def test_impossible_usage_is_clamped_and_flagged(said, expected, flags):
    result = whole(answer(usage=said), REPORTS_CACHED)
    assert (result.usage, set(result.flags), result.source) == (expected, flags, Source.FINAL)
    assert result.reported_prompt == said["prompt_tokens"]


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        (-5, "usage_negative"),
        ("5", "usage_invalid"),
        (True, "usage_invalid"),
        (5.5, "usage_invalid"),
        ([], None),
        (2**60, None),
    ],
)
def test_output_that_is_no_count_is_estimated_from_what_was_delivered(bad, flag):
    result = whole(answer("x" * 40, usage={"prompt_tokens": 10, "completion_tokens": bad}))
    assert (result.usage.input, result.usage.output, result.source) == (10, 10, Source.ESTIMATED)
    assert (flag or "usage_invalid") in result.flags
    assert Flag.OUTPUT_ESTIMATED in result.flags


def test_final_usage_that_is_no_count_falls_back_on_the_running_one():
    running = chunk(choice("x", finish="stop"), usage=usage(10, 7))
    result = stream(sse(running, chunk(usage={"prompt_tokens": 10, "completion_tokens": -1})), VLLM)
    assert (result.usage.output, result.source) == (7, Source.RUNNING)
    assert Flag.USAGE_NEGATIVE in result.flags


@pytest.mark.parametrize("bad", [-1, "8"])
def test_events_that_hold_no_text_are_not_charged_where_no_usage_can_be_used(bad):
    said = {"prompt_tokens": 10, "completion_tokens": bad}
    texts = [choice("", role="assistant"), *(choice("word ") for _ in range(8)), choice(""), choice(finish="stop")]
    result = stream(sse(*(chunk(text, usage=said) for text in texts), chunk(usage=said)), VLLM)
    assert (result.usage.output, result.source) == (8, Source.ESTIMATED)


@pytest.mark.parametrize("said", ["many", 7, [], True])
def test_usage_that_is_no_object_is_missing(said):
    result = whole(answer("x" * 40, usage=said))
    assert (result.usage.output, result.source) == (10, Source.ESTIMATED)
    assert Flag.USAGE_INVALID in result.flags


def test_past_the_context_is_clamped():
    result = whole(answer(usage=usage(900, 90)), limits=bounds(context_length=950))
    assert (result.usage.input, result.usage.output) == (900, 50)
    assert Flag.PAST_CONTEXT in result.flags
    result = whole(answer(usage=usage(990, 5)), limits=bounds(context_length=950))
    assert (result.usage.input, result.usage.output) == (950, 0)


COUNTS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(0, 3000), st.floats(), st.text(max_size=3)
)
DETAILS = st.one_of(COUNTS, st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens"]), COUNTS))
SAID = st.dictionaries(
    st.sampled_from(
        [
            *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "reasoning_tokens"),
            *("prompt_tokens_details", "cache_read_input_tokens", "completion_tokens_details", "total_tokens"),
        ]
    ),
    DETAILS,
)


@given(st.one_of(SAID, COUNTS), st.integers(1, 3), st.booleans())
def test_nothing_an_engine_says_is_charged_above_the_hold(said, choices, counts_all):
    limits = bounds(choices=choices)
    capabilities = Capabilities(counts_every_choice=counts_all)
    text = json.dumps(chunk(usage=said)).replace("NaN", "1e999").replace("Infinity", "1e999").encode()
    meter = Meter(capabilities, limits)
    meter.feed(sse(*HELLO, END, done=False) + b"data: " + text + b"\n\n")
    used = meter.result(Ending.COMPLETE).usage
    assert 0 <= used.prompt_tokens <= limits.prompt_tokens_max
    assert 0 <= used.output <= limits.output_tokens_max * choices
    assert used.input >= 0
    assert (used.cache_read or 0) >= 0
    assert (used.cache_write or 0) >= 0
    assert 0 <= (used.reasoning or 0) <= used.output


# any cut ------------------------------------------------------------------------------------------------------------

LONG = (
    b": ping\r\n\r\n"
    + sse(
        *[chunk(choice("wörd", index=i % 2), usage=usage(10, 1 + n)) for n, i in enumerate([0, 1, 0, 1, 1])], done=False
    )
    + sse(*[chunk(choice(finish="stop", index=i), usage=usage(10, 6)) for i in (0, 1)], done=False)
    + sse(chunk(usage=usage(10, 12, prompt_tokens_details={"cached_tokens": 3})))
)


@given(st.lists(st.integers(0, len(LONG)), max_size=40), st.integers(0, len(LONG)))
def test_any_cut_of_the_bytes_meters_the_same(borders, end):
    text = LONG[:end]
    limits = bounds(choices=2)
    once = Meter(VLLM, limits)
    events = once.feed(text) + once.finish()
    pieces = Meter(VLLM, limits)
    ends = sorted({min(border, end) for border in borders} | {0, end})
    seen = [event for a, b in pairwise(ends) for event in pieces.feed(text[a:b])] + pieces.finish()
    assert seen == events
    assert pieces.result(Ending.CUT) == once.result(Ending.CUT)
    assert pieces.running() == once.running()


@given(st.binary(max_size=300))
def test_garbage_never_breaks_the_meter(garbage):
    meter = Meter(LLAMACPP, bounds())
    meter.feed(sse(*HELLO, done=False) + garbage)
    meter.finish()
    assert meter.result(Ending.COMPLETE).usage.output <= 100
    Meter(PLAIN, bounds()).whole(garbage)
