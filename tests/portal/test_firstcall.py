import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from portal import firstcall

BASE = "https://api.example.com/v1"
printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=40)


@given(model=printable, secret=printable)
def test_curl_survives_a_shell_whatever_the_names(model, secret):
    words = shlex.split(firstcall.curl(base_url=BASE, scheme="bearer", secret=secret, model=model).replace("\\\n", " "))
    assert words[:4] == ["curl", f"{BASE}/chat/completions", "-H", f"Authorization: Bearer {secret}"]
    assert json.loads(words[-1])["model"] == model


def test_curl_presents_the_key_as_the_brand_takes_it():
    def shown(*schemes):
        return firstcall.samples(base_url=BASE, schemes=schemes, model="m", secret="ak-1")[0].text

    assert "'Authorization: Bearer ak-1'" in shown("x-api-key", "bearer")
    assert "'X-API-Key: ak-1'" in shown("x-api-key", "query")
    assert "'Authorization: Api-Key ak-1'" in shown("api-key")
    assert "'https://api.example.com/v1/chat/completions?api_key=ak-1'" in shown("query")


def test_sdk_samples_only_where_their_header_is_taken():
    names = [sample.name for sample in firstcall.samples(base_url=BASE, schemes=["x-api-key"], model="m")]
    assert names == ["curl"]


def test_the_python_sample_compiles():
    samples = firstcall.samples(base_url=BASE, schemes=["bearer"], model='a"b', secret="ak-1")
    compile(samples[1].text, "sample", "exec")
