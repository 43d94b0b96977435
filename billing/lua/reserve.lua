-- reserve: judges a call's limits and money and holds its worst case, in one step; look: judges nothing and shows.
--
-- {'reserve', shard, epoch, call id, static, wanted, least, needs, lease ms, not after ms, facts}
-- {'look',    shard, epoch, '',      static}
--   static: what is the same for every call of a key and model (asked.lua)
--   needs = {fixed, per, scale of each unit}
--   facts = JSON text that the lease sweeper needs to write the event of a lapsed call
-- Replies: {'OK', now, plan, granted, balance, money held, {posted, held of each counter before this call}}: look tells
--   all counters, reserve the first `shown`
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
local function stale_part(shard, asked)
  local in_rate = asked.from <= now and (asked.till == 0 or now < asked.till)
  local in_day = asked.day_start <= now and now < asked.day_end
  if in_rate and in_day and asked.month_start <= now and now < asked.month_end then
    return stale_version(shard, asked.organization, asked.key, asked.brand, unpack(asked.versions))
  end
  return 'clock'
end

-- A scope's own name in a day or month marks that it was used there. A counter that is absent from a window which began
-- under this epoch is nought exactly when its scope left no mark; otherwise PostgreSQL knows more.
local function read_calendar(shard, window, all)
  local found, numbers, writes = redis.call('HMGET', window.key, unpack(window.fields)), window.numbers, {window.key}
  for n = 1, #numbers do
    local i, posted, held = numbers[n], found[window.posted[n]], window.held[n] and found[window.held[n]] or '0'
    if not posted then
      if found[window.mark[n]] or window.began < shard.counter then
        all.unseeded[#all.unseeded + 1] = i
      end
      all.absent[i], posted = true, '0'
    end
    all.posted[i], all.held[i], all.own[i] = posted, held, held
  end
  if window.id ~= LIFE then
    for n = 1, 3 do
      if not found[n] then
        writes[#writes + 1], writes[#writes + 2] = window.fields[n], '1'
      end
    end
  end
  all.writes[window.id], all.is_new[window.id] = writes, not found[1]
end

-- A minute's rate is that of the last sixty seconds: this minute and the still running part of the one before.
local function read_minutes(asked, all)
  local numbers, fields, key = asked.minute.numbers, asked.minute.fields, asked.minute.key
  local minute = math.floor(now / MINUTE_MS)
  local name = key .. text(minute)
  local current = redis.call('HMGET', name, unpack(fields))
  local before = redis.call('HMGET', key .. text(minute - 1), unpack(fields))
  local left, is_new = MINUTE_MS - (now - minute * MINUTE_MS), true
  for n = 1, #numbers do
    local i = numbers[n]
    local posted, held = tonumber(current[2 * n - 1] or '0'), tonumber(current[2 * n] or '0')
    local last_posted, last_held = tonumber(before[2 * n - 1] or '0'), tonumber(before[2 * n] or '0')
    all.posted[i] = text(posted + math.ceil(last_posted * left / MINUTE_MS))
    all.held[i] = text(held + math.ceil(last_held * left / MINUTE_MS))
    all.own[i] = current[2 * n] or '0'
    is_new = is_new and not current[2 * n - 1] and not current[2 * n]
    all.minutes[i] = {posted + held, last_posted + last_held}
  end
  all.writes[MINUTE], all.is_new[MINUTE] = {name}, is_new
end

local function read_counters(shard, asked)
  local all = {posted = {}, held = {}, own = {}, absent = {}, unseeded = {}, minutes = {}, writes = {}, is_new = {}}
  local account = redis.call('HMGET', asked.account, 'seq', 'bal', 'held')
  if not account[1] or not account[2] then
    all.unseeded[1] = 0
  end
  all.balance, all.money_held = account[2] or '0', account[3] or '0'
  for n = 1, #asked.calendar do
    read_calendar(shard, asked.calendar[n], all)
  end
  if asked.minute then
    read_minutes(asked, all)
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
local function refusal(asked, all, plan, i, limit, posted, held, wants)
  local in_flight = wants <= room(limit, posted, '0')
  local window, resets = asked.window[i], 0
  if window == DAY then
    resets = asked.day_end
  elseif window == MONTH then
    resets = asked.month_end
  elseif window == MINUTE then
    resets = minute_resets_at(all.minutes[i], limit, wants)
  end
  local rank = (in_flight and window ~= MINUTE and 0) or (resets > 0 and resets) or NEVER
  local reply = {'NO', now, plan, i, in_flight and 'in_flight' or 'exhausted', limit, posted, held, resets, text(wants)}
  return {rank = rank, reply = reply}
end

-- What the call needs of each unit when it is granted `g`.
local function needs_at(needs, g)
  return {need(needs, 1, g), need(needs, 2, g), need(needs, 3, g), need(needs, 4, g), need(needs, 5, g), need(needs, 6, g)}
end

local function judge_plan(asked, all, number, needs, least, wanted, most)
  local granted, worst, judges = wanted, nil, asked.plans[number].judges
  for n = 1, #judges do
    local judge = judges[n]
    local i, unit, limit, posted, held = judge[1], judge[2], judge[3], nil, nil
    if i == 0 then
      limit, posted, held = all.balance, '0', all.money_held
    else
      posted, held = all.posted[i], all.held[i]
    end
    local have = most[unit] ~= 0 and room(limit, posted, held)
    if have and most[unit] > have then -- who needs nothing is in nobody's way
      local g = largest(needs, unit, least, wanted, have)
      if g == nil then
        local candidate = refusal(asked, all, number, i, limit, posted, held, need(needs, unit, least))
        if worst == nil or candidate.rank > worst.rank then
          worst = candidate
        end
      else
        granted = math.min(granted, g)
      end
    end
  end
  return worst == nil and granted or nil, worst
end

local function choose(asked, all, needs, least, wanted, most)
  local best, granted, mildest = nil, nil, nil
  for number = 1, #asked.plans do
    local g, worst = judge_plan(asked, all, number, needs, least, wanted, most)
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
  return best, granted, mildest
end

-- A taken slot is free as soon as a call ends; where none is given at all it never is.
local function slots_taken(asked)
  local longest = nil
  for n = 1, #asked.slots do
    local name, most = asked.slots[n][1], asked.slots[n][2]
    local running = redis.call('ZCOUNT', name, '(' .. text(now), '+inf')
    if running >= most then
      local state, rank = 'in_flight', 0
      if most <= 0 then
        state, rank = 'exhausted', NEVER
      end
      if longest == nil or rank > longest.rank then
        longest = {rank = rank, reply = {'NO', now, 1, -n, state, text(most), '0', text(running), 0, '1'}}
      end
    end
  end
  return longest
end

-- What is held on each judged counter, of `needed` by unit; fails before any write when one has no room in its int64.
local function amounts_of(asked, own, needed, asks_money)
  local amounts = {}
  for i = 1, asked.judged do
    local unit = asked.unit[i]
    local amount = (unit == NANO and not asks_money) and 0 or needed[unit]
    assert(sum_fits(own[i], amount), 'counter is full')
    amounts[i] = amount
  end
  return amounts
end

local function write_window(asked, all, window, numbers, amounts)
  local writes = all.writes[window]
  for n = 1, #numbers do
    local i = numbers[n]
    if (amounts[i] or 0) > 0 then
      writes[#writes + 1], writes[#writes + 2] = asked.held[i], plus(all.own[i], amounts[i])
    end
    if all.absent[i] then
      writes[#writes + 1], writes[#writes + 2] = asked.posted[i], '0'
    end
  end
  if #writes > 1 then
    redis.call('HSET', unpack(writes))
  end
end

local function write_windows(asked, all, amounts)
  for n = 1, #asked.calendar do
    write_window(asked, all, asked.calendar[n].id, asked.calendar[n].numbers, amounts)
  end
  if asked.minute then
    write_window(asked, all, MINUTE, asked.minute.numbers, amounts)
  end
  if all.is_new[DAY] then
    redis.call('PEXPIREAT', all.writes[DAY][1], text(asked.day_end + KEEP_DAY_MS))
  end
  if all.is_new[MONTH] then
    redis.call('PEXPIREAT', all.writes[MONTH][1], text(asked.month_end + KEEP_MONTH_MS))
  end
  if all.is_new[MINUTE] then
    redis.call('EXPIRE', all.writes[MINUTE][1], KEEP_MINUTE_S)
  end
end

-- The record names every counter and amount held, so that settling, voiding and lapsing need nobody's memory. Two msgpack
-- values: {organization, key, model, brand, day id, month id, minute, money, {window, scope, unit, amount, …},
-- {scope, …}, granted, payer, facts, made at ms, epoch}, and the reply.
local function hold_record(shard, asked, amounts, money, granted, payer, facts, reply, made)
  local held, last = {}, 0
  for i = 1, #amounts do
    if amounts[i] > 0 then
      held[last + 1], held[last + 2], held[last + 3] = asked.window[i], asked.scope[i], asked.unit[i]
      held[last + 4], last = amounts[i], last + 4
    end
  end
  return cmsgpack.pack({asked.organization, asked.key, asked.model, asked.brand, asked.day, asked.month,
    math.floor(made / MINUTE_MS), money, held, asked.scopes, granted, payer, facts, made, shard.counter or 0}) .. reply
end

local function start_lease(shard, organization, scopes, deadline, call_id)
  redis.call('ZADD', shard.tag .. 'leases', deadline, call_id)
  for n = 1, #scopes do
    redis.call('ZADD', running_of(shard, organization, scopes[n]), deadline, call_id)
  end
end

local function shown(all, count)
  local flat, posted, held = {}, all.posted, all.held
  for i = 1, count do
    flat[2 * i - 1], flat[2 * i] = posted[i], held[i]
  end
  return flat
end

local function look(entry)
  local shard = shard_of(entry[2])
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local asked = asked_of(shard, entry[5])
  local stale = stale_part(shard, asked)
  if stale then
    return {'STALE', now, stale}
  end
  local all = read_counters(shard, asked)
  if #all.unseeded > 0 then
    return {'UNSEEDED', now, all.unseeded}
  end
  return {'OK', now, 0, 0, all.balance, all.money_held, shown(all, #all.posted)}
end

local function hold(shard, call_id, asked, all, needed, number, granted, lease_ms, facts)
  local plan = asked.plans[number]
  local money = plan.asks_money and needed[NANO] or 0
  local amounts = amounts_of(asked, all.own, needed, plan.asks_money)
  local reply = cmsgpack.pack({'OK', now, number, granted, all.balance, all.money_held, shown(all, asked.shown)})
  local record = hold_record(shard, asked, amounts, money, granted, plan.payer, facts, reply, now)
  redis.call('HSET', shard.tag .. 'holds', call_id, record)
  write_windows(asked, all, amounts)
  if money > 0 then
    redis.call('HSET', asked.account, 'held', plus(all.money_held, money))
  end
  start_lease(shard, asked.organization, asked.scopes, text(now + lease_ms), call_id)
  return reply
end

local function reserve(entry)
  local shard, call_id = shard_of(entry[2]), entry[4]
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local twin = redis.call('HGET', shard.tag .. 'holds', call_id)
  if twin then
    local after = cmsgpack.unpack_one(twin)
    return string.sub(twin, after + 1)
  end
  local asked = asked_of(shard, entry[5])
  local stale = now > entry[10] and 'clock' or stale_part(shard, asked)
  if stale then
    return {'STALE', now, stale}
  end
  local all = read_counters(shard, asked)
  if #all.unseeded > 0 then
    return {'UNSEEDED', now, all.unseeded}
  end
  local wanted, least, needs = entry[6], entry[7], entry[8]
  local most = needs_at(needs, wanted)
  local taken = slots_taken(asked)
  local number, granted, worst = choose(asked, all, needs, least, wanted, most)
  if taken and (number ~= nil or taken.rank >= worst.rank) then
    return taken.reply
  elseif number == nil then
    return worst.reply
  end
  local needed = granted == wanted and most or needs_at(needs, granted)
  return hold(shard, call_id, asked, all, needed, number, granted, entry[9], entry[11])
end
