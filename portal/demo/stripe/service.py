"""The fake as an ASGI application. Doors of its own beside Stripe's: GET /log (money that moved), GET and POST
/control (knobs.py; where an account's webhooks go), POST /control/dispute, /control/refund (what banks would do),
/control/advance (its accounts' time moves on: {"days": 31})."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from portal.demo.stripe import pages, payments, sessions, subscriptions
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS
from portal.demo.stripe.hooks import Deliveries
from portal.demo.stripe.idempotency import Answers
from portal.demo.stripe.knobs import Knobs, Rule
from portal.demo.stripe.parameters import StripeRefuses, parsed, refused
from portal.demo.stripe.resources import Asked, answer

BODY_BYTES_MAX = 1_000_000
HTML, JSON, CSS = "text/html; charset=utf-8", "application/json", "text/css; charset=utf-8"
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class FakeStripe:
    """Attributes may be read and set from any thread of the same process; requests are handled on one event loop."""

    def __init__(self, *, state_file: Path | None = None) -> None:
        self.knobs = Knobs()
        self.accounts: dict[str, Account] = {}
        self.answers = Answers()
        self.deliveries = Deliveries()
        self.requests: list[tuple[str, str]] = []
        """(method, path) of everything the API was asked."""
        self._state_file = state_file
        if state_file is not None and state_file.exists():
            for key, state in json.loads(state_file.read_text()).items():
                self.account(key).restore(state)

    def account(self, key: str) -> Account:
        return self.accounts.setdefault(key, Account(key))

    def log(self, key: str) -> list[Object]:
        return list(self.account(key).log)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, await _body(receive), send)
        try:
            await self._route(request)
        except StripeRefuses as error:
            await request.answer(error.status, json.dumps(error.body), JSON)
        finally:
            self.settle()

    def settle(self) -> None:
        """After anything happened: what is to be told is on its way, what is to be remembered is written."""
        for account in self.accounts.values():
            self.deliveries.start(account, self.knobs.hooks)
        if self._state_file is not None:
            draft = self._state_file.with_name(f"{self._state_file.name}.new")
            draft.write_text(json.dumps({key: account.state() for key, account in self.accounts.items()}))
            draft.replace(self._state_file)

    async def _route(self, request: Request) -> None:
        if request.path.startswith("/v1/"):
            await self._api(request)
        elif request.path.startswith("/control") or request.path == "/log":
            await request.answer(200, json.dumps(self._control(request)), JSON)
        elif request.path == "/style.css":
            await request.answer(200, pages.STYLE, CSS)
        else:
            await self._show(request)

    # The API

    async def _api(self, request: Request) -> None:
        self.requests.append((request.method, request.path))
        account = self._account_of(request)
        rule = self.knobs.take(request.method, request.path)
        if rule is not None and rule.do == "status":
            raise _outage(rule.number)
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        question = f"{request.path}\n{request.text}"
        kept = self.answers.begin(account.name, key, question) if key else None
        if kept is not None:
            await request.answer(kept.status, kept.body.decode(), JSON, (b"idempotent-replayed", b"true"))
            return
        status, body, is_saved = self._work(request, account)
        if rule is not None and rule.do == "fail":
            status, body = 500, json.dumps(_outage(500).body)
        try:
            await self._misbehave(rule, request)
        finally:  # a client that hangs up does not undo what was done
            if key and is_saved:
                self.answers.keep(account.name, key, status, body.encode())
            elif key:
                self.answers.forget(account.name, key)
        if rule is not None and rule.do == "lose":
            await request.cut()
        else:
            await request.answer(status, body, JSON)

    def _work(self, request: Request, account: Account) -> tuple[int, str, bool]:
        params = parsed(request.text if request.method == "POST" else request.query)
        asked = Asked(account, self.knobs, params, f"http://{request.headers.get('host', 'localhost')}", request.path)
        try:
            return 200, json.dumps(answer(request.method, asked)), True
        except StripeRefuses as error:
            return error.status, json.dumps(error.body), error.is_saved

    async def _misbehave(self, rule: Rule | None, request: Request) -> None:
        if rule is not None and rule.do == "slow":
            self.settle()  # what was done is told while the answer still waits
            await asyncio.sleep(rule.number / 1000)

    def _account_of(self, request: Request) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key.startswith(("sk_test_", "rk_test_")):
            raise StripeRefuses(401, "invalid_request_error", "Invalid API Key provided.")
        return self.account(key)

    # Doors of its own

    def _control(self, request: Request) -> Any:
        if request.path == "/log":
            return {key: account.log for key, account in self.accounts.items()}
        wish = json.loads(request.text) if request.text else {}
        if request.path == "/control/dispute":
            account, intent = self._find(str(wish["payment_intent"]))
            return payments.dispute(account, intent, inquiry=bool(wish.get("inquiry")))
        if request.path == "/control/close_dispute":
            account, found = self._find(str(wish["dispute"]))
            payments.close_dispute(account, found, str(wish["status"]))
            return found
        if request.path == "/control/refund":
            account, found = self._find(str(wish["refund"]))
            payments.end_refund(account, found, str(wish["status"]))
            return found
        if request.path == "/control/advance":
            for account in self.accounts.values():
                subscriptions.advance(account, self.knobs, float(wish["days"]))
            return {key: account.clock() for key, account in self.accounts.items()}
        self.knobs.update(wish)
        for key, place in wish.get("accounts", {}).items():
            account = self.account(key)
            account.hook_url, account.hook_secrets = place["url"], list(place["secrets"])
        return {"hooks_sent": self.deliveries.sent[-100:]}

    def _find(self, object_id: str) -> tuple[Account, Object]:
        for account in self.accounts.values():
            if object_id in account.objects:
                return account, account.objects[object_id]
        raise refused(f"No such object: '{object_id}'", code="resource_missing", status=404)

    # Pages

    async def _show(self, request: Request) -> None:
        account, found = self._find(request.path.rpartition("/")[2])
        if found["object"] == "billing_portal.session":
            if request.method == "POST":
                subscriptions.at_the_portal(account, self.knobs, found["customer"], dict(parse_qsl(request.text)))
            methods = [row for row in account.all("payment_method") if row["customer"] == found["customer"]]
            await request.page(pages.portal(found, methods, subscriptions.living(account, found["customer"])))
        elif found["object"] == "checkout.session":
            sessions.open_session(account, found["id"])
            await (self._pay(request, account, found) if request.method == "POST" else self._offer(request, found))
        else:
            raise refused("Unrecognized request URL.", code="url_invalid", status=404)

    async def _offer(self, request: Request, session: Object, problem: str = "", status: int = 200) -> None:
        ends = (session["success_url"], session["cancel_url"] or "")
        await request.page(pages.checkout(session, problem), *ends, status=status)

    async def _pay(self, request: Request, account: Account, session: Object) -> None:
        sent = dict(parse_qsl(request.text))
        card, passed = sent.get("card", ""), sent.get("passed", "")
        if card not in CARDS:
            raise refused("No such card.", param="card")
        if passed == "no":
            await self._offer(request, session, "The bank did not confirm that it is you. Nothing was charged.")
            return
        try:
            asked = sessions.pay(account, self.knobs, session, card, passed=passed == "yes")
        except StripeRefuses as error:
            await self._offer(request, session, f"{error} Try another card.", 402)
            return
        if asked is not None:
            await request.page(pages.challenge(card), session["success_url"])
        else:
            place = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
            await request.answer(303, "", HTML, (b"location", place.encode()))


def _outage(status: int) -> StripeRefuses:
    if status == 429:
        return StripeRefuses(429, "invalid_request_error", "Too many requests in too little time.", code="rate_limit")
    return StripeRefuses(status, "api_error", "An unexpected error occurred on Stripe's side.")


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= BODY_BYTES_MAX:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


class Request:
    def __init__(self, scope: Message, body: bytes, send: Send) -> None:
        self.method, self.path = scope["method"], scope["path"]
        self.query = scope["query_string"].decode()
        self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.text = body.decode()
        self._send = send

    async def answer(self, status: int, body: str, kind: str, *headers: tuple[bytes, bytes]) -> None:
        whole = body.encode()
        told = [(b"content-type", kind.encode()), (b"content-length", str(len(whole)).encode())]
        if self.path.startswith("/v1/"):
            told.append((b"request-id", b"req_fake"))
        await self._send({"type": "http.response.start", "status": status, "headers": [*told, *headers]})
        await self._send({"type": "http.response.body", "body": whole})

    async def page(self, html: str, *elsewhere: str, status: int = 200) -> None:
        safe = [
            (b"content-security-policy", pages.policy(*elsewhere).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        ]
        await self.answer(status, html, HTML, *safe)

    async def cut(self) -> None:
        """A connection that ends in the middle of an answer."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await self._send({"type": "http.response.body", "body": b"{", "more_body": True})
