"""The demo that a first start shows: brands, people, keys and an honest stand-in for an engine."""
