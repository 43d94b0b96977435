from datetime import UTC, datetime

import pytest
from django.core import mail

from billing import ladder
from billing.models import Notice, Tier
from keys.models import Role
from portal import notify, tasks
from tests import cast as casting

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def notice(cast) -> Notice:
    payload = {"subject": "Half of your budget is used", "text": "$10.00 of $20.00 this month."}
    return Notice.objects.create(
        organization=cast.organization, kind="budget_half", unique_key="budget-half-2026-11", payload=payload
    )


def test_a_notice_goes_once_to_those_who_look_after_the_money(cast, notice):
    casting.join(casting.person("billing"), cast.organization, Role.BILLING)
    assert notify.deliver(now=NOW) == 1
    assert notify.deliver(now=NOW) == 0
    assert [message.to[0].split("-")[0] for message in mail.outbox] == ["owner", "billing"]
    assert mail.outbox[0].subject == "Half of your budget is used"
    assert "$10.00 of $20.00" in mail.outbox[0].body
    assert mail.outbox[0].from_email.startswith("Dialogix <")
    notice.refresh_from_db()
    assert notice.sent_at == NOW


def test_a_mail_server_that_is_away_is_tried_again(notice, monkeypatch):
    def away(*_args, **_kwargs):
        raise ConnectionRefusedError

    with monkeypatch.context() as broken:
        broken.setattr("django.core.mail.EmailMessage.send", away)
        assert notify.deliver(now=NOW) == 0
    assert notify.deliver(now=NOW) == 1


def test_the_task_sends_what_waits(notice):
    tasks.send_notices(unknown="argument")
    assert len(mail.outbox) == 1


def test_a_subject_cannot_add_headers(cast, notice):
    notice.payload = {"subject": "Hello\nBcc: everybody@example.com", "text": "x"}
    notice.save()
    notify.deliver(now=NOW)
    assert "\n" not in mail.outbox[0].subject
    assert mail.outbox[0].bcc == []


def test_a_change_of_tier_is_told_with_its_reason(cast):
    free, pro = (
        ladder.save_tier(Tier(brand=cast.brand, rank=rank, slug=f"t{rank}", name=name), actor="test")
        for rank, name in enumerate(("Free", "Pro"), start=1)
    )
    ladder.assign(organization=cast.organization, tier=free, reason="sign-up", actor="test")
    assert notify.deliver(now=NOW) == 0, "the first tier is no change"
    ladder.assign(organization=cast.organization, tier=pro, reason="Earned by use", actor="test")
    ladder.assign(organization=cast.organization, tier=free, reason="By request", actor="test")
    assert notify.deliver(now=NOW) == 2
    up, down = mail.outbox
    assert (up.subject, down.subject) == ("You moved up to Pro", "Your tier is now Free")
    assert "from Free to Pro" in up.body
    assert "Earned by use" in up.body
