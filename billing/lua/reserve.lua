-- reserve: judges a call's limits and money and holds its worst case, in one step; look: judges nothing and shows.
--
-- {'reserve', shard, epoch, call id, static, wanted, least, needs, lease ms, not after ms, facts}
-- {'look',    shard, epoch, '',      static}
--   static = {organization, key, model, brand, key version, organization version, policy version, rate from ms,
--             rate until ms (0: open), day id, start, end, month id, start, end, counters, plans, concurrency,
--             judged, {numbers of the counters of day, month, life and minute}}
--   counters = {window, scope, unit, …} (window and unit as in the prelude); each is counted whatever plan pays, the
--   first `judged` of them have a limit in some plan, and only those are held on
--   plans = {{payer, asks money (0|1), {limit of each counter, '' when it is only counted}}, …} in order of preference
--   concurrency = {scope, limit, …};  needs = {fixed, per, scale of each unit}
--   facts = JSON text that the lease sweeper needs to write the event of a lapsed call
-- Replies: {'OK', now, plan, granted, balance, money held, {posted, held of each counter before this call}}
--   {'NO', now, plan, limit, 'exhausted'|'in_flight', limit amount, posted, held, resets at ms (0: unknown or never),
--    need}: limit = counter's number, 0 for money, −n for concurrency n
--   {'STALE', now, 'key'|'organization'|'policy'|'clock'} {'UNSEEDED', now, {counter's number or 0 for the account}}
--   {'EPOCH', now, the epoch to know, '' while closed}
-- Invariant: posted + held never passes a limit, nor held the balance; every reply but OK wrote nothing; a call id that
-- already holds gets the reply it had.

local function stale_version(shard, organization, key, brand, key_version, organization_version, policy_version)
  local tag = shard.tag
  if redis.call('HGET', tag .. 'key:' .. key, 'v') ~= key_version then
    return 'key'
  elseif redis.call('HGET', tag .. 'org:' .. organization, 'v') ~= organization_version then
    return 'organization'
  elseif redis.call('HGET', tag .. 'policy', brand) ~= policy_version then
    return 'policy'
  end
  return nil
end

-- Windows and the rate's period were chosen by the worker's clock; Redis' own clock decides.
local function stale_part(shard, static)
  local in_rate = static[8] <= now and (static[9] == 0 or now < static[9])
  if in_rate and static[11] <= now and now < static[12] and static[14] <= now and now < static[15] then
    return stale_version(shard, static[1], static[2], static[4], static[5], static[6], static[7])
  end
  return 'clock'
end

-- A scope's own name in a day or month marks that it was used there. A counter that is absent from a window which began
-- under this epoch is nought exactly when its scope left no mark; otherwise PostgreSQL knows more.
local function read_calendar(shard, static, window, id, began, all)
  local counters, judged, numbers = static[16], static[19], static[20][window]
  local key = windows_of(shard, static[1]) .. id
  local fields, last = {'o', 'k' .. static[2], 'm' .. static[3]}, 3
  for _, i in ipairs(numbers) do
    local names, unit = fields_of(counters[3 * i - 1]), counters[3 * i]
    last = last + 1
    fields[last] = names[unit]
    if i <= judged then
      last = last + 1
      fields[last] = names[unit + #UNITS]
    end
  end
  local found = redis.call('HMGET', key, unpack(fields))
  last = 3
  for _, i in ipairs(numbers) do
    last = last + 1
    local posted, held = found[last], '0'
    if i <= judged then
      last = last + 1
      held = found[last] or '0'
    end
    if not posted then
      local scope = counters[3 * i - 1]
      local mark = (scope == fields[1] and found[1]) or (scope == fields[2] and found[2]) or (scope == fields[3] and found[3])
      if mark or began < shard.counter then
        all.unseeded[#all.unseeded + 1] = i
      end
      all.absent[i], posted = true, '0'
    end
    all.posted[i], all.held[i], all.own[i] = posted, held, held
  end
  local writes = {key}
  if window ~= LIFE then
    for n = 1, 3 do
      if not found[n] then
        writes[#writes + 1], writes[#writes + 2] = fields[n], '1'
      end
    end
  end
  all.writes[window], all.is_new[window] = writes, not found[1]
end

-- A minute's rate is that of the last sixty seconds: this minute and the still running part of the one before.
local function read_minutes(shard, static, all)
  local numbers, counters = static[20][MINUTE], static[16]
  local minute = math.floor(now / MINUTE_MS)
  local base, fields = windows_of(shard, static[1]) .. 'i', {}
  for n, i in ipairs(numbers) do
    local names, unit = fields_of(counters[3 * i - 1]), counters[3 * i]
    fields[2 * n - 1], fields[2 * n] = names[unit], names[unit + #UNITS]
  end
  local current = redis.call('HMGET', base .. minute, unpack(fields))
  local before = redis.call('HMGET', base .. minute - 1, unpack(fields))
  local left, is_new = MINUTE_MS - (now - minute * MINUTE_MS), true
  for n, i in ipairs(numbers) do
    local posted, held = tonumber(current[2 * n - 1] or '0'), tonumber(current[2 * n] or '0')
    local last_posted, last_held = tonumber(before[2 * n - 1] or '0'), tonumber(before[2 * n] or '0')
    all.posted[i] = text(posted + math.ceil(last_posted * left / MINUTE_MS))
    all.held[i] = text(held + math.ceil(last_held * left / MINUTE_MS))
    all.own[i] = current[2 * n] or '0'
    is_new = is_new and not current[2 * n - 1] and not current[2 * n]
    all.minutes[i] = {posted + held, last_posted + last_held}
  end
  all.writes[MINUTE], all.is_new[MINUTE] = {base .. minute}, is_new
end

local function read_counters(shard, static)
  local all = {posted = {}, held = {}, own = {}, absent = {}, unseeded = {}, minutes = {}, writes = {}, is_new = {}}
  local account = redis.call('HMGET', account_of(shard, static[1]), 'seq', 'bal', 'held')
  if not account[1] or not account[2] then
    all.unseeded[1] = 0
  end
  all.balance, all.money_held = account[2] or '0', account[3] or '0'
  read_calendar(shard, static, DAY, static[10], static[11], all)
  read_calendar(shard, static, MONTH, static[13], static[14], all)
  if #static[20][LIFE] > 0 then
    read_calendar(shard, static, LIFE, 'life', 0, all)
  end
  if #static[20][MINUTE] > 0 then
    read_minutes(shard, static, all)
  end
  return all
end

-- When a refused minute has room again if nothing else happens: usage fades as the minute before passes away.
local function minute_resets_at(minutes, limit, wants)
  local start = math.floor(now / MINUTE_MS) * MINUTE_MS
  local this, last = minutes[1], minutes[2]
  local spare = tonumber(limit) - wants
  if spare < 0 then
    return 0
  elseif this <= spare then
    return start + math.ceil(MINUTE_MS * (1 - (spare - this) / last))
  end
  return start + MINUTE_MS + math.ceil(MINUTE_MS * (1 - spare / this))
end

-- Of the limits that refuse one plan the one that lasts longest is named; of several plans the one that clears first.
local NEVER = 1e300
local function refusal(static, all, plan, i, limit, posted, held, wants)
  local in_flight = wants <= room(limit, posted, '0')
  local window, resets = i > 0 and static[16][3 * i - 2], 0
  if window == DAY then
    resets = static[12]
  elseif window == MONTH then
    resets = static[15]
  elseif window == MINUTE then
    resets = minute_resets_at(all.minutes[i], limit, wants)
  end
  local rank = (in_flight and window ~= MINUTE and 0) or (resets > 0 and resets) or NEVER
  local reply = {'NO', now, plan, i, in_flight and 'in_flight' or 'exhausted', limit, posted, held, resets, text(wants)}
  return {rank = rank, reply = reply}
end

local function judge_plan(static, all, number, needs, least, wanted)
  local plan = static[17][number]
  local granted, worst = wanted, nil
  local function judge(i, unit, limit, posted, held)
    local g = largest(needs, unit, least, wanted, room(limit, posted, held))
    if g == nil then
      local candidate = refusal(static, all, number, i, limit, posted, held, need(needs, unit, least))
      if worst == nil or candidate.rank > worst.rank then
        worst = candidate
      end
    else
      granted = math.min(granted, g)
    end
  end
  for i, limit in ipairs(plan[3]) do
    local unit = static[16][3 * i]
    if limit ~= '' and (unit ~= NANO or plan[2] == 1) then
      judge(i, unit, limit, all.posted[i], all.held[i])
    end
  end
  if plan[2] == 1 then
    judge(0, NANO, all.balance, '0', all.money_held)
  end
  return worst == nil and granted or nil, worst
end

local function choose(static, all, needs, least, wanted)
  local best, granted, mildest = nil, nil, nil
  for number = 1, #static[17] do
    local g, worst = judge_plan(static, all, number, needs, least, wanted)
    if g == nil then
      if mildest == nil or worst.rank < mildest.rank then
        mildest = worst
      end
    elseif granted == nil or g > granted then
      best, granted = number, g
    end
    if g == wanted then
      break
    end
  end
  return best, granted, mildest and mildest.reply
end

local function slots_taken(shard, static)
  local slots = static[18]
  for n = 1, #slots, 2 do
    local running = redis.call('ZCOUNT', running_of(shard, static[1], slots[n]), '(' .. text(now), '+inf')
    if running >= slots[n + 1] then
      local why = slots[n + 1] > 0 and 'in_flight' or 'exhausted'
      return {'NO', now, 1, -(n + 1) / 2, why, text(slots[n + 1]), '0', text(running), 0, '1'}
    end
  end
  return nil
end

-- What is held on each judged counter; fails before any write when a counter has no room in its int64.
local function amounts_of(static, all, needs, granted, asks_money)
  local amounts = {}
  for i = 1, static[19] do
    local unit = static[16][3 * i]
    local amount = (unit == NANO and not asks_money) and 0 or need(needs, unit, granted)
    assert(sum_fits(all.own[i], amount), 'counter is full')
    amounts[i] = amount
  end
  return amounts
end

local function write_windows(static, all, amounts)
  for window, writes in pairs(all.writes) do
    for _, i in ipairs(static[20][window]) do
      local names, unit = fields_of(static[16][3 * i - 1]), static[16][3 * i]
      if (amounts[i] or 0) > 0 then
        writes[#writes + 1], writes[#writes + 2] = names[unit + #UNITS], plus(all.own[i], amounts[i])
      end
      if all.absent[i] then
        writes[#writes + 1], writes[#writes + 2] = names[unit], '0'
      end
    end
    if #writes > 1 then
      redis.call('HSET', unpack(writes))
    end
  end
  if all.is_new[DAY] then
    redis.call('PEXPIREAT', all.writes[DAY][1], text(static[12] + KEEP_DAY_MS))
  end
  if all.is_new[MONTH] then
    redis.call('PEXPIREAT', all.writes[MONTH][1], text(static[15] + KEEP_MONTH_MS))
  end
  if all.is_new[MINUTE] then
    redis.call('EXPIRE', all.writes[MINUTE][1], KEEP_MINUTE_S)
  end
end

-- The record names every counter and amount held, so that settling, voiding and lapsing need nobody's memory. Two msgpack
-- values: {organization, key, model, brand, day id, month id, minute, money, {window, scope, unit, amount, …},
-- {scope, …}, granted, payer, facts, made at ms, epoch}, and the reply.
local function hold_record(shard, static, amounts, money, granted, payer, facts, reply, made)
  local held, scopes, counters = {}, {}, static[16]
  for i, amount in ipairs(amounts) do
    if amount > 0 then
      local n, last = 3 * i, #held
      held[last + 1], held[last + 2], held[last + 3], held[last + 4] = counters[n - 2], counters[n - 1], counters[n], amount
    end
  end
  for n = 1, #static[18], 2 do
    scopes[#scopes + 1] = static[18][n]
  end
  return cmsgpack.pack({static[1], static[2], static[3], static[4], static[10], static[13], math.floor(made / MINUTE_MS),
    money, held, scopes, granted, payer, facts, made, shard.counter or 0}) .. reply
end

local function start_lease(shard, organization, scopes, step, deadline, call_id)
  redis.call('ZADD', shard.tag .. 'leases', deadline, call_id)
  for n = 1, #scopes, step do
    redis.call('ZADD', running_of(shard, organization, scopes[n]), deadline, call_id)
  end
end

local function shown(all)
  local flat = {}
  for i, posted in ipairs(all.posted) do
    flat[2 * i - 1], flat[2 * i] = posted, all.held[i]
  end
  return flat
end

local function look(entry)
  local shard, static = shard_of(entry[2]), entry[5]
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local stale = stale_part(shard, static)
  if stale then
    return {'STALE', now, stale}
  end
  local all = read_counters(shard, static)
  if #all.unseeded > 0 then
    return {'UNSEEDED', now, all.unseeded}
  end
  return {'OK', now, 0, 0, all.balance, all.money_held, shown(all)}
end

local function hold(shard, call_id, static, all, needs, number, granted, lease_ms, facts)
  local asks_money = static[17][number][2] == 1
  local money = asks_money and need(needs, NANO, granted) or 0
  local amounts = amounts_of(static, all, needs, granted, asks_money)
  local reply = cmsgpack.pack({'OK', now, number, granted, all.balance, all.money_held, shown(all)})
  local record = hold_record(shard, static, amounts, money, granted, static[17][number][1], facts, reply, now)
  redis.call('HSET', shard.tag .. 'holds', call_id, record)
  write_windows(static, all, amounts)
  if money > 0 then
    redis.call('HSET', account_of(shard, static[1]), 'held', plus(all.money_held, money))
  end
  start_lease(shard, static[1], static[18], 2, text(now + lease_ms), call_id)
  return reply
end

local function reserve(entry)
  local shard, call_id, static = shard_of(entry[2]), entry[4], entry[5]
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local twin = redis.call('HGET', shard.tag .. 'holds', call_id)
  if twin then
    local after = cmsgpack.unpack_one(twin)
    return string.sub(twin, after + 1)
  end
  local stale = now > entry[10] and 'clock' or stale_part(shard, static)
  if stale then
    return {'STALE', now, stale}
  end
  local all = read_counters(shard, static)
  if #all.unseeded > 0 then
    return {'UNSEEDED', now, all.unseeded}
  end
  local refused = slots_taken(shard, static)
  if refused then
    return refused
  end
  local number, granted, worst = choose(static, all, entry[8], entry[7], entry[6])
  if number == nil then
    return worst
  end
  return hold(shard, call_id, static, all, entry[8], number, granted, entry[9], entry[11])
end
