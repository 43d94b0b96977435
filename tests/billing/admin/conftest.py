"""An operator in a house where every table of the room has a row."""

from __future__ import annotations

import pytest

from tests import cast
from tests.billing.admin.house import made
from tests.billing.settled import Customer


@pytest.fixture
def who(redis_connection) -> Customer:
    return made(redis_connection)


@pytest.fixture
def browser(who, settings):
    settings.DEFAULT_BRAND = who.brand.slug
    return cast.browser_of(cast.person("operator", is_staff=True, is_superuser=True))
