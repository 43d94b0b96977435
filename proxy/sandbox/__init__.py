"""Where calls of test keys go: the same way as any call, but to an engine of the house's own, and past the books.

`bench.py` makes a worker's bench: the same worker, whose engines, slots, metrics and books are those of test calls.
Nothing else is told: what a test call may ask, how it is worded and answered is decided where it is for every call.
"""
