import pytest
from django.core import mail

from portal import mailbox


@pytest.fixture
def post_office(settings, tmp_path):
    settings.VAR_DIR = tmp_path
    settings.DEMO = True
    settings.EMAIL_BACKEND = "portal.mailbox.EmailBackend"


@pytest.fixture
def _letters(post_office):
    for number in range(3):
        mail.send_mail(f"Letter {number}", "See http://testserver/x?y=1 <b>bold</b>", None, ["ada@example.com"])


@pytest.mark.usefixtures("_letters")
def test_mails_are_shown_newest_first_with_links(client, house):
    page = client.get("/mailbox/").content.decode()
    assert page.index("Letter 2") < page.index("Letter 0")
    assert '<a href="http://testserver/x?y=1"' in page
    assert "&lt;b&gt;bold" in page


@pytest.mark.usefixtures("_letters")
def test_only_a_demo_has_the_page(client, house, settings):
    settings.DEMO = False
    assert client.get("/mailbox/").status_code == 404


def test_an_empty_mailbox_says_how_to_fill_it(client, house, post_office):
    assert "Sign up with any address" in client.get("/mailbox/").content.decode()


def test_old_mails_are_forgotten(post_office, monkeypatch):
    monkeypatch.setattr(mailbox, "KEPT", 2)
    for number in range(4):
        mail.send_mail(f"Letter {number}", "", None, ["ada@example.com"])
    assert [letter.subject for letter in mailbox.newest_first()] == ["Letter 3", "Letter 2"]


def test_a_broken_file_hides_no_other_mail(post_office):
    mail.send_mail("Letter", "", None, ["ada@example.com"])
    (mailbox.folder() / "99999999999999999999-broken.json").write_text("{")
    assert [letter.subject for letter in mailbox.newest_first()] == ["Letter"]
