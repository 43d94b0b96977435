import importlib

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.mailboxes import is_disposable, mailbox
from keys.models import User

ALIASES = {
    "ada.lovelace@gmail.com": "adalovelace@gmail.com",
    "A.d.aLovelace+news@GoogleMail.com": "adalovelace@gmail.com",
    "ada.lovelace@example.com": "ada.lovelace@example.com",
    "ada+shop+more@Example.com": "ada@example.com",
    "+ada@example.com": "+ada@example.com",
    "a.d-a_l@pm.me": "adal@proton.me",
    "adal@protonmail.com": "adal@proton.me",
    "ada@me.com": "ada@icloud.com",
    "ada-shop@yahoo.co.uk": "ada@yahoo.co.uk",
    "ada-shop@example.com": "ada-shop@example.com",
    "shop@ada.fastmail.com": "ada@fastmail.com",
    "ada+x@fastmail.com": "ada@fastmail.com",
    "ada@ya.ru": "ada@yandex.ru",
    "...@gmail.com": "...@gmail.com",
}


@pytest.mark.parametrize(("address", "home"), ALIASES.items())
def test_aliases_lead_to_one_mailbox(address, home):
    assert mailbox(address) == home


@settings(max_examples=60)
@given(st.emails())
def test_a_mailbox_leads_to_itself(address):
    assert mailbox(mailbox(address)) == mailbox(address)
    assert mailbox(address.upper().lower()) == mailbox(address.lower())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@mailinator.com", True),
        ("a@x.y.Mailinator.com", True),
        ("a@mailinator.com.", True),
        ("a@gmail.com", False),
        ("a@notmailinator.com.example", False),
        ("nobody", False),
    ],
)
def test_throw_away_mailboxes_are_known_by_their_domains(address, expected):
    assert is_disposable(address) is expected


@pytest.mark.django_db
def test_a_person_keeps_the_mailbox_of_their_address():
    person = User.objects.create_user("Ada+one@example.com")
    assert person.mailbox == "ada@example.com"
    person.email = "a.d.a@gmail.com"
    person.save(update_fields=["email"])
    assert User.objects.get().mailbox == "ada@gmail.com"


@pytest.mark.django_db
def test_the_migration_knew_the_same_rules():
    known = {User.objects.create_user(address).pk: home for address, home in ALIASES.items() if "..." not in address}
    User.objects.update(mailbox="")
    fill = importlib.import_module("keys.migrations.0004_mailboxes_and_further_accounts").FILL
    with connection.cursor() as cursor:
        cursor.execute(fill)
    assert dict(User.objects.values_list("pk", "mailbox")) == known
