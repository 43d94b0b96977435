-- renew: prolongs a hold's lease and keeps the call's running usage with it; due: lists holds whose lease ran out.
--
-- {'renew', shard, epoch, call id, lease ms, running usage (JSON text, '' when unknown)}
-- {'due',   shard, epoch, grace ms, how many}
-- Replies: {'OK', now} {'LAPSED', now} (the hold is gone: end the stream)
--   due: {'OK', now, {{call id, organization, key, model, brand, day id, granted, payer, money held, facts, running
--   usage, deadline ms}, …}}. Both: {'EPOCH', now, …} while the shard is closed
-- Invariant: a renew never makes a hold.

local function renew(entry)
  local shard = shard_of(entry[2])
  if not shard.open then
    return closed(shard)
  end
  local record = redis.call('HGET', shard.tag .. 'holds', entry[4])
  if not record then
    return {'LAPSED', now}
  end
  local hold, deadline = hold_of(record), text(now + entry[5])
  if entry[6] ~= '' then
    redis.call('HSET', shard.tag .. 'holds', entry[4] .. ':u', entry[6])
  end
  start_lease(shard, hold[1], hold[10], deadline, entry[4])
  return {'OK', now}
end

local function due(entry)
  local shard = shard_of(entry[2])
  if not shard.open then
    return closed(shard)
  end
  local found = redis.call('ZRANGEBYSCORE', shard.tag .. 'leases', '-inf', text(now - entry[4]), 'WITHSCORES', 'LIMIT', 0,
    entry[5])
  local lapsed = {}
  for n = 1, #found, 2 do
    local record = redis.call('HMGET', shard.tag .. 'holds', found[n], found[n] .. ':u')
    if record[1] then
      local hold = hold_of(record[1])
      lapsed[#lapsed + 1] = {found[n], hold[1], hold[2], hold[3], hold[4], hold[5], hold[11], hold[12], hold[8], hold[13],
        record[2] or '', tonumber(found[n + 1])}
    else
      redis.call('ZREM', shard.tag .. 'leases', found[n])
    end
  end
  return {'OK', now, lapsed}
end
