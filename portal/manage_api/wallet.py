"""The account's money: what it may spend, the credit behind it, every posting, statements, codes."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers

from billing import balances, promo_codes, statements, wallets
from billing.models import Grant, LedgerAccount, Posting, PostingLine
from billing.statements import Line, Month
from keys.models import Role
from portal.manage_api.fields import Shape, Text, Wish, nanos, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, cut, newest_first
from portal.manage_api.problems import Problem

TAG = "Wallet"
MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")


class CreditShape(Shape):
    kind = serializers.ChoiceField(Grant.Kind.choices)
    amount_nanos = nanos()
    left_nanos = nanos()
    reason = serializers.CharField(allow_blank=True)
    created_at = utc()
    expires_at = utc(allow_null=True)
    EXAMPLE = {
        "kind": "promotional",
        "amount_nanos": 5_000_000_000,
        "left_nanos": 4_998_464_000,
        "reason": "Code WELCOME",
        "created_at": "2026-11-21T09:00:00Z",
        "expires_at": "2027-02-19T09:00:00Z",
    }


class WalletShape(Shape):
    currency = serializers.CharField()
    posted_nanos = nanos()
    held_nanos = nanos()
    available_nanos = nanos()
    is_live = serializers.BooleanField(help_text="false: what running calls hold is not known just now")
    credits = CreditShape(many=True, help_text="With something left, in the order in which they are spent")
    EXAMPLE = {
        "currency": "USD",
        "posted_nanos": 4_998_464_000,
        "held_nanos": 2_000_000,
        "available_nanos": 4_996_464_000,
        "is_live": True,
        "credits": [CreditShape.EXAMPLE],
    }


class PostingShape(Shape):
    at = utc()
    kind = serializers.ChoiceField(Posting.Kind.choices)
    amount_nanos = nanos()
    memo = serializers.CharField(allow_blank=True)
    EXAMPLE = {"at": "2026-11-21T09:00:02Z", "kind": "usage", "amount_nanos": -1_536_000, "memo": ""}


class StatementShape(Shape):
    month = serializers.CharField()
    starts_at = utc()
    ends_at = utc()
    currency = serializers.CharField()
    opening_nanos = nanos()
    closing_nanos = nanos()
    EXAMPLE = {
        "month": "2026-11",
        "starts_at": "2026-11-01T00:00:00Z",
        "ends_at": "2026-12-01T00:00:00Z",
        "currency": "USD",
        "opening_nanos": 0,
        "closing_nanos": 4_998_464_000,
    }


class StatementLineShape(Shape):
    day = serializers.DateField()
    kind = serializers.ChoiceField(Posting.Kind.choices)
    memo = serializers.CharField(allow_blank=True)
    reference = serializers.CharField(allow_blank=True)
    postings = serializers.IntegerField(help_text="How many were summed")
    amount_nanos = nanos()
    EXAMPLE = {
        "day": "2026-11-21",
        "kind": "usage",
        "memo": "",
        "reference": "",
        "postings": 12,
        "amount_nanos": -1_536_000,
    }


class CodeWish(Wish):
    code = Text(max_length=60)
    EXAMPLE = {"code": "WELCOME-2026"}


class Wallet(Endpoint):
    @operation("Read the wallet", name="read_wallet", tag=TAG, role=Role.VIEWER, gives=WalletShape)
    def get(self, call: Call) -> dict[str, Any]:
        wallet, balance = wallets.of(call.organization), balances.of(call.organization)
        return {
            "currency": call.organization.brand.currency,
            "posted_nanos": balance.posted_nanos,
            "held_nanos": balance.held_nanos,
            "available_nanos": balance.available_nanos,
            "is_live": balance.is_live,
            "credits": [_credit(grant, wallet.left[grant.pk]) for grant in wallet.grants],
        }


class Credits(Endpoint):
    @operation("List credit ever given", name="list_credits", tag=TAG, role=Role.VIEWER, query=Paged, gives=CreditShape)
    def get(self, call: Call) -> Page[Any]:
        page = newest_first(call.organization.grants.all(), Place.of(call.query, f"credits {call.organization.pk}"))
        left = wallets.of(call.organization).left
        return Page([_credit(grant, left.get(grant.pk, 0)) for grant in page.rows], page.next_cursor)


class Postings(Endpoint):
    @operation("List postings", name="list_postings", tag=TAG, role=Role.VIEWER, query=Paged, gives=PostingShape)
    def get(self, call: Call) -> Page[Any]:
        rows = PostingLine.objects.filter(
            account__organization=call.organization, account__kind=LedgerAccount.Kind.WALLET
        ).select_related("posting")
        page = newest_first(rows, Place.of(call.query, f"postings {call.organization.pk}"))
        shown = [
            {
                "at": row.posting.posted_at,
                "kind": row.posting.kind,
                "amount_nanos": row.amount_nanos,
                "memo": row.posting.memo,
            }
            for row in page.rows
        ]
        return Page(shown, page.next_cursor)


class Statements(Endpoint):
    @operation("List statements", name="list_statements", tag=TAG, role=Role.BILLING, query=Paged, gives=StatementShape)
    def get(self, call: Call) -> Page[Any]:
        """One a month, the newest first."""
        place = Place.of(call.query, f"statements {call.organization.pk}")
        months = [m for m in statements.months(call.organization, timezone.now()) if _is_before(m, place.after)]
        page = cut(months[: place.limit + 1], place, str)
        return Page([_statement(call, month) for month in page.rows], page.next_cursor)


class Statement(Endpoint):
    @operation("Read a statement", name="read_statement", tag=TAG, role=Role.BILLING, gives=StatementShape)
    def get(self, call: Call, month: str) -> dict[str, Any]:
        return _statement(call, _month(call, month))


class StatementLines(Endpoint):
    @operation(
        "List a statement's lines",
        name="list_statement_lines",
        tag=TAG,
        role=Role.BILLING,
        query=Paged,
        gives=StatementLineShape,
    )
    def get(self, call: Call, month: str) -> Page[Any]:
        """In their order; opening balance, all lines and closing balance agree to the nano."""
        which = _month(call, month)
        place = Place.of(call.query, f"lines {call.organization.pk} {which}")
        begin = int(place.after or 0)
        lines = list(islice(statements.lines(call.organization, which), begin, begin + place.limit + 1))
        page = cut(lines, place, lambda _: begin + place.limit)
        return Page([_line(line) for line in page.rows], page.next_cursor)


class Codes(Endpoint):
    @operation(
        "Use a code for credit",
        name="claim_code",
        tag=TAG,
        role=Role.BILLING,
        takes=CodeWish,
        gives=CreditShape,
        status=201,
        counted="codes",
    )
    def post(self, call: Call) -> dict[str, Any]:
        try:
            grant = promo_codes.claim(organization=call.organization, code=call.data["code"], **call.by)
        except promo_codes.NotClaimed as error:
            wrong = {"pointer": "/code", "detail": str(error)}
            raise Problem(422, "code_not_valid", str(error), errors=[wrong]) from None
        return _credit(grant, wallets.of(call.organization).left.get(grant.pk, 0))


def _credit(grant: Grant, left_nanos: int) -> dict[str, Any]:
    names = ("kind", "amount_nanos", "reason", "created_at", "expires_at")
    return {**{name: getattr(grant, name) for name in names}, "left_nanos": left_nanos}


def _is_before(month: Month, after: str | None) -> bool:
    return after is None or str(month) < after


def _month(call: Call, text: str) -> Month:
    there = statements.months(call.organization, timezone.now()) if MONTH.fullmatch(text) else []
    month = next((month for month in there if str(month) == text), None)
    if month is None:
        raise Http404
    return month


def _statement(call: Call, month: Month) -> dict[str, Any]:
    starts_at, ends_at = month.bounds(call.organization.brand)
    return {
        "month": str(month),
        "starts_at": starts_at,
        "ends_at": ends_at,
        "currency": call.organization.brand.currency,
        "opening_nanos": statements.opening_nanos(call.organization, month),
        "closing_nanos": statements.opening_nanos(call.organization, month.next),
    }


def _line(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in ("day", "kind", "memo", "reference", "postings", "amount_nanos")}
