"""A stand-in for Stripe on loopback, with a log of its own of the money that moved. Raw ASGI, no Django, no network.

It speaks the part of Stripe's API that this house uses, keeps Stripe's promises about idempotency keys, signs its
webhooks, shows a Checkout page, and does wrong what it is told to (knobs.py).
"""
