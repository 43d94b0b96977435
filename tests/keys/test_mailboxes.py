import importlib

import pytest
from django.apps import apps
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.mailboxes import is_disposable, is_needlessly_quoted, mailbox
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
SPELLINGS = {
    '"alice"@gmail.com': "alice@gmail.com",
    '"a\\lice"@gmail.com': "alice@gmail.com",
    '"alice+tag"@gmail.com': "alice@gmail.com",
    '" alice "@example.com': "alice@example.com",
    '"a@b"@example.com': "a@b@example.com",
    '""@example.com': '""@example.com',
    "a@bücher.de": "a@xn--bcher-kva.de",
    "a@BÜCHER.de": "a@xn--bcher-kva.de",
    "a@bu\u0308cher.de": "a@xn--bcher-kva.de",
    "a@XN--BCHER-KVA.de": "a@xn--bcher-kva.de",
    "a@faß.de": "a@fass.de",
    "a@bücher。de": "a@xn--bcher-kva.de",
    "ａlice＠ｇmail.com": "alice@gmail.com",
    "a@example.com.": "a@example.com",
    "a@exam\u00adple.com": "a@example.com",
    "a@" + "ü" * 90 + ".de": "a@" + "ü" * 90 + ".de",
}


@pytest.mark.parametrize(("address", "home"), ALIASES.items())
def test_aliases_lead_to_one_mailbox(address, home):
    assert mailbox(address) == home


@pytest.mark.parametrize(("address", "home"), SPELLINGS.items())
def test_spellings_lead_to_one_mailbox(address, home):
    assert mailbox(address) == mailbox(home) == home


@settings(max_examples=60)
@given(st.emails())
def test_a_mailbox_leads_to_itself(address):
    assert mailbox(mailbox(address)) == mailbox(address)
    assert mailbox(address.upper().lower()) == mailbox(address.lower())


_NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-+", min_size=1, max_size=20)
_DOMAIN = st.sampled_from(
    ["gmail.com", "bücher.de", "yahoo.fr", "pm.me", "mailinator.com", "müll.mailinator.com", "faß.de"]
)


@st.composite
def respelt(draw):
    """(a plain address, another spelling of it)"""
    name, domain = draw(_NAME), draw(_DOMAIN)
    quoted = '"' + "".join(draw(st.sampled_from(["", "\\"])) + letter for letter in name) + '"'
    wide = "".join(
        chr(ord(one) + 0xFEE0) if one.isascii() and one.isalpha() and draw(st.booleans()) else one for one in domain
    )
    other = draw(
        st.sampled_from([domain, domain.upper().replace("SS", "ß"), wide, domain.encode("idna").decode(), domain + "."])
    )
    return f"{name}@{domain}", f"{draw(st.sampled_from([name, quoted]))}@{other}"


@settings(max_examples=300)
@given(respelt())
def test_no_spelling_is_another_mailbox(pair):
    plain, other = pair
    assert mailbox(other) == mailbox(plain)
    assert is_disposable(other) == is_disposable(plain)
    assert is_disposable(plain) == ("mailinator" in plain)


@settings(max_examples=300)
@given(st.text(st.characters(max_codepoint=127), max_size=40), st.text(max_size=40))
def test_whatever_is_typed_has_one_mailbox(name, domain):
    home = mailbox(f"{name}@{domain}")
    assert mailbox(home) == home
    assert is_disposable(home) == is_disposable(f"{name}@{domain}")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ('"alice"@gmail.com', True),
        ('"a\\lice"@gmail.com', True),
        ('"a.b"@example.com', True),
        ('"a b"@example.com', False),
        ('".a"@example.com', False),
        ('"a\\"b"@example.com', False),
        ('""@example.com', False),
        ("alice@gmail.com", False),
        ("nobody", False),
    ],
)
def test_quotation_marks_that_say_nothing_are_known(address, expected):
    assert is_needlessly_quoted(address) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@mailinator.com", True),
        ("a@x.y.Mailinator.com", True),
        ("a@mailinator.com.", True),
        ("x@ｍailinator.com", True),
        ("x＠mailinator.com", True),
        ("a@mail\u00adinator.com", True),
        ("a@mailinator。com", True),
        ("a@yahóo.com", True),
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
def test_the_migrations_knew_the_same_rules():
    """SQL those of aliases; the further one also those of spelling, over what SQL made of them."""
    known = {User.objects.create_user(address).pk: home for address, home in ALIASES.items() if "..." not in address}
    User.objects.update(mailbox="")
    fill = importlib.import_module("keys.migrations.0004_mailboxes_and_further_accounts").FILL
    with connection.cursor() as cursor:
        cursor.execute(fill)
    assert dict(User.objects.values_list("pk", "mailbox")) == known
    respelt = {
        User.objects.create_user(address[:254]).pk: home
        for address, home in SPELLINGS.items()
        if address == address.lower()
    }
    User.objects.update(mailbox="")
    with connection.cursor() as cursor:
        cursor.execute(fill)
    further = importlib.import_module("keys.migrations.0006_mailboxes_by_every_spelling").fill
    further(apps, None)
    assert dict(User.objects.values_list("pk", "mailbox")) == known | respelt
