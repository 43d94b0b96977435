"""Words that no brand may be called: its pages and calls are found by its slug, the first segment of a path. Pure."""

RESERVED_SLUGS = frozenset(
    {
        *(
            "accounts",
            "activity",
            "admin",
            "alerts",
            "api",
            "balance",
            "billing",
            "demo",
            "docs",
            "favicon.ico",
            "health",
        ),
        *(
            "invitations",
            "keys",
            "limits",
            "login",
            "logout",
            "mailbox",
            "media",
            "members",
            "metrics",
            "models",
            "open",
        ),
        *("overview", "playground", "reports", "requests", "robots.txt", "settings", "signup", "statements", "static"),
        *("stripe", "usage", "v1", "v2", "webhooks"),
    }
)
"""First segments that belong to the house; tests hold every address of the portal against them."""
