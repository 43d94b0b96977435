import pytest
from django.core.exceptions import ValidationError

from keys import issuing, names, organizations, service_accounts
from keys.models import Role, User
from tests import cast as casting

FORGED = ["a\nb", "a\x1bb", "a\u2028b", "a\u2029b", "a\u202eb", "a\u2066b", "a\u200bb", "a\ufeffb"]


def test_real_names_are_taken():
    for name in ("Åsa & Söhne", "नमस्\u200dते", "می\u200cخواهم", "👩\u200d💻 lab", "מפעל", "株式会社"):
        assert names.is_name(name)


@pytest.mark.parametrize("name", FORGED)
def test_no_writer_takes_a_name_that_forges(cast, name):
    ours, by = cast.organization, cast.owner
    key = issuing.issue(organization=ours, name="server", actor=by).key
    writers = [
        lambda: organizations.create(brand=cast.brand, name=name, actor=by),
        lambda: organizations.change(organization=ours, name=name, actor=by),
        lambda: issuing.issue(organization=ours, name=name, actor=by),
        lambda: issuing.change(key=key, name=name, actor=by),
        lambda: issuing.issue_for_management(organization=ours, name=name, role=Role.VIEWER, actor=by),
        lambda: service_accounts.create(organization=ours, name=name, role=Role.VIEWER, actor=by),
        lambda: User(email="x@example.com", name=name).full_clean(exclude=["password"]),
    ]
    for write in writers:
        with pytest.raises(ValidationError, match="One line of letters"):
            write()


def test_the_page_says_what_is_wrong(cast):
    answer = casting.browser_of(cast.owner).post(f"/{cast.organization.public_id}/settings/", {"name": "a\u202eb"})
    assert "One line of letters" in answer.content.decode()
