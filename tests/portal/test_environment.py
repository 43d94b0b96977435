import pytest
from redis import Redis

from portal import environment


@pytest.mark.parametrize(
    ("given", "second"),
    [
        ("unix:///var/run/redis.sock?db=0", "unix:///var/run/redis.sock?db=2"),
        ("redis://:secret@redis.example:6380/0", "redis://:secret@redis.example:6380/2"),
        ("rediss://redis.example", "rediss://redis.example/2"),
    ],
)
def test_another_database_of_the_same_redis(given, second):
    assert environment.another_redis_database(given, 2) == second
    assert Redis.from_url(second).connection_pool.connection_kwargs["db"] == 2
