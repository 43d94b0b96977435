"""What no browser sends: refused in words, never with a failure of ours."""

import pytest

from keys import issuing
from keys.models import Role
from tests import cast as casting

POSTS = [
    ("{o}/members/role/", "member"),
    ("{o}/members/remove/", "member"),
    ("{o}/members/hand-over/", "member"),
    ("{o}/members/invitations/revoke/", "email"),
    ("{o}/members/invitations/resend/", "email"),
    ("{o}/keys/revoke/", "key"),
    ("/invitations/accept/", "organization"),
    ("/invitations/decline/", "organization"),
]


@pytest.fixture
def browser(cast):
    client = casting.browser_of(cast.owner)
    client.raise_request_exception = False
    return client


def test_nul_is_refused_wherever_it_is_put(cast, browser):
    at = f"/{cast.organization.public_id}"
    sent = [browser.post(path.format(o=at), {name: "a\0b", "role": "viewer"}) for path, name in POSTS]
    sent += [browser.post(f"{at}/keys/revoke/", {"a\0b": ""}), browser.get("/%00/"), browser.get(f"{at}/usage/%00")]
    cast.owner.is_staff = cast.owner.is_superuser = True
    cast.owner.save()
    completed = "app_label=keys&model_name=apikey&field_name=organization"
    queries = ["preview-prices/?brand=%00", f"autocomplete/?{completed}&term=%00", "keys/organization/?q=%00"]
    sent += [browser.get(f"/admin/{query}") for query in queries]
    assert [answer.status_code for answer in sent] == [400] * len(sent)
    assert "That request was not understood" in sent[0].content.decode()
    assert browser.get(f"{at}/usage/").status_code == 200


def test_the_management_api_reads_its_own(cast):
    """In its own words, and its bodies are left to it."""
    issued = issuing.issue_for_management(
        organization=cast.organization, name="program", role=Role.ADMIN, actor=cast.owner
    )
    client = casting.browser_of(HTTP_AUTHORIZATION=f"Bearer {issued.secret}")
    client.raise_request_exception = False
    for path in ("activity?who=%00", "keys?limit=%00", "members/%00"):
        answer = client.get(f"/api/manage/v1/{path}")
        assert answer.status_code in {200, 400, 404, 422}, path
    assert client.post("/api/manage/v1/keys", {"name": "a\0"}).status_code in {400, 415, 422}


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "0001-01-02", "1969-12-31", "10000-01-01"])
def test_days_that_no_calendar_reaches_are_not_asked_for(cast, browser, day):
    for more in ("", "&by=model", "&format=csv"):
        answer = browser.get(f"/{cast.organization.public_id}/usage/?day={day}{more}")
        assert answer.status_code == 200
        assert b"".join(answer) is not None
