"""The exhausted key is exhausted by calls, against a door that counts them."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from portal.demo.exhausting import CALLS_MAX, use_up


@contextlib.contextmanager
def door(answers: list[int]) -> Iterator[tuple[str, list[str]]]:
    """Answers these statuses, the last one for ever; notes paths and keys."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(f"{self.path} {self.headers['Authorization']}")
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def facts(slug: str = "b") -> dict[str, Any]:
    brand = {
        "base_url": f"http://localhost:8000/{slug}/v1",
        "model": "usual",
        "keys": {"exhausted": "ak-1"},
        "models": {"reasoning": "thinks"},
    }
    return {"brands": {slug: brand}}


def test_calls_are_made_until_the_smallest_is_refused():
    """A quota that has no room for a large call may have room for a small one."""
    with door([200, 200, 429, 200, 429, 429]) as (address, seen):
        assert use_up(facts(), address=address) == []
    assert seen == ["/b/v1/chat/completions Bearer ak-1"] * 6


def test_a_key_that_is_never_refused_is_named_and_not_called_for_ever():
    with door([200]) as (address, seen):
        assert use_up(facts(), address=address) == ["b"]
    assert len(seen) == CALLS_MAX


def test_a_proxy_that_is_not_ready_is_asked_again_later():
    with door([503]) as (address, seen):
        assert use_up(facts(), address=address) == ["b"]
    assert len(seen) == 1
    assert use_up(facts(), address=address) == ["b"]  # nobody listens there any more
