-- The steps by which billing.rebuild opens a shard's epoch. While its epoch reads "~token" the shard is closed to all;
-- with a token that ends in "!" the living workers bring in what Redis lost.
--
-- {'epoch',  shard}                                          → {'OK', now, what the epoch reads, open (0|1), run id}
-- {'begin',  shard, 0, epoch seen ('' absent), token}        → {'OK', now} {'LOST', now, epoch} somebody else was first
-- {'clear',  shard, 0, token, {names}}                       → {'OK', now}: counters are forgotten, they are seeded again
-- {'mark',   shard, 0, token, {call ids}}                    → {'OK', now}: their entries are on the stream
-- {'drop',   shard, 0, token, {call ids}}                    → {'OK', now}: their holds came back though they are booked
-- {'assert', shard, 0, token, {call ids}}                    → {'OK', now, how many}: their holds freeze their amounts again
-- {'await',  shard, 0, token, stream id that PostgreSQL has} → {'OK', now}: the token ends in "!" from now on
-- {'acks',   shard, 0, token, {workers}}                     → {'OK', now, {those that have not acknowledged}}
-- {'finish', shard, 0, token, stream id that PostgreSQL has} → {'OK', now, epoch}
-- and by which workers take part while the token ends in "!":
-- {'reassert', shard, 0, call id, static, plan, granted, needs, facts, made at ms, token} → {'OK', now} the hold stands
--   {'KNOWN', now} its entry is on the stream: no hold is made
-- {'replay', shard, 0, call id, organization, key, model, day id, amounts of UNITS, charge, event, token} → {'OK', now,
--   stream id} {'KNOWN', now}: an entry that Redis lost is there again, as if it had been settled with its hold
-- {'ack',    shard, 0, worker, token}                        → {'OK', now}: this worker has brought in all it had
-- Invariant: every step names the token, which names Redis' run, so a rebuilder that slept and was replaced, or whose Redis
-- was, can do nothing more. A hold is
-- asserted once, however often a step whose reply was lost is sent again, and a call has one entry or one hold:
-- `asserted` names each call: "h" its hold is asserted, "j" its entry is on the stream. Entries that are replayed need
-- no posting: counters are seeded after the opening, from PostgreSQL and the stream. Ids of the stream never fall
-- behind what PostgreSQL has.

local LEASE_MS = 60000

local function read_epoch(entry)
  local shard = shard_of(entry[2])
  return {'OK', now, shard.epoch, shard.open and 1 or 0, run_id}
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
  start_lease(shard, hold[1], hold[10], deadline, call_id)
end

local function assert_holds(entry)
  local shard, count = shard_of(entry[2]), 0
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, call_id in ipairs(entry[5]) do
    local record = redis.call('HGET', shard.tag .. 'holds', call_id)
    if record and redis.call('HSETNX', shard.tag .. 'asserted', call_id, 'h') == 1 then
      assert_hold(shard, call_id, hold_of(record))
      count = count + 1
    end
  end
  return {'OK', now, count}
end

local function mark_streamed(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, call_id in ipairs(entry[5]) do
    redis.call('HSET', shard.tag .. 'asserted', call_id, 'j')
  end
  return {'OK', now}
end

local function drop(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, call_id in ipairs(entry[5]) do
    redis.call('HDEL', shard.tag .. 'holds', call_id, call_id .. ':u')
    redis.call('ZREM', shard.tag .. 'leases', call_id)
  end
  return {'OK', now}
end

-- Fails when the stream is already past the id, which is just as well.
local function go_past(shard, stream_id)
  local ms, sequence = position(stream_id)
  local id = redis.pcall('XADD', shard.tag .. 'journal', text(ms) .. '-' .. text(sequence + 1), 'o', '0')
  if type(id) == 'string' then
    redis.call('XDEL', shard.tag .. 'journal', id)
  end
end

local function await(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  go_past(shard, entry[5])
  redis.call('SET', shard.tag .. 'epoch', '~' .. entry[4] .. '!')
  shards[entry[2]] = nil
  return {'OK', now}
end

local function reassert(entry)
  local shard, call_id, number = shard_of(entry[2]), entry[4], entry[6]
  if shard.epoch ~= '~' .. entry[11] then
    return lost(shard)
  elseif redis.call('HGET', shard.tag .. 'asserted', call_id) == 'j' then
    return {'KNOWN', now}
  elseif redis.call('HEXISTS', shard.tag .. 'holds', call_id) == 1 then
    return {'OK', now}
  end
  local asked = asked_of(shard, entry[5])
  local plan, needed = asked.plans[number], needs_at(entry[8], entry[7])
  local amounts = amounts_of(asked, needed, plan.asks_money)
  local money = plan.asks_money and needed[NANO] or 0
  local reply = cmsgpack.pack({'OK', entry[10], number, entry[7], '0', '0', {}})
  local record = hold_record(shard, asked, amounts, money, entry[7], plan.payer, entry[9], reply, entry[10])
  redis.call('HSET', shard.tag .. 'holds', call_id, record)
  redis.call('HSET', shard.tag .. 'asserted', call_id, 'h')
  assert_hold(shard, call_id, hold_of(record))
  return {'OK', now}
end

local function replay(entry)
  local shard, call_id = shard_of(entry[2]), entry[4]
  if shard.epoch ~= '~' .. entry[12] then
    return lost(shard)
  elseif redis.call('HGET', shard.tag .. 'asserted', call_id) == 'j' then
    return {'KNOWN', now}
  end
  local record = redis.call('HGET', shard.tag .. 'holds', call_id)
  if record then
    end_hold(shard, hold_of(record), call_id, nil, 0)
  end
  redis.call('HSET', shard.tag .. 'asserted', call_id, 'j')
  return {'OK', now, append(shard, entry, '0')}
end

local function acknowledge(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[5] then
    return lost(shard)
  end
  redis.call('HSET', shard.tag .. 'asserted', '@' .. entry[4], '1')
  return {'OK', now}
end

local function acknowledged(entry)
  local shard, silent = shard_of(entry[2]), {}
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  for _, worker in ipairs(entry[5]) do
    if redis.call('HEXISTS', shard.tag .. 'asserted', '@' .. worker) == 0 then
      silent[#silent + 1] = worker
    end
  end
  return {'OK', now, silent}
end

local function finish(entry)
  local shard = shard_of(entry[2])
  if shard.epoch ~= '~' .. entry[4] then
    return lost(shard)
  end
  go_past(shard, entry[5])
  redis.call('DEL', shard.tag .. 'asserted')
  local epoch = text(now) .. ':' .. run_id
  redis.call('SET', shard.tag .. 'epoch', epoch)
  shards[entry[2]] = nil
  return {'OK', now, epoch}
end
