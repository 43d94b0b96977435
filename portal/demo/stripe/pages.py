"""The fake's own pages: Checkout, the question of 3-D Secure, the customer portal. All say that no money moves."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from urllib.parse import urlsplit

from portal.demo.stripe.account import Object
from portal.demo.stripe.cards import CARDS

BUTTONS = (
    ("pm_card_visa", "Pay with a card that works", "4242 4242 4242 4242", "button"),
    ("pm_card_authenticationRequired", "Pay with a card that asks (3-D Secure)", "4000 0027 6000 3184", "button plain"),
    ("pm_card_chargeDeclined", "Pay with a card that is declined", "4000 0000 0000 0002", "button plain"),
    (
        "pm_card_chargeCustomerFail",
        "Pay with a card that is declined later, when you are away",
        "4000 0000 0000 0341",
        "button plain",
    ),
)
WHOLE = frozenset({"jpy", "krw", "vnd", "clp"})

STYLE = """
:root { color-scheme: light dark; --ink: #1a1f36; --quiet: #5b6178; --paper: #fff; --ground: #f3f5f9; --line: #d9dde8;
  --accent: #4b45c6; --on-accent: #fff; --bad: #a3132b; --ribbon: #8a4b00; --on-ribbon: #fff6e5 }
@media (prefers-color-scheme: dark) { :root { --ink: #eceefa; --quiet: #a9afc6; --paper: #1d2133; --ground: #141726;
  --line: #353b55; --accent: #a5a1ff; --on-accent: #14132b; --bad: #ff9dab; --ribbon: #ffc978; --on-ribbon: #2b1a00 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
.ribbon { background: var(--ribbon); color: var(--on-ribbon); padding: .6rem 1rem; text-align: center;
  font-weight: 600 }
main { max-width: 27rem; margin: 2.5rem auto; padding: 0 1rem }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.75rem }
h1 { font-size: 1rem; font-weight: 500; color: var(--quiet); margin: 0 }
.sum { font-size: 2.25rem; font-weight: 650; letter-spacing: -.02em; margin: .1rem 0 1rem }
dl { display: grid; grid-template-columns: 1fr auto; gap: .35rem 1rem; margin: 0 0 1.25rem; padding: 1rem 0;
  border-block: 1px solid var(--line) }
dt { color: var(--quiet) } dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums }
form { display: grid; gap: .6rem; margin: 0 }
.button { display: block; width: 100%; padding: .7rem 1rem; border-radius: 8px; border: 1px solid var(--accent);
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; cursor: pointer }
.button small { display: block; font-weight: 400; font-variant-numeric: tabular-nums }
.plain { background: transparent; color: var(--ink); border-color: var(--line) }
.button:focus-visible, a:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
.bad { color: var(--bad); margin: 0 0 1rem; font-weight: 600 }
.foot { text-align: center; margin-top: 1.25rem } a { color: var(--quiet) }
"""


def policy(*elsewhere: str) -> str:
    """Forms may end where the session leads back to; nothing else may load or run."""
    origins = sorted({f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, elsewhere) if parts.netloc})
    return (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "form-action 'self' " + " ".join(origins)
    )


def money(amount: int, currency: str) -> str:
    text = f"{amount:,}" if currency in WHOLE else f"{amount // 100:,}.{amount % 100:02d}"
    return f"{text} {currency.upper()}"


def checkout(session: Object, problem: str = "") -> str:
    if session["status"] != "open":
        return _page("Checkout", "<h1>This page is over</h1><p>It was paid already, or it has expired.</p>")
    if session["mode"] == "setup":
        head = "<h1>Keep a card for later</h1><p>Nothing is charged now.</p>"
    else:
        tax = session["total_details"]["amount_tax"]
        rows = "".join(
            f"<dt>{escape(line['name'])}</dt><dd>{money(line['amount'], session['currency'])}</dd>"
            for line in session["lines"]
        )
        rows += f"<dt>Tax</dt><dd>{money(tax, session['currency'])}</dd>" if tax else ""
        total = money(session["amount_total"], session["currency"])
        each = " every month" if session["mode"] == "subscription" else ""
        head = f'<h1>To pay{each}</h1><p class="sum">{total}</p><dl>{rows}<dt>Total</dt><dd>{total}</dd></dl>'
    wrong = f'<p class="bad" role="alert">{escape(problem)}</p>' if problem else ""
    buttons = "".join(_button(session, *button) for button in BUTTONS)
    back = session["cancel_url"]
    leave = f'<p class="foot"><a href="{escape(back)}">Back without paying</a></p>' if back else ""
    return _page("Checkout", f'{head}{wrong}<form method="post">{buttons}</form>{leave}')


def _button(session: Object, card: str, label: str, number: str, style: str) -> str:
    if session["mode"] == "setup":
        label = label.replace("Pay with", "Keep")
    return f'<button class="{style}" name="card" value="{card}">{label}<small>{number}</small></button>'


def challenge(card: str) -> str:
    """What the cardholder's bank would ask."""
    shown = CARDS[card].last4
    return _page(
        "3-D Secure",
        f"<h1>Your bank asks</h1><p>Is it you who pays with the card ending in {shown}?</p>"
        f'<form method="post"><input type="hidden" name="card" value="{card}">'
        '<button class="button" name="passed" value="yes">Yes, complete the payment</button>'
        '<button class="button plain" name="passed" value="no">No, fail it</button></form>',
    )


def portal(session: Object, methods: list[Object], subscriptions: list[Object]) -> str:
    cards = "".join(
        f"<dt>{escape(method['card']['brand'].capitalize())}</dt><dd>ending in {method['card']['last4']}</dd>"
        for method in methods
    )
    rows = f"<dl>{cards}</dl>" if cards else "<p>No card is kept.</p>"
    back = session["return_url"]
    leave = f'<p class="foot"><a href="{escape(back)}">Back</a></p>' if back else ""
    return _page("Billing", f"<h1>Your cards</h1>{rows}{''.join(map(_subscription, subscriptions))}{leave}")


def _subscription(found: Object) -> str:
    """A form per subscription: another card, which pays what is open too; the end of it; its going on."""
    (item,) = found["items"]["data"]
    until = datetime.fromtimestamp(item["current_period_end"], UTC).strftime("%Y-%m-%d")
    ends = found["cancel_at_period_end"]
    state = f"ends {until}" if ends else "not paid" if found["status"] == "past_due" else f"renews {until}"
    price = f"{money(item['price']['unit_amount'], item['price']['currency'])} a month"
    cards = "".join(
        f'<button class="button plain" name="card" value="{card}">{label}<small>{number}</small></button>'
        for card, label, number in (
            ("pm_card_visa", "Pay with another card, one that works", "4242 4242 4242 4242"),
            ("pm_card_chargeCustomerFail", "Pay with one that is declined later", "4000 0000 0000 0341"),
        )
    )
    act, label = ("resume", "Go on after all") if ends else ("cancel", "Cancel at the end of the month")
    return (
        f"<h1>{escape(item['price']['nickname'])}</h1><dl><dt>{price}</dt><dd>{state}</dd></dl>"
        f'<form method="post"><input type="hidden" name="subscription" value="{found["id"]}">{cards}'
        f'<button class="button" name="act" value="{act}">{label}</button></form>'
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title} · test</title><link rel="stylesheet" href="/style.css"></head><body>'
        '<p class="ribbon">Test payments: this is a stand-in for Stripe. No card is read and no money moves.</p>'
        f'<main id="main"><div class="card">{body}</div></main></body></html>'
    )
