"""The pages' own programs (curl, Python, Node), run as they stand but for host and key; and both openai SDKs against
each brand whose page claims that they work."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from portal.demo import speech
from tests.nodejs import tool
from tests.wire.conformance import FOLDER, PAGES, unlike
from tests.wire.conftest import Served
from tests.wire.mall import OPENAI_LIKE

pytestmark = pytest.mark.django_db(transaction=True)
Tell = Callable[[str, str, str], None]
HELLO = [{"role": "user", "content": "Hello!"}]
SHAPES = {
    slug: json.loads(next(one["shape"] for one in page["example"] if '"choices"' in one.get("shape", "")))
    for slug, page in PAGES.items()
}
SNIPPETS = sorted(path for path in FOLDER.glob("*/example*") if path.suffix != ".toml")


def program(served: Served, path: Path) -> str:
    """The snippet with the demo's host and a working key."""
    slug = path.parent.name
    text, page = path.read_text(), PAGES[slug]
    assert page["documented_base"] in text
    text = text.replace(page["documented_base"], served.base_url(slug))
    for key in page["documented_keys"]:
        text = text.replace(key, served.stall(slug).keys["api_key"])
    assert served.stall(slug).keys["api_key"] in text
    return text


def run(command: list[str], **environment: str) -> str:
    """Standard output of a program that ends well. The machine's own settings of SDKs and proxies stay out."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=mine | environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(text: str) -> httpx.Response:
    """What the command line asks for, sent without curl, for machines that have none."""
    arguments = shlex.split(text.replace("\\\n", " "))[1:]
    method, url, body, headers = "GET", "", None, {}
    while arguments:
        word = arguments.pop(0)
        if word == "-X":
            method = arguments.pop(0)
        elif word == "-H":
            name, _, value = arguments.pop(0).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            body = arguments.pop(0)
        else:
            assert word.startswith("http"), f"{word} is not understood"
            url = word
    return httpx.request(method, url, headers=headers, content=body)


@pytest.mark.parametrize("path", [path for path in SNIPPETS if path.suffix == ".sh"], ids=lambda path: path.parent.name)
def test_the_pages_curl_works(served: Served, path: Path, tell: Tell) -> None:
    slug = path.parent.name
    tell(slug, "curl, as on the page", "yes")
    text = program(served, path)
    assert list(unlike(SHAPES[slug], curl(text).json())) == []
    if shutil.which("curl"):
        answer = run(["sh", "-c", text.replace("curl -X", "curl -sS -X", 1)])
        assert list(unlike(SHAPES[slug], json.loads(answer))) == []


@pytest.mark.parametrize("path", [path for path in SNIPPETS if path.suffix == ".py"], ids=lambda path: path.parent.name)
def test_the_pages_python_works(served: Served, path: Path, tmp_path: Path, tell: Tell) -> None:
    slug = path.parent.name
    tell(slug, "Python, as on the page", "yes")
    place = tmp_path / "program.py"
    place.write_text(program(served, path))
    assert "demo engine" in run([sys.executable, str(place)])


@pytest.mark.parametrize(
    "path", [path for path in SNIPPETS if path.suffix in (".mjs", ".cjs")], ids=lambda path: path.parent.name
)
def test_the_pages_javascript_works(served: Served, path: Path, tmp_path: Path, sdk: Path, tell: Tell) -> None:
    slug = path.parent.name
    tell(slug, "JavaScript, as on the page", "yes")
    place = tmp_path / f"program{path.suffix}"
    place.write_text(program(served, path))
    said = run([*tool("node"), str(place)], NODE_PATH=str(sdk / "node_modules"), NODE_NO_WARNINGS="1")
    assert "demo engine" in said or "choices: [" in said


UNKNOWN = {"aionlabs": openai.BadRequestError}


@pytest.mark.parametrize("slug", OPENAI_LIKE)
def test_the_openai_sdk_for_python_works(served: Served, slug: str, tell: Tell) -> None:
    tell(slug, "openai SDK, Python", "yes")
    stall = served.stall(slug)

    def client(key: str = "api_key") -> Any:
        return openai.OpenAI(base_url=served.base_url(slug), api_key=stall.keys[key], max_retries=1)

    with client() as one:
        whole = one.chat.completions.create(model=stall.model, messages=HELLO, max_tokens=24)
        assert whole.id == stall.brand.id_prefix + whole._request_id
        assert whole.usage.prompt_tokens_details.cached_tokens >= 0
        stream = one.chat.completions.create(
            model=stall.model, messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert last.usage.completion_tokens == whole.usage.completion_tokens
        assert stall.model in [model.id for model in one.models.list()]
        with pytest.raises(UNKNOWN.get(slug, openai.NotFoundError)) as unknown:
            one.chat.completions.create(model="nobody/nothing", messages=HELLO)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            one.chat.completions.create(model=stall.model, messages=HELLO, temperature=3)
        assert wrong.value.param == "temperature"
    with client("revoked") as gone, pytest.raises(openai.AuthenticationError):
        gone.chat.completions.create(model=stall.model, messages=HELLO)
    with client("exhausted") as spent, pytest.raises(openai.RateLimitError) as refused:
        spent.chat.completions.create(model=stall.model, messages=HELLO)
    assert refused.value.request_id


def test_a_session_goes_on_by_the_openai_sdk(served: Served, tell: Tell) -> None:
    """Dialogix' `session_id`, as its page says: conversation context that persists across requests."""
    tell("dialogix", "session_id", "yes")
    stall = served.stall("dialogix")
    key, session = stall.keys["api_key"], {"session_id": "with the SDK"}
    history: list[dict[str, Any]] = []
    with openai.OpenAI(base_url=served.base_url("dialogix"), api_key=key, max_retries=0) as client:
        for text in ("My name is Duck.", "Who am I?"):
            said: Any = {"role": "user", "content": text}
            whole = client.chat.completions.create(model=stall.model, messages=[said], extra_body=session)
            history.append(said)
            assert whole.usage is not None
            assert whole.usage.prompt_tokens == len(speech.chat_prompt(history))
            history.append({"role": "assistant", "content": whole.choices[0].message.content})
        said = {"role": "user", "content": "And now?"}
        options: Any = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": session}
        *_, last = list(client.chat.completions.create(model=stall.model, messages=[said], **options))
        assert last.usage.prompt_tokens == len(speech.chat_prompt([*history, said]))
        assert client.get("/sessions/with%20the%20SDK", cast_to=dict[str, object])["turns"] == [1, 2, 3]
        client.delete("/sessions/with%20the%20SDK", cast_to=type(None))
        with pytest.raises(openai.NotFoundError) as gone:
            client.get("/sessions/with%20the%20SDK", cast_to=dict[str, object])
        assert gone.value.code == "session_not_found"


@pytest.mark.parametrize("slug", OPENAI_LIKE)
def test_the_openai_sdk_for_node_works(served: Served, slug: str, sdk: Path, tell: Tell) -> None:
    tell(slug, "openai SDK, Node", "yes")
    stall = served.stall(slug)

    def ask(what: str, key: str = "api_key", **body: Any) -> dict[str, Any]:
        wish = json.dumps({"what": what, "body": body, "options": {"maxRetries": 1}})
        command = [*tool("node"), str(sdk / "ask.mjs"), served.base_url(slug), stall.keys[key], wish]
        found: dict[str, Any] = json.loads(run(command).splitlines()[-1])
        return found

    body: dict[str, Any] = {"model": stall.model, "messages": HELLO, "max_tokens": 24}
    whole = ask("chat", **body)
    assert whole["id"] == stall.brand.id_prefix + whole["request"]
    assert ask("stream", **body)["text"] == whole["text"]
    assert stall.model in ask("models")["found"]
    refused = ask("chat", key="exhausted", **body)
    assert (refused["error"]["kind"], refused["asked"]) == ("RateLimitError", 1), "it does not try again in vain"
