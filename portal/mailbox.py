"""The demo's post office: mails become files under VAR_DIR/mail, and one page shows them to whoever looks.

Anybody who can open that page can read every password link, so it exists only where DEMO is set (portal.checks refuses
the backend elsewhere).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

KEPT = 200


@dataclass(frozen=True, slots=True)
class Mail:
    """`sent_at`: Unix seconds."""

    id: str
    sent_at: float
    sender: str
    to: list[str]
    subject: str
    body: str

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.sent_at, tz=UTC)


class EmailBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            _keep(message)
        _forget_oldest()
        return len(email_messages)


def folder() -> Path:
    return Path(settings.VAR_DIR) / "mail"


def newest_first(limit: int = 50) -> list[Mail]:
    """Mails as they were sent; a file that another process is just forgetting is left out."""
    found = []
    for path in sorted(_files(), reverse=True)[:limit]:
        try:
            found.append(Mail(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return found


def _keep(message: EmailMessage) -> None:
    sent_ns = time.time_ns()
    mail = Mail(
        id=f"{sent_ns:020d}-{uuid.uuid4().hex[:8]}",
        sent_at=sent_ns / 1e9,
        sender=message.from_email,
        to=list(message.to),
        subject=str(message.subject),
        body=str(message.body),
    )
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    # A reader never sees half a mail: it appears under its name when it is whole.
    draft = folder() / f".{mail.id}"
    draft.write_text(json.dumps(asdict(mail)), "utf-8")
    draft.rename(folder() / f"{mail.id}.json")


def _forget_oldest() -> None:
    for path in sorted(_files())[:-KEPT]:
        path.unlink(missing_ok=True)


def _files() -> list[Path]:
    return list(folder().glob("*.json"))
