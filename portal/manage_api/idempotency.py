"""POST twice, done once: the first answer to an `Idempotency-Key` is given again for a day. The only writer of
KeptAnswer.

The row is committed before the act, so of two at once one is told to wait. Refusals are not kept: nothing was done, so
the next try may do it. A process that died in between leaves a row without answer: nobody knows then what was done, and
the same name is never tried again. Answers are sealed, because some hold a secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keys.models import ApiKey
from keys.sealing import open_text, seal_text
from portal.manage_api.problems import Problem
from portal.models import KeptAnswer

HEADER = "Idempotency-Key"
NAME = re.compile(r"[\x21-\x7e]{1,255}")
KEPT = timedelta(days=1)
RUNS_FOR = timedelta(minutes=1)
"""After that long without an answer its process is taken for dead."""
FORGET_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Claim:
    row: KeptAnswer

    def keep(self, answer: Answer) -> None:
        sealed = seal_text(json.dumps(answer.body))
        KeptAnswer.objects.filter(pk=self.row.pk).update(status=answer.status, sealed=sealed)

    def release(self) -> None:
        KeptAnswer.objects.filter(pk=self.row.pk, status=None).delete()


def begin(key: ApiKey, name: str, asked: bytes, now: datetime) -> Answer | Claim:
    """The answer that was given to this name, or the right to make it. `asked` is method, address and body."""
    if not NAME.fullmatch(name):
        raise Problem(400, "invalid_request", f"{HEADER} has 1 to 255 visible ASCII characters.")
    request = hashlib.sha256(asked).digest()
    row, is_new = KeptAnswer.objects.get_or_create(
        key=key, name=hashlib.sha256(name.encode()).digest(), defaults={"request": request, "at": now}
    )
    if is_new or _taken_over(row, request, now):
        return Claim(row)
    if bytes(row.request) != request:
        raise Problem(422, "idempotency_key_reused", f"This {HEADER} came with another request before; use a new one.")
    if row.status is not None:
        return Answer(row.status, json.loads(open_text(row.sealed)))
    if now - row.at > RUNS_FOR:
        text = "What became of the first request is not known. Look at what there is, then use a new key."
        raise Problem(409, "idempotent_outcome_unknown", text)
    raise Problem(409, "idempotent_request_running", "The first request still runs.", headers={"Retry-After": "1"})


def forget(now: datetime) -> int:
    old = KeptAnswer.objects.filter(at__lt=now - KEPT).values_list("pk", flat=True)[:FORGET_MAX]
    done, _ = KeptAnswer.objects.filter(pk__in=list(old)).delete()
    return done


def _taken_over(row: KeptAnswer, request: bytes, now: datetime) -> bool:
    """A name is free again after a day."""
    old = KeptAnswer.objects.filter(pk=row.pk, at__lt=now - KEPT)
    return bool(old.update(request=request, at=now, status=None, sealed=""))
