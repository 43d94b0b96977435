"""What is given once to a person: the sign-up credit and what tiers include, for the first organization at a brand."""

import importlib
import pkgutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.db import connection

from billing import ladder, migrations, tiers
from billing.models import FirstAccount, Grant, Tier
from billing.snapshot import TierRecord
from keys import organizations
from keys.caller import OrganizationRecord
from keys.models import Role
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def brand():
    return cast.brand(sign_up_grant_nanos=5_000)


def opened(brand, person):
    organization = cast.organization(brand)
    cast.join(person, organization, Role.OWNER)
    ladder.welcome(organization=organization, actor=person)
    organization.refresh_from_db()
    return organization


def test_the_first_organization_has_it_and_a_further_one_has_not(brand):
    person = cast.person()
    first, second = opened(brand, person), opened(brand, person)
    assert (first.is_further, second.is_further) == (False, True)
    assert [grant.organization for grant in Grant.objects.all()] == [first]


def test_twice_changes_nothing(brand):
    first = opened(brand, person := cast.person())
    ladder.welcome(organization=first, actor=person)
    first.refresh_from_db()
    assert not first.is_further
    assert Grant.objects.count() == FirstAccount.objects.count() == 1


def test_each_brand_has_its_own_first(brand):
    person = cast.person()
    other = cast.brand(sign_up_grant_nanos=7_000)
    assert not opened(brand, person).is_further
    assert not opened(other, person).is_further
    assert Grant.objects.count() == 2


def test_another_account_of_the_same_mailbox_is_no_other_person(brand):
    assert not opened(brand, cast.person(email="ada.l@gmail.com")).is_further
    assert opened(brand, cast.person(email="adal+2@googlemail.com")).is_further


def test_handing_over_leaving_and_coming_back_mint_nothing(brand):
    ada, bob = cast.person("ada"), cast.person("bob")
    first = opened(brand, ada)
    organizations.add_member(organization=first, user=bob, role=Role.OWNER, actor=ada)
    organizations.remove_member(membership=first.memberships.get(user=ada), actor=ada)
    assert opened(brand, ada).is_further
    first.refresh_from_db()
    assert not first.is_further
    assert not opened(brand, bob).is_further  # his first; what was handed to him was Ada's
    assert opened(brand, bob).is_further


def test_another_address_is_the_same_person_and_the_old_address_stays_used(brand):
    ada = cast.person(email="ada@example.com")
    opened(brand, ada)
    ada.email = "ada@new.example"
    ada.save()
    EmailAddress.objects.filter(user=ada).update(email=ada.email)
    assert opened(brand, ada).is_further
    assert opened(brand, cast.person(email="ada@example.com")).is_further
    assert opened(brand, cast.person(email="ada+x@new.example")).is_further


def test_a_throw_away_mailbox_is_never_first(brand):
    assert opened(brand, cast.person(email="x@mailinator.com")).is_further
    assert not Grant.objects.exists()


def test_accounts_of_one_mailbox_opened_at_the_same_moment_are_one_first(brand):
    people = [cast.person(email=f"ada+{number}@example.com") for number in range(4)]

    def open_it(person):
        try:
            return opened(brand, person).is_further
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(open_it, people)) == [False, True, True, True]
    assert Grant.objects.count() == 1


def test_those_who_came_before_keep_what_they_had(brand):
    ada = cast.person()
    oldest, credited = cast.organization(brand), cast.organization(brand)
    cast.join(ada, oldest, Role.OWNER)
    ladder.welcome(organization=credited, actor=ada)
    FirstAccount.objects.all().delete()
    (name,) = (found.name for found in pkgutil.iter_modules(migrations.__path__) if "first_accounts" in found.name)
    fill = importlib.import_module(f"billing.migrations.{name}").FILL
    with connection.cursor() as cursor:
        cursor.execute(fill)
    assert FirstAccount.objects.get().organization == credited


def test_an_organization_that_staff_made_is_its_owners_first(brand):
    ada, bob = cast.person("ada"), cast.person("bob")
    made = organizations.create(brand=brand, name="Made", actor="staff")
    organizations.add_member(organization=made, user=bob, role=Role.OWNER, actor="staff")
    organizations.remove_member(membership=owner_of(made, ada), actor="staff", address=None)
    assert not Grant.objects.exists()
    assert opened(brand, bob).is_further
    assert not Grant.objects.exists()
    assert not opened(brand, ada).is_further  # the organization was Bob's first, not hers


def owner_of(organization, person):
    return organizations.add_member(organization=organization, user=person, role=Role.OWNER, actor="staff")


def test_who_is_made_owner_later_has_it_as_their_first(brand):
    ada = cast.person()
    made = organizations.create(brand=brand, name="Made", actor="staff")
    member = organizations.add_member(organization=made, user=ada, role=Role.VIEWER, actor="staff")
    assert not FirstAccount.objects.exists()
    organizations.set_role(membership=member, role=Role.OWNER, actor="staff")
    assert FirstAccount.objects.get().organization == made
    assert opened(brand, ada).is_further


def test_who_signs_up_has_credit_for_what_they_own_then(brand):
    ada = cast.person()
    own = organizations.create(brand=brand, name="Own", owner=ada, actor=ada)
    ladder.welcome(organization=own, actor=ada)
    assert [grant.organization for grant in Grant.objects.all()] == [own]
    assert not own.is_further


def test_first_accounts_of_before_follow_spelling_and_staff(brand):
    ada, bob = cast.person("ada", email="ada@example.com"), cast.person("bob", email="bob@example.com")
    spelt, made = cast.organization(brand), cast.organization(brand)
    cast.join(bob, made, Role.OWNER)
    FirstAccount.objects.create(brand=brand, mailbox='"ada"@example.com', user=ada, organization=spelt)
    migration = importlib.import_module("billing.migrations.0027_once_per_person")
    migration.respell(apps, None)
    with connection.cursor() as cursor:
        cursor.execute(migration.FIRST_ACCOUNTS)
    rows = FirstAccount.objects.order_by("mailbox").values_list("mailbox", "organization")
    assert list(rows) == [("ada@example.com", spelt.pk), ("bob@example.com", made.pk)]


def test_a_further_account_pays_what_a_tier_includes_unless_the_tier_is_sold():
    def payer(kind, *, is_sold, is_further):
        tier = TierRecord(id=1, rank=1, slug="t", name="T", payer=kind, is_sold=is_sold)
        owner = OrganizationRecord(1, "org_1", "o", 2, "active", 1, version=4, is_further=is_further)
        return tiers.as_paid(tier, owner).payer

    for kind in ("included", "included_then_prepaid", "prepaid"):
        assert payer(kind, is_sold=False, is_further=False) == kind
        assert payer(kind, is_sold=True, is_further=True) == kind
        assert payer(kind, is_sold=False, is_further=True) == "prepaid"


def test_pages_say_who_pays(brand):
    further, first = cast.organization(brand, is_further=True), cast.organization(brand)
    free = Tier.objects.create(brand=brand, rank=1, slug="free", name="Free", payer="included")
    plus = Tier.objects.create(brand=brand, rank=2, slug="plus", name="Plus", payer="included", monthly_price_nanos=9)
    assert ladder.payer_of(first, free) == "included"
    assert [ladder.payer_of(further, tier) for tier in (free, plus, None)] == ["prepaid", "included", "prepaid"]
