"""Private PostgreSQL and Redis: the real servers, from wheels, under `var/`, when no DATABASE_URL is given.

Django-free: manage.py needs the stores before settings can be used. `running.stores()` is the way in.
"""


class StoresError(Exception):
    """A store could not be started or reached; the text says what to do about it."""
