-- void: ends a hold as if it had never been: everything is given back and nothing is posted.
--
-- {'void', shard, epoch, call id}
-- Replies: {'OK', now} {'NONE', now} (no such hold) {'EPOCH', now, ''} while the shard is closed
-- Invariant: only for calls that were never dispatched; those that were have an event, so they settle.

local function void(entry)
  local shard = shard_of(entry[2])
  if not shard.open then
    return closed(shard)
  end
  local record = redis.call('HGET', shard.tag .. 'holds', entry[4])
  if not record then
    return {'NONE', now}
  end
  end_hold(shard, hold_of(record), entry[4], nil, 0)
  return {'OK', now}
end
