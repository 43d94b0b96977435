"""A page reaches a tenant's rows as a member or not at all."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404

from keys import access, issuing
from keys.models import Role
from tests import cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def company():
    return cast.assemble()


@pytest.fixture
def key(company):
    return issuing.issue(organization=company.organization, name="one", actor="test").key


def test_members_reach_their_organization_and_its_keys(company, key):
    for user in (company.owner, company.member, company.viewer):
        found = access.organization_for(user, company.brand, company.organization.public_id)
        assert found == company.organization
        assert access.key_for(user, company.brand, key.public_id) == key
        assert list(access.organizations_of(user, company.brand)) == [company.organization]


def refusal(function, *args, **kwargs):
    with pytest.raises(Http404) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_stranger_and_missing_get_the_same_404_from_the_same_queries(company, key, django_assert_num_queries):
    organization = company.organization.public_id
    for function, there, missing in (
        (access.organization_for, organization, "org_" + "a" * 20),
        (access.key_for, key.public_id, "key_" + "a" * 20),
    ):
        with django_assert_num_queries(1):
            strange = refusal(function, company.stranger, company.brand, there)
        with django_assert_num_queries(1):
            assert refusal(function, company.stranger, company.brand, missing) == strange
        with django_assert_num_queries(1):
            assert refusal(function, company.stranger, company.brand, there, role_at_least=Role.OWNER) == strange


def test_other_brand_anonymous_and_deactivated_are_strangers(company, key):
    other = cast.brand()
    refusal(access.organization_for, company.owner, other, company.organization.public_id)
    refusal(access.key_for, company.owner, other, key.public_id)
    refusal(access.organization_for, AnonymousUser(), company.brand, company.organization.public_id)
    assert not access.organizations_of(AnonymousUser(), company.brand).exists()
    assert not access.organizations_of(company.stranger, company.brand).filter(id=company.organization.id).exists()
    company.owner.is_active = False
    company.owner.save()
    refusal(access.key_for, company.owner, company.brand, key.public_id)
    assert not access.organizations_of(company.owner, company.brand).exists()


@pytest.mark.parametrize("public_id", ["", "\x00", "org_'; --", "ORG_A", "é", "a" * 41, "../x", "\ud800"])
def test_nonsense_is_missing_and_asks_nothing(company, public_id, django_assert_num_queries):
    with django_assert_num_queries(0):
        refusal(access.organization_for, company.owner, company.brand, public_id)
        refusal(access.key_for, company.owner, company.brand, public_id)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.OWNER, {"owner", "admin", "developer", "billing", "viewer"}),
        (Role.ADMIN, {"admin", "developer", "billing", "viewer"}),
        (Role.DEVELOPER, {"developer", "viewer"}),
        (Role.BILLING, {"billing", "viewer"}),
        (Role.VIEWER, {"viewer"}),
    ],
)
def test_roles_contain_each_other_but_developer_and_billing_stand_apart(company, key, role, may):
    user = cast.person()
    cast.join(user, company.organization, role)
    assert access.role_in(user, company.organization) == role
    for needed in Role:
        if needed.value in may:
            assert access.organization_for(user, company.brand, company.organization.public_id, role_at_least=needed)
            assert access.key_for(user, company.brand, key.public_id, role_at_least=needed)
        else:
            with pytest.raises(PermissionDenied):
                access.key_for(user, company.brand, key.public_id, role_at_least=needed)
    assert access.role_in(company.stranger, company.organization) is None
