"""A brand's public documentation: Markdown by hand, facts from the brand's rows, its dialect and the gateway's tables.

Nothing that a row or a table knows is written a second time in a page, so pages cannot drift from what calls do.
"""
