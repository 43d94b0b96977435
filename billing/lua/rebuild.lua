-- The steps by which billing.rebuild opens a shard's epoch. While its epoch reads "~token" the shard is closed to all.
--
-- {'epoch',  shard}                                          → {'OK', now, what the epoch reads, open (0|1)}
-- {'begin',  shard, 0, epoch seen ('' absent), token}        → {'OK', now} {'LOST', now, epoch} somebody else was first
-- {'clear',  shard, 0, token, {names}}                       → {'OK', now}: counters are forgotten, they are seeded again
-- {'assert', shard, 0, token, {call ids}}                    → {'OK', now, how many}: their holds freeze their amounts again
-- {'finish', shard, 0, token, stream id that PostgreSQL has} → {'OK', now, epoch}
-- Invariant: every step names the token, so a rebuilder that slept and was replaced can do nothing more. A hold is
-- asserted once, however often a step whose reply was lost is sent again (`asserted` names those that are). Ids of the
-- stream never fall behind what PostgreSQL has.

local LEASE_MS = 60000

local function read_epoch(entry)
  local shard = shard_of(entry[2])
  return {'OK', now, shard.epoch, shard.open and 1 or 0}
end

local function lost(shard)
  return {'LOST', now, shard.epoch}
end

local function begin(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= entry[4] then
    return lost(shard)
  end
  redis.call('SET', shard.tag .. 'epoch', '~' .. entry[5])
  redis.call('DEL', shard.tag .. 'asserted')
  shards[entry[2]] = nil
  return {'OK', now}
end

local function clear(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, name in ipairs(entry[5]) do
    assert(string.sub(name, 1, #shard.tag) == shard.tag, 'name of another shard')
  end
  if #entry[5] > 0 then
    redis.call('UNLINK', unpack(entry[5]))
  end
  return {'OK', now}
end

local function assert_hold(shard, call_id, hold)
  local base = windows_of(shard, hold[1])
  local ids = {hold[5], hold[6], 'life', 'i' .. text(hold[7])}
  local keep = {KEEP_DAY_MS * 2, KEEP_MONTH_MS * 2, 0, KEEP_MINUTE_S * 1000}
  for n = 1, #hold[9], 4 do
    local key = base .. ids[hold[9][n]]
    redis.call('HINCRBY', key, fields_of(hold[9][n + 1])[hold[9][n + 2] + #UNITS], text(hold[9][n + 3]))
    if keep[hold[9][n]] > 0 then
      redis.call('PEXPIRE', key, text(keep[hold[9][n]]))
    end
  end
  if hold[8] > 0 then
    redis.call('HINCRBY', account_of(shard, hold[1]), 'held', text(hold[8]))
  end
  -- Its worker could not renew while the shard was closed.
  local deadline = text(math.max(tonumber(redis.call('ZSCORE', shard.tag .. 'leases', call_id) or '0'), now + LEASE_MS))
  start_lease(shard, hold[1], hold[10], 1, deadline, call_id)
end

local function assert_holds(entry)
  local shard, count = shard_of(entry[2]), 0
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, call_id in ipairs(entry[5]) do
    local record = redis.call('HGET', shard.tag .. 'holds', call_id)
    if record and redis.call('HSETNX', shard.tag .. 'asserted', call_id, '1') == 1 then
      assert_hold(shard, call_id, hold_of(record))
      count = count + 1
    end
  end
  return {'OK', now, count}
end

local function finish(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  local ms, sequence = position(entry[5])
  -- Fails when the stream is already past it, which is just as well.
  local id = redis.pcall('XADD', shard.tag .. 'journal', text(ms) .. '-' .. text(sequence + 1), 'o', '0')
  if type(id) == 'string' then
    redis.call('XDEL', shard.tag .. 'journal', id)
  end
  redis.call('DEL', shard.tag .. 'asserted')
  local epoch = text(now) .. ':' .. run_id
  redis.call('SET', shard.tag .. 'epoch', epoch)
  shards[entry[2]] = nil
  return {'OK', now, epoch}
end
