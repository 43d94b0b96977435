-- forget: deletes entries of the stream whose effect PostgreSQL has committed.
--
-- {'forget', shard, epoch (ignored), group, {stream ids in order}}
-- Replies: {'OK', now, how many were there}
-- Invariant: `drained` is the highest id ever deleted and never goes back, also when a journal that slept sends an old
-- step: a seed that was read before a deletion can tell (lua/seed.lua).

local function forget(entry)
  local shard, ids = shard_of(entry[2]), entry[5]
  local drained = redis.call('GET', shard.tag .. 'drained')
  if not drained or later(ids[#ids], drained) then
    redis.call('SET', shard.tag .. 'drained', ids[#ids])
  end
  redis.call('XACK', shard.tag .. 'journal', entry[4], unpack(ids))
  return {'OK', now, redis.call('XDEL', shard.tag .. 'journal', unpack(ids))}
end
