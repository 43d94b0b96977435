"""One generation of the demo engine: whole or streamed, paced, countable, and as faulty as was asked."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from portal.demo import speech
from portal.demo.faults import Directives, lie

if TYPE_CHECKING:
    from portal.demo.engine import DemoEngine, Request

CHOICES_MAX = 128
CREATED = 1_760_000_000
UNPACED_STEPS = 16
"""Tokens of a whole answer made in one go where no pace is set."""


class Refused(Exception):
    """An answer other than 200, as vLLM words them."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Job:
    """What a request asks for."""

    model: str
    chat: bool
    thinks: bool
    prompt: list[str]
    last_text: str
    max_tokens: int
    choices: int
    stop: list[str]
    stream: bool
    include_usage: bool
    running_usage: bool
    salt: str
    priority: int
    seed: str
    tool: str

    @classmethod
    def read(cls, fields: dict[str, Any], *, name: str, thinks: bool, max_model_len: int, chat: bool) -> Job:
        prompt, last = _prompt(fields, chat)
        room = max_model_len - len(prompt)
        if room < 1:
            message = f"This model's maximum context length is {max_model_len} tokens. However, your request has "
            raise Refused(400, "BadRequestError", f"{message}{len(prompt)} input tokens.", "messages")
        wanted = _integer(fields, "max_completion_tokens", 1) or _integer(fields, "max_tokens", 1)
        if wanted is not None and wanted > room:
            message = f"'max_tokens' is too large: {wanted}. This model's maximum context length is {max_model_len} "
            raise Refused(400, "BadRequestError", f"{message}tokens and your request has {len(prompt)} input tokens.")
        choices = _integer(fields, "n", 1) or 1
        if choices > CHOICES_MAX:
            raise Refused(400, "BadRequestError", f"n must be at most {CHOICES_MAX}", "n")
        salt = fields.get("cache_salt")
        if salt is not None and not (isinstance(salt, str) and salt):
            raise Refused(400, "BadRequestError", "cache_salt must be a non-empty string if provided", "cache_salt")
        stop = fields.get("stop") or []
        options = fields.get("stream_options") or {}
        return cls(
            model=name,
            chat=chat,
            thinks=thinks and chat,
            prompt=prompt,
            last_text=last,
            max_tokens=wanted or room,
            choices=choices,
            stop=[stop] if isinstance(stop, str) else [str(word) for word in stop],
            stream=fields.get("stream") is True,
            include_usage=options.get("include_usage") is True,
            running_usage=options.get("continuous_usage_stats") is True,
            salt=salt or "",
            priority=_integer(fields, "priority", -(2**31)) or 0,
            seed=f"{fields.get('seed')}:{last}",
            tool=_forced_tool(fields),
        )


class Generation:
    def __init__(self, engine: DemoEngine, request: Request, job: Job, asked: Directives) -> None:
        self.engine = engine
        self.request = request
        self.job = job
        self.asked = asked
        self.rate = asked.get("rate") or engine.control.tokens_per_second
        self.tool = job.tool or ("demo_tool" if "tool" in asked else "")
        self.made = [0] * job.choices
        self.read = 0  # prompt tokens: none while it waits for a slot
        self.cached = 0
        self.started_at = time.time()
        self.texts = [self._text(index) for index in range(job.choices)]
        self.id = ("chatcmpl-" if job.chat else "cmpl-") + (request.id or f"{abs(hash(job.seed)):x}")

    async def run(self) -> None:
        if "status" in self.asked:
            raise Refused(self.asked["status"], "DemoError", f"status {self.asked['status']}, as asked")
        watching = asyncio.create_task(self.request.watch())
        end = "aborted"
        try:
            async with self.engine.slots:
                self.engine.running += 1
                self.read = len(self.job.prompt)
                self.cached = self.engine.cache.take(self.job.salt, self.job.prompt)
                try:
                    await self._wait(self.asked.get("delay", 0) / 1000)
                    if "hang" in self.asked:
                        await self.request.gone.wait()
                    end = await (self._streamed() if self.job.stream else self._whole())
                except _Gone:
                    pass
                except _Cut:  # to return in the middle of an answer makes the server drop the connection
                    end = "died"
                finally:
                    self.engine.running -= 1
        finally:
            watching.cancel()
            self._log(end)

    # what is said -----------------------------------------------------------------------------------------------

    def _text(self, index: int) -> tuple[list[str], str]:
        """The tokens of a choice and its finish reason."""
        job = self.job
        if self.tool:
            return speech.tokenize('{"text": "' + " ".join(speech.WORDS[:4]) + '"}')[: job.max_tokens], "tool_calls"
        seed = f"{job.seed}:{index}"
        total = speech.sum_asked_for(job.last_text)
        if total and not self.asked:
            tokens = speech.answer(seed, 0, thinks=job.thinks, says=total)
            return tokens[: job.max_tokens], "stop" if len(tokens) <= job.max_tokens else "length"
        natural = self.asked.get("tokens") or speech.natural_length(seed)
        length = job.max_tokens if "fill" in self.asked else min(natural, job.max_tokens)
        tokens, stopped = speech.stopped(speech.answer(seed, length, thinks=job.thinks), job.stop)
        return tokens, "stop" if stopped or length == natural < job.max_tokens else "length"

    def _usage(self, output: int, *, final: bool) -> dict[str, Any] | None:
        prompt = len(self.job.prompt)
        usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
        if final:
            shown = self.engine.control.reports_cached and self.cached
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached} if shown else None
        return lie(usage, self.asked)

    async def _whole(self) -> str:
        for step in range(max(len(tokens) for tokens, _ in self.texts)):
            if self.rate or step % UNPACED_STEPS == 0:
                await self._pace()
            for index, (tokens, _) in enumerate(self.texts):
                self.made[index] += step < len(tokens)
            await self._break_off(step + 1)
        choices = [self._whole_choice(index) for index in range(self.job.choices)]
        body = self._frame("chat.completion" if self.job.chat else "text_completion", choices)
        body["usage"] = self._usage(sum(self.made), final=True)
        if body["usage"] is None:
            del body["usage"]
        await self.request.answer_json(body)
        return self.texts[0][1]

    def _whole_choice(self, index: int) -> dict[str, Any]:
        tokens, finish = self.texts[index]
        text = "".join(tokens)
        if not self.job.chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.tool:
            message = {"role": "assistant", "content": None, "tool_calls": [self._call(text)]}
        if "images" in self.asked:
            message["images"] = self._images()
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def _images(self) -> list[dict[str, Any]]:
        return [
            {"type": "image_url", "index": number, "image_url": {"url": speech.PIXEL}}
            for number in range(self.asked["images"])
        ]

    def _call(self, arguments: str) -> dict[str, Any]:
        return {"id": "call_demo", "type": "function", "function": {"name": self.tool, "arguments": arguments}}

    async def _streamed(self) -> str:
        await self.request.start(b"text/event-stream; charset=utf-8")
        kind = "chat.completion.chunk" if self.job.chat else "text_completion"
        if self.job.chat:
            for index in range(self.job.choices):
                await self._event(kind, index, {"role": "assistant", "content": ""}, None)
        for step in range(max(len(tokens) for tokens, _ in self.texts)):
            await self._pace()
            for index, (tokens, finish) in enumerate(self.texts):
                if step < len(tokens):
                    self.made[index] += 1
                    await self._event(kind, index, self._delta(tokens[step], step), None)
                    if step + 1 == len(tokens):
                        if self.job.chat and "images" in self.asked:
                            await self._event(kind, index, {"images": self._images()}, None)
                        await self._event(kind, index, {} if self.job.chat else {"text": ""}, finish)
            ended = await self._break_off(step + 1)
            if ended:
                return ended
        if self.job.include_usage or self.job.running_usage:
            usage = self._usage(sum(self.made), final=True)
            if usage is not None:
                await self._data(self._frame(kind, []) | {"usage": usage})
        await self.request.write(b"data: [DONE]\n\n", more=False)
        return self.texts[0][1]

    def _delta(self, token: str, step: int) -> dict[str, Any]:
        if not self.job.chat:
            return {"text": token}
        if not self.tool:
            return {"content": token}
        call: dict[str, Any] = self._call(token) if step == 0 else {"function": {"arguments": token}}
        return {"tool_calls": [{"index": 0} | call]}

    async def _event(self, kind: str, index: int, delta: dict[str, Any], finish: str | None) -> None:
        inner = {"delta": delta} if self.job.chat else delta
        choice = {"index": index} | inner | {"logprobs": None, "finish_reason": finish}
        body = self._frame(kind, [choice])
        if self.job.running_usage:
            usage = self._usage(self.made[index], final=False)
            if usage is not None:
                body["usage"] = usage
        await self._data(body)

    async def _data(self, body: dict[str, Any]) -> None:
        await self.request.write(b"data: " + orjson.dumps(body) + b"\n\n")

    def _frame(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.job.model, "choices": choices}

    # pace and faults --------------------------------------------------------------------------------------------

    async def _pace(self) -> None:
        await self._wait(1 / self.rate if self.rate else 0)

    async def _wait(self, seconds: float) -> None:
        if seconds:
            try:
                await asyncio.wait_for(self.request.gone.wait(), seconds)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)
        if self.request.gone.is_set():
            raise _Gone

    async def _break_off(self, made: int) -> str:
        """Some word when the stream ends here, as asked; raises _Gone when the client leaves."""
        asked, stream = self.asked, self.job.stream
        if asked.get("stall") == made:
            await self.request.gone.wait()
            raise _Gone
        if asked.get("die") == made:
            if not stream:
                await self.request.start(b"application/json")
                await self.request.write(b'{"id":')
            raise _Cut
        if stream and asked.get("nodone") == made:
            await self.request.write(b"", more=False)
            return "nodone"
        if stream and asked.get("error") == made:
            error = {"message": "the engine died", "type": "InternalServerError", "param": None, "code": 500}
            await self._data({"error": error})
            await self.request.write(b"data: [DONE]\n\n", more=False)
            return "error"
        return ""

    def _log(self, end: str) -> None:
        job = self.job
        self.engine.write_log(
            {
                "request_id": self.request.id,
                "model": job.model,
                "endpoint": self.request.path,
                "stream": job.stream,
                "choices": job.choices,
                "prompt_tokens": self.read,
                "cached_tokens": self.cached,
                "output_tokens": sum(self.made),
                "max_tokens": job.max_tokens,
                "end": end,
                "cache_salt": job.salt,
                "priority": job.priority,
                "started_at": self.started_at,
                "gone_at": self.request.gone_at,
                "ended_at": time.time(),
            }
        )


class _Gone(Exception):
    """The client has hung up."""


class _Cut(Exception):
    """The connection is to be cut, as asked."""


def _prompt(fields: dict[str, Any], chat: bool) -> tuple[list[str], str]:
    """The prompt's tokens and the text of its last message."""
    if not chat:
        text = fields.get("prompt")
        if not isinstance(text, str) or not text:
            raise Refused(400, "BadRequestError", "prompt: expected a string", "prompt")
        return speech.tokenize(text), text
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise Refused(400, "BadRequestError", "messages: expected a list of messages", "messages")
    return speech.chat_prompt(messages, fields.get("tools")), speech.text_of(messages[-1])


def _integer(fields: dict[str, Any], name: str, least: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise Refused(400, "BadRequestError", f"{name} must be an integer of at least {least}, got {value!r}", name)
    return value


def _forced_tool(fields: dict[str, Any]) -> str:
    """The tool that tool_choice asks for, or the first one when it must be any."""
    tools, chosen = fields.get("tools"), fields.get("tool_choice")
    if not isinstance(tools, list) or not tools:
        return ""
    if isinstance(chosen, dict):
        return str((chosen.get("function") or {}).get("name", ""))
    return str((tools[0].get("function") or {}).get("name", "")) if chosen == "required" else ""
