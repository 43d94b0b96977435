"""Every example on every brand's documentation, pasted from the page: run against the real proxy with a working key in
the key's place and nothing else changed. What a page shows and what calls do cannot drift apart."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest
from django.test import Client

from keys.models import Brand
from portal.docs.pages import pages_of
from tests.nodejs import tool
from tests.wire.conftest import Served
from tests.wire.mall import SLUGS
from tests.wire.test_snippets import curl, run

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
_BLOCK = re.compile(r'<pre tabindex="0" id="([^"]+)" data-language="([^"]*)">(.*?)</pre>', re.DOTALL)
RUN_PYTHON = "import runpy, sys; [runpy.run_path(path) for path in sys.argv[1:]]"
EXAMPLES_MIN = {"dialogix": 9, "aionlabs": 10, "axione": 8, "aimichat": 4, "aione": 7}
"""Different requests that a brand's pages show, at least."""


class Block(NamedTuple):
    page: str
    name: str
    text: str


def blocks(served: Served, slug: str, language: str) -> list[Block]:
    """Different programs of that language on the brand's pages, with a working key in them."""
    brand = Brand.objects.get(slug=slug)
    found: dict[str, Block] = {}
    for page, text in texts(served.root.removeprefix("http://"), slug):
        for name, spoken, shown in _BLOCK.findall(text):
            if spoken == language:
                pasted = html.unescape(shown)
                found.setdefault(pasted, Block(page, name, pasted))
    key = served.stall(slug).keys["api_key"]
    return [each._replace(text=each.text.replace(f"{brand.key_prefix}your-api-key", key)) for each in found.values()]


@lru_cache
def texts(host: str, slug: str) -> list[tuple[str, str]]:
    """The brand's pages as that address shows them: name, text."""
    found = []
    for page in pages_of(Brand.objects.get(slug=slug)):
        answer = Client().get(f"/{slug}/docs/{page.name}/", headers={"host": host})
        assert answer.status_code == 200
        found.append((page.name, answer.content.decode()))
    return found


@pytest.mark.parametrize("slug", SLUGS)
def test_every_curl_command_works(served: Served, slug: str) -> None:
    found = blocks(served, slug, "curl")
    assert len(found) >= EXAMPLES_MIN[slug]
    for block in found:
        assert served.base_url(slug) in block.text
        if shutil.which("curl"):
            said = run(["sh", "-c", block.text.replace("curl ", "curl -sS --fail-with-body ", 1)])
        else:
            answer = curl(block.text.replace("curl -N ", "curl "))
            assert answer.status_code == 200, f"{block.page}: {answer.text}"
            said = answer.text
        if said.startswith(("data:", "event:", ":")):
            assert said.rstrip().splitlines()[-1] in ("data: [DONE]",) or '"response.completed"' in said
        else:
            assert json.loads(said).get("error") is None, f"{block.page} {block.name}"


@pytest.mark.parametrize("slug", SLUGS)
def test_every_python_program_works(served: Served, slug: str, tmp_path: Path) -> None:
    paths = written(blocks(served, slug, "python"), tmp_path, "py")
    said = run([sys.executable, "-c", RUN_PYTHON, *paths], API_KEY=served.stall(slug).keys["api_key"])
    assert "demo engine" in said


@pytest.mark.parametrize("slug", SLUGS)
def test_every_javascript_program_works(served: Served, slug: str, tmp_path: Path, sdk: Path) -> None:
    (tmp_path / "node_modules").symlink_to(sdk / "node_modules")
    paths = written(blocks(served, slug, "javascript"), tmp_path, "mjs")
    all_of_them = tmp_path / "all.mjs"
    all_of_them.write_text("".join(f"await import({json.dumps(path)});\n" for path in paths))
    said = run([*tool("node"), str(all_of_them)], NODE_NO_WARNINGS="1")
    assert "demo engine" in said


def written(found: list[Block], folder: Path, ending: str) -> list[str]:
    assert found
    paths = [folder / f"{number}-{block.page}-{block.name}.{ending}" for number, block in enumerate(found)]
    for path, block in zip(paths, found, strict=True):
        path.write_text(block.text)
    return [os.fspath(path) for path in paths]


@pytest.mark.parametrize("slug", SLUGS)
def test_every_error_body_and_setting_can_be_read(served: Served, slug: str) -> None:
    for block in blocks(served, slug, "json"):
        assert isinstance(json.loads(block.text), dict)
    for block in blocks(served, slug, "sh"):
        run(["sh", "-n", "-c", block.text]) if not block.text.startswith("http") else None


@pytest.mark.parametrize("slug", SLUGS)
def test_what_the_pages_show_of_a_refusal_is_what_a_caller_gets(served: Served, slug: str) -> None:
    """Without a key, and with one that nobody issued: the body on the page, but for what varies."""
    shown = {block.name: json.loads(block.text) for block in blocks(served, slug, "json")}
    url = f"{served.base_url(slug)}/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    missing = served.client.post(url, json=body)
    invalid = served.client.post(url, json=body, headers={"authorization": "Bearer nobody"})
    assert (missing.status_code, invalid.status_code) == (401, 401)
    assert missing.json() == shown["refusal-missing_key"]
    if "refusal-invalid_key" in shown:
        assert invalid.json() == shown["refusal-invalid_key"]
