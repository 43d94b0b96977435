-- settle: ends a hold with what was used; lapse: the same for a hold whose lease ran out, by the sweeper.
--
-- {'settle', shard, epoch, call id, organization, key, model, day id, amounts of UNITS, charge, event}
-- {'lapse',  shard, epoch, call id, organization, key, model, day id, amounts of UNITS, charge, event, grace ms}
-- Replies: {'OK', now, stream id, late (0|1)} {'KEPT', now} (lapse: renewed or settled meanwhile)
--   {'EPOCH', now, ''} while the shard is closed. Any epoch will do: the record says what to free.
-- Invariant: the hold is the marker. It goes with everything it held, in the same step in which its usage is posted and
-- its entry is appended, so nothing is charged twice; without it only the entry is appended, marked late.

-- Usage is posted by rule, not by the hold's list: to every counter of the call's day, month and life that exists by
-- now, so that a limit which came while the call ran is exact too. Minutes: only those that the call was judged by.
local function posts_of(hold, amounts)
  local fields, adds, last = {}, {}, 0
  local scopes = {fields_of('o'), fields_of('k' .. hold[2]), fields_of('m' .. hold[3])}
  for unit = 1, #UNITS do
    local amount = amounts[unit]
    if amount > 0 then
      fields[last + 1], fields[last + 2], fields[last + 3] = scopes[1][unit], scopes[2][unit], scopes[3][unit]
      adds[last + 1], adds[last + 2], adds[last + 3] = amount, amount, amount
      last = last + 3
    end
  end
  return fields, adds
end

-- A window's counters after a hold ends, as arguments of HSET. What a window no longer has (it expired, or Redis was
-- rebuilt) is left alone. The held fields are read with the posted ones and then taken off the lists again.
local function calendar_writes(key, window, list, fields, adds)
  local writes, posted = {key}, #fields
  local last = posted
  for n = 1, #list, 4 do
    if list[n] == window then
      last = last + 1
      fields[last], adds[last] = fields_of(list[n + 1])[list[n + 2] + #UNITS], -list[n + 3]
    end
  end
  local found = last > 0 and redis.call('HMGET', key, unpack(fields))
  for n = 1, last do
    if found[n] then
      writes[#writes + 1], writes[#writes + 2] = fields[n], plus(found[n], adds[n])
    end
  end
  for n = posted + 1, last do
    fields[n], adds[n] = nil, nil
  end
  return writes
end

local function minute_writes(key, list, amounts)
  local writes, fields, adds = {key}, {}, {}
  for n = 1, #list, 4 do
    if list[n] == MINUTE then
      local names, unit, last = fields_of(list[n + 1]), list[n + 2], #fields
      fields[last + 1], adds[last + 1] = names[unit + #UNITS], -list[n + 3]
      fields[last + 2], adds[last + 2] = names[unit], amounts and amounts[unit] or 0
    end
  end
  local found = #fields > 0 and redis.call('HMGET', key, unpack(fields)) or {}
  for n = 1, #found, 2 do
    if found[n] then -- else the minute has expired
      writes[#writes + 1], writes[#writes + 2] = fields[n], plus(found[n], adds[n])
      writes[#writes + 1], writes[#writes + 2] = fields[n + 1], plus(found[n + 1] or '0', adds[n + 1])
    end
  end
  return writes
end

local function account_writes(key, hold, charge)
  local found, writes = redis.call('HMGET', key, 'bal', 'held'), {key}
  if found[1] and charge > 0 then
    writes[#writes + 1], writes[#writes + 2] = 'bal', plus(found[1], -charge)
  end
  if found[2] and hold[8] > 0 then
    writes[#writes + 1], writes[#writes + 2] = 'held', plus(found[2], -hold[8])
  end
  return writes
end

-- `amounts` nil posts nothing. The first write frees memory, so that Redis lets the rest pass even when it is full.
local function end_hold(shard, hold, call_id, amounts, charge)
  local base, list, posts, adds = windows_of(shard, hold[1]), hold[9], {}, {}
  if amounts then
    posts, adds = posts_of(hold, amounts)
  end
  local all = {
    calendar_writes(base .. hold[5], DAY, list, posts, adds),
    calendar_writes(base .. hold[6], MONTH, list, posts, adds),
    minute_writes(base .. 'i' .. text(hold[7]), list, amounts),
    account_writes(account_of(shard, hold[1]), hold, charge),
  }
  if redis.call('EXISTS', base .. 'life') == 1 then
    all[#all + 1] = calendar_writes(base .. 'life', LIFE, list, posts, adds)
  end
  redis.call('HDEL', shard.tag .. 'holds', call_id, call_id .. ':u')
  redis.call('ZREM', shard.tag .. 'leases', call_id)
  for _, scope in ipairs(hold[10]) do
    redis.call('ZREM', running_of(shard, hold[1], scope), call_id)
  end
  for _, writes in ipairs(all) do
    if #writes > 1 then
      redis.call('HSET', unpack(writes))
    end
  end
end

local function append(shard, entry, late)
  local amounts = entry[9]
  return redis.call('XADD', shard.tag .. 'journal', '*', 'o', entry[5], 'k', entry[6], 'm', entry[7], 'd',
    string.sub(entry[8], 2), 'late', late, 'req', text(amounts[1]), 'in', text(amounts[2]), 'out', text(amounts[3]),
    'tok', text(amounts[4]), 'cred', text(amounts[5]), 'nano', text(amounts[6]), 'bal', text(entry[10]), 'e', entry[11])
end

local function settle_held(shard, entry, record)
  end_hold(shard, hold_of(record), entry[4], entry[9], entry[10])
  return {'OK', now, append(shard, entry, '0'), 0}
end

local function settle(entry)
  local shard = shard_of(entry[2])
  if not shard.open then
    return closed(shard)
  end
  local record = redis.call('HGET', shard.tag .. 'holds', entry[4])
  if record then
    return settle_held(shard, entry, record)
  end
  return {'OK', now, append(shard, entry, '1'), 1}
end

local function lapse(entry)
  local shard = shard_of(entry[2])
  if not shard.open then
    return closed(shard)
  end
  local record = redis.call('HGET', shard.tag .. 'holds', entry[4])
  local deadline = redis.call('ZSCORE', shard.tag .. 'leases', entry[4])
  if not record or not deadline or tonumber(deadline) + entry[12] > now then
    return {'KEPT', now}
  end
  return settle_held(shard, entry, record)
end
