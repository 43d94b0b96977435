"""Sealed days: a later edit of the books shows. The only writer of LedgerSeal and LedgerSealPart.

Every night the postings of a brand's day are written down in one canonical form and hashed, in order; the day's digest
takes in the digest of the day before, so that no day can be changed, left out or put in between without all later ones
failing. It is signed with the key pepper, which is not in the database: who can write there cannot seal anew. What is
lost when the newest seals are deleted together with their postings is seen by whoever kept a digest (the log has each).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Min

from billing.models import LedgerSeal, LedgerSealPart, Posting
from keys.models import Brand

GRACE = timedelta(minutes=15)
"""After midnight: a posting's time is that of its statement, and no transaction of ours runs as long as this."""
PART = 1_000
ID_BYTES = 8
PRINT_BYTES = 8
DAYS_MAX = 40
log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """Something that is not as it was sealed."""

    brand: str
    day: date
    what: str

    def __str__(self) -> str:
        return f"{self.brand} {self.day}: {self.what}"


class Print(NamedTuple):
    posting_id: int
    digest: bytes


def run(now: datetime) -> int:
    """Seal every day of every brand that has ended and is not sealed yet, oldest first; how many."""
    sealed = 0
    for brand in Brand.objects.order_by("pk"):
        for _ in range(DAYS_MAX):
            if not _seal_next(brand, now):
                break
            sealed += 1
    return sealed


def _seal_next(brand: Brand, now: datetime) -> bool:
    last = LedgerSeal.objects.filter(brand=brand).order_by("-number").first()
    begin = last.until if last else Posting.objects.filter(brand=brand).aggregate(at=Min("posted_at"))["at"]
    if begin is None:
        return False
    day, until = day_after(begin, ZoneInfo(brand.timezone))
    if until + GRACE > now:
        return False
    try:
        with transaction.atomic():
            _seal(brand, last, day, until)
    except IntegrityError:  # another process sealed it meanwhile
        return False
    return True


def day_after(moment: datetime, zone: ZoneInfo) -> tuple[date, datetime]:
    """The day of the zone that holds the moment, and when it ends."""
    day = moment.astimezone(zone).date()
    while True:
        following = day + timedelta(days=1)
        until = datetime(following.year, following.month, following.day, tzinfo=zone).astimezone(UTC)
        if until > moment:
            return day, until
        day = following  # a zone that was changed, or that skips a day


def _seal(brand: Brand, last: LedgerSeal | None, day: date, until: datetime) -> None:
    since = last.until if last else None
    ids = _ids(brand.pk, since, until)
    parts = [list(prints_of(ids[at : at + PART])) for at in range(0, len(ids), PART)]
    number = last.number + 1 if last else 1
    digest = chained(last.digest if last else "", brand.pk, number, until, parts)
    version = max(settings.KEY_PEPPERS)
    seal = LedgerSeal.objects.create(
        brand=brand,
        number=number,
        day=day,
        since=since,
        until=until,
        postings=len(ids),
        digest=digest,
        pepper_version=version,
        signature=signed(digest, settings.KEY_PEPPERS[version]),
    )
    LedgerSealPart.objects.bulk_create(
        LedgerSealPart(seal=seal, last_id=part[-1].posting_id, prints=_packed(part)) for part in parts
    )
    log.info("sealed %s %s: %s postings, digest %s", brand.slug, day, len(ids), digest)


def chained(before: str, brand_id: int, number: int, until: datetime, parts: Iterable[Sequence[Print]]) -> str:
    """The digest of a day, in hexadecimal."""
    total = hashlib.sha256(f"{before}|{brand_id}|{number}|{_moment(until)}|".encode())
    for part in parts:
        for each in part:
            total.update(each.digest)
    return total.hexdigest()


def signed(digest: str, pepper: bytes) -> str:
    return hmac.new(pepper, f"ledger seal {digest}".encode(), hashlib.sha256).hexdigest()


def verify(brand: Brand) -> Iterator[Problem]:
    """Everything about the brand's sealed days that is not as it was sealed."""
    before: LedgerSeal | None = None
    for seal in LedgerSeal.objects.filter(brand=brand).order_by("number").prefetch_related("parts"):
        yield from (Problem(brand.slug, seal.day, what) for what in _wrong(seal, before))
        before = seal


def _wrong(seal: LedgerSeal, before: LedgerSeal | None) -> Iterator[str]:
    expected = before.number + 1 if before else 1
    if seal.number != expected:
        yield f"seal {seal.number} follows where seal {expected} belongs"
    if seal.since != (before.until if before else None):
        yield "the day does not begin where the one before it ended"
    pepper = settings.KEY_PEPPERS.get(seal.pepper_version)
    if pepper is None:
        yield f"its signature cannot be checked: KEY_PEPPER {seal.pepper_version} is gone"
    elif not hmac.compare_digest(signed(seal.digest, pepper), seal.signature):
        yield "the seal itself was edited"
    found = list(prints_of(_ids(seal.brand_id, seal.since, seal.until)))
    digest = chained(before.digest if before else "", seal.brand_id, seal.number, seal.until, [found])
    if digest != seal.digest:
        named = list(_named(seal, found))
        yield from named or ["the digest does not match its postings and the day before"]


def _named(seal: LedgerSeal, found: Sequence[Print]) -> Iterator[str]:
    """The postings that differ from what was written down of them."""
    there = {each.posting_id: each.digest[:PRINT_BYTES] for each in found}
    sealed = dict(each for part in seal.parts.all() for each in _unpacked(bytes(part.prints)))
    for id in sorted(there.keys() | sealed.keys()):
        if id not in there:
            yield f"posting {id} was deleted, or moved to another day or brand"
        elif id not in sealed:
            yield f"posting {id} ({_reference(id)}) was inserted afterwards"
        elif there[id] != sealed[id]:
            yield f"posting {id} ({_reference(id)}) was edited"


def _reference(id: int) -> str:
    return str(Posting.objects.values_list("reference", flat=True).get(pk=id))


def _packed(prints: Iterable[Print]) -> bytes:
    return b"".join(each.posting_id.to_bytes(ID_BYTES) + each.digest[:PRINT_BYTES] for each in prints)


def _unpacked(packed: bytes) -> Iterator[tuple[int, bytes]]:
    size = ID_BYTES + PRINT_BYTES
    for at in range(0, len(packed), size):
        yield int.from_bytes(packed[at : at + ID_BYTES]), packed[at + ID_BYTES : at + size]


def _ids(brand_id: int, since: datetime | None, until: datetime) -> list[int]:
    """Of a day's postings, in order. Chosen by time first (a small index), sorted after."""
    rows = Posting.objects.filter(brand_id=brand_id, posted_at__lt=until)
    if since is not None:
        rows = rows.filter(posted_at__gte=since)
    return sorted(rows.values_list("pk", flat=True))


def prints_of(ids: list[int]) -> Iterator[Print]:
    """The digest of each posting, whole: its row, its lines with their accounts, its grant."""
    for at in range(0, len(ids), PART):
        with connection.cursor() as cursor:
            cursor.execute(CANONICAL, [ids[at : at + PART]])
            for row in cursor.fetchall():
                yield Print(row[0], hashlib.sha256(canonical(row)).digest())


CANONICAL = """
SELECT posting.id, posting.brand_id, posting.organization_id, posting.kind, posting.reference, posting.memo,
    posting.posted_at, posting.actor_id,
    (SELECT array_agg(ARRAY[line.id::text, line.amount_nanos::text, account.id::text, account.brand_id::text,
            COALESCE(account.organization_id::text, ''), account.kind] ORDER BY line.id)
        FROM billing_postingline line JOIN billing_ledgeraccount account ON account.id = line.account_id
        WHERE line.posting_id = posting.id),
    given.id, given.organization_id, given.kind, given.amount_nanos, given.reason, given.created_at,
    given.expires_at, given.priority
FROM billing_posting posting LEFT JOIN billing_grant given ON given.posting_id = posting.id
WHERE posting.id = ANY(%s) ORDER BY posting.id
"""


def canonical(row: Sequence[Any]) -> bytes:
    """One line of JSON: everything as text or nothing, times in UTC to the microsecond."""
    texts = [_moment(value) if isinstance(value, datetime) else value for value in row]
    return json.dumps(texts, ensure_ascii=True, separators=(",", ":")).encode()


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
