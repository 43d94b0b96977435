from __future__ import annotations

import pytest

from keys.models import Brand
from tests import cast as casting


@pytest.fixture
def house(db, settings) -> Brand:
    """The brand that answers where neither host nor path names one."""
    brand = casting.brand(name="Dialogix", support_email="help@dialogix.example")
    settings.DEFAULT_BRAND = brand.slug
    return brand


@pytest.fixture
def cast(db, settings) -> casting.Cast:
    found = casting.assemble(name="Dialogix")
    settings.DEFAULT_BRAND = found.brand.slug
    return found
