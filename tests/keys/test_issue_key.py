"""`manage.py issue_key`, a contract other programs rely on."""

import json

import pytest
from django.core.management import CommandError, call_command

from keys import issuing, tokens
from keys.models import AuditEvent
from tests import cast


@pytest.fixture
def company(transactional_db):
    return cast.assemble(slug="acme", key_prefix="ac-")


def run(capsys, *words):
    call_command("issue_key", *words)
    return capsys.readouterr()


def test_prints_one_key_that_opens(company, capsys):
    said = run(capsys, "--brand", "acme", "--organization", company.organization.slug)
    secret = said.out.strip()
    assert tokens.well_formed(secret, "ac-")
    assert said.err == ""
    key = issuing.existing(secret)
    assert key
    assert key.organization == company.organization
    assert AuditEvent.objects.get().actor_name == "manage.py issue_key"
    test = run(capsys, "--brand", "acme", "--organization", company.organization.slug, "--test").out.strip()
    assert tokens.well_formed(test, "ac-test_")


def test_json_says_what_was_made(company, capsys):
    words = ("--brand", "acme", "--organization", company.organization.public_id, "--name", "CI", "--json")
    said = json.loads(run(capsys, *words).out)
    key = issuing.existing(said["api_key"])
    assert key
    assert said == {
        "api_key": said["api_key"],
        "key_id": key.public_id,
        "key_hint": key.hint,
        "mode": "live",
        "name": "CI",
        "brand": "acme",
        "organization": company.organization.slug,
        "organization_id": company.organization.public_id,
        "published": True,
    }


def test_unknown_names_are_said_plainly(company, capsys):
    with pytest.raises(CommandError, match="no brand 'x'; there are: acme"):
        run(capsys, "--brand", "x", "--organization", "y")
    with pytest.raises(CommandError, match="no organization 'y'"):
        run(capsys, "--brand", "acme", "--organization", "y")
    with pytest.raises(CommandError, match="name"):
        run(capsys, "--brand", "acme", "--organization", company.organization.slug, "--name", "")
