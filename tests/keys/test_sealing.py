import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from keys import sealing


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@how(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_sealed_opens_again_and_does_not_show(text):
    sealed = sealing.seal_text(text)
    assert sealing.open_text(sealed) == text
    assert sealed.isascii()
    assert sealing.seal_text(text) != sealed


def test_sealing_key_can_be_rotated(settings):
    old, new = Fernet.generate_key(), Fernet.generate_key()
    settings.SEALING_KEYS = [old]
    sealed = sealing.seal_text("secret")
    settings.SEALING_KEYS = [new, old]
    assert sealing.open_text(sealed) == "secret"
    assert Fernet(new).decrypt(sealing.seal_text("secret")) == b"secret"
    settings.SEALING_KEYS = [new]
    with pytest.raises(sealing.SealBroken):
        sealing.open_text(sealed)


@pytest.mark.parametrize("sealed", ["", "x", "gAAAA", "é"])
def test_what_was_never_sealed_does_not_open(sealed):
    with pytest.raises(sealing.SealBroken):
        sealing.open_text(sealed)
