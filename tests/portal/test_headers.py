import re

import pytest

PAGES = ["/", "/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/nothing-here", "/colours.css"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_strict_policy(client, house, path):
    answer = client.get(path)
    policy = answer["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(
        policy.split("; ")
    )
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("path", PAGES)
def test_no_page_needs_more_than_the_policy_allows(client, house, path):
    text = client.get(path).content.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", text)
    assert not re.search(r'(?:src|href)="https?://(?!testserver)', text)


def test_pages_are_not_kept_by_caches(client, house):
    assert "no-store" in client.get("/accounts/login/")["Cache-Control"]


def test_a_form_without_its_token_is_refused_with_a_page(house):
    from django.test import Client

    answer = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "a@example.com", "password": "x"})
    assert answer.status_code == 403
    assert "out of date" in answer.content.decode()


def test_a_missing_page_says_so_in_the_brands_dress(client, house):
    answer = client.get("/nothing-here")
    assert answer.status_code == 404
    assert "There is nothing here" in answer.content.decode()
    assert house.name in answer.content.decode()
