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

-- Nothing of it changes within a run.
local function stale_of(shard, asked)
  if asked.stale == nil then
    asked.stale = stale_part(shard, asked) or false
  end
  return asked.stale
end

-- A scope's own name in a day or month marks that it was used there. A counter that is absent from a window which began
-- under this epoch is nought exactly when its scope left no mark; otherwise PostgreSQL knows more.
local function unseeded_in(shard, asked, window, unseeded)
  local values, is_whole = window.hash.values, true
  for n = 1, #window.numbers do
    local i = window.numbers[n]
    if not values[asked.posted[i]] then
      is_whole = false
      if values[asked.scope[i]] or window.began < shard.counter then
        unseeded[#unseeded + 1] = i
      end
    end
  end
  for n = 1, #window.marks do
    is_whole = is_whole and values[window.marks[n]]
  end
  return is_whole
end

local ACCOUNT = {'seq', 'bal', 'held'}

-- Reads what the call is judged by; the counters that PostgreSQL must be asked for first. A run whose first call of a key
-- and model found all of them need not look again.
local function unseeded_of(shard, asked)
  local unseeded, is_whole = {}, true
  learn_all(asked.account, ACCOUNT)
  if not asked.account.values.seq or not asked.account.values.bal then
    unseeded[1] = 0
  end
  for n = 1, #asked.calendar do
    learn_all(asked.calendar[n].hash, asked.calendar[n].fields)
    is_whole = unseeded_in(shard, asked, asked.calendar[n], unseeded) and is_whole
  end
  if asked.minute then
    learn_all(asked.minute.this, asked.minute.fields)
    learn_all(asked.minute.before, asked.minute.fields)
  end
  asked.is_whole = is_whole and #unseeded == 0
  return unseeded
end

-- Posted and held of the first counters, as the limits see them: {posted, held, …}. Of those that are only counted a day
-- or month does not say what is held.
local function standing_of(asked, count)
  local standing, left = {}, MINUTE_MS - now % MINUTE_MS
  for i = 1, count do
    local values, before = asked.hash[i].values, asked.before[i]
    local posted, held = values[asked.posted[i]] or 0, (before or i <= asked.judged) and values[asked.held[i]] or 0
    if before then
      posted = grown(0, tonumber(posted) + math.ceil((before.values[asked.posted[i]] or 0) * left / MINUTE_MS))
      held = grown(0, tonumber(held) + math.ceil((before.values[asked.held[i]] or 0) * left / MINUTE_MS))
    end
    standing[2 * i - 1], standing[2 * i] = posted, held
  end
  return standing
end

-- When a refused minute has room again if nothing else happens: usage fades as the minute before passes away.
local function minute_resets_at(asked, i, limit, wants)
  local start, posted, held = math.floor(now / MINUTE_MS) * MINUTE_MS, asked.posted[i], asked.held[i]
  local this, last = asked.hash[i].values, asked.before[i].values
  this, last = (this[posted] or 0) + (this[held] or 0), (last[posted] or 0) + (last[held] or 0)
  local most = tonumber(limit) - wants
  if most < 0 then
    return 0
  elseif this <= most then
    return start + math.ceil(MINUTE_MS * (1 - (most - this) / last))
  end
  return start + MINUTE_MS + math.ceil(MINUTE_MS * (1 - most / this))
end

-- Of the limits that refuse one plan the one that lasts longest is named; of several plans the one that clears first.
local NEVER = 1e300
local function refusal(asked, plan, i, limit, posted, held, wants)
  local in_flight = wants <= spare(limit, posted, 0)
  local window, resets = asked.window[i], 0
  if window == DAY then
    resets = asked.day_end
  elseif window == MONTH then
    resets = asked.month_end
  elseif window == MINUTE then
    resets = minute_resets_at(asked, i, limit, wants)
  end
  local rank = (in_flight and window ~= MINUTE and 0) or (resets > 0 and resets) or NEVER
  local reply = {'NO', now, plan, i, in_flight and 'in_flight' or 'exhausted', limit, posted, held, resets, text(wants)}
  return {rank = rank, reply = reply}
end

-- What the call needs of each unit when it is granted `g`.
local function needs_at(needs, g)
  return {need(needs, 1, g), need(needs, 2, g), need(needs, 3, g), need(needs, 4, g), need(needs, 5, g), need(needs, 6, g)}
end

local function judge_plan(asked, standing, number, needs, least, wanted, most)
  local granted, worst, judges = wanted, nil, asked.plans[number].judges
  for n = 1, #judges do
    local judge = judges[n]
    local i, unit, limit, posted, held = judge[1], judge[2], judge[3], nil, nil
    if i == 0 then
      limit, posted, held = asked.account.values.bal, 0, asked.account.values.held or 0
    else
      posted, held = standing[2 * i - 1], standing[2 * i]
    end
    local have = most[unit] ~= 0 and spare(limit, posted, held)
    if have and most[unit] > have then -- who needs nothing is in nobody's way
      local g = largest(needs, unit, least, wanted, have)
      if g == nil then
        local candidate = refusal(asked, number, i, limit, posted, held, need(needs, unit, least))
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

local function choose(asked, standing, needs, least, wanted, most)
  local best, granted, mildest = nil, nil, nil
  for number = 1, #asked.plans do
    local g, worst = judge_plan(asked, standing, number, needs, least, wanted, most)
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

-- What is held on each judged counter, of `needed` by unit.
local function amounts_of(asked, needed, asks_money)
  local amounts = {}
  for i = 1, asked.judged do
    local unit = asked.unit[i]
    amounts[i] = (unit == NANO and not asks_money) and 0 or needed[unit]
  end
  return amounts
end

-- Fails, before any write, when a counter has no room for it in its int64.
local function check_sums(asked, amounts)
  if is_wide then
    for i = 1, #amounts do
      assert(sum_fits(said(asked.hash[i].values[asked.held[i]] or 0), amounts[i]), 'counter is full')
    end
  end
end

-- Marks and counters that a day or month does not have yet; its end, with the first of them.
local function begin_windows(asked)
  for n = 1, #asked.calendar do
    local window = asked.calendar[n]
    local hash, marks = window.hash, window.marks
    if not hash.values[window.fields[1]] then
      hash.expires = window.expires and text(window.expires)
    end
    for m = 1, #marks do
      if not hash.values[marks[m]] then
        put(hash, marks[m], 1)
      end
    end
    for m = 1, #window.numbers do
      local posted = asked.posted[window.numbers[m]]
      if not hash.values[posted] then
        put(hash, posted, 0)
      end
    end
  end
  asked.is_whole = true
end

local function begin_minute(minute)
  local values = minute.this.values
  for n = 1, #minute.fields do
    if values[minute.fields[n]] then
      return
    end
  end
  minute.this.expires = text(now + KEEP_MINUTE_S * 1000)
end

local function hold_on(asked, amounts, money)
  if not asked.is_whole then
    begin_windows(asked)
  end
  if asked.minute then
    begin_minute(asked.minute)
  end
  for i = 1, #amounts do
    if amounts[i] > 0 then
      local hash, field = asked.hash[i], asked.held[i]
      put(hash, field, grown(hash.values[field] or 0, amounts[i]))
    end
  end
  if money > 0 then
    put(asked.account, 'held', grown(asked.account.values.held or 0, money))
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

local function look(entry)
  local shard = shard_of(entry[2])
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local asked = asked_of(shard, entry[5])
  local stale = stale_of(shard, asked)
  if stale then
    return {'STALE', now, stale}
  end
  local unseeded = unseeded_of(shard, asked)
  if #unseeded > 0 then
    return {'UNSEEDED', now, unseeded}
  end
  local account = asked.account.values
  return {'OK', now, 0, 0, account.bal, account.held or 0, standing_of(asked, #asked.window)}
end

local function hold(shard, call_id, asked, standing, needed, number, granted, lease_ms, facts)
  local plan, account = asked.plans[number], asked.account.values
  local money = plan.asks_money and needed[NANO] or 0
  local amounts = amounts_of(asked, needed, plan.asks_money)
  check_sums(asked, amounts)
  local reply = cmsgpack.pack({'OK', now, number, granted, account.bal, account.held or 0, standing})
  local record = hold_record(shard, asked, amounts, money, granted, plan.payer, facts, reply, now)
  redis.call('HSET', shard.tag .. 'holds', call_id, record)
  hold_on(asked, amounts, money)
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
  local stale = now > entry[10] and 'clock' or stale_of(shard, asked)
  if stale then
    return {'STALE', now, stale}
  end
  local unseeded = not asked.is_whole and unseeded_of(shard, asked)
  if unseeded and #unseeded > 0 then
    return {'UNSEEDED', now, unseeded}
  end
  local wanted, least, needs = entry[6], entry[7], entry[8]
  local most = needs_at(needs, wanted)
  local taken, standing = slots_taken(asked), standing_of(asked, math.max(asked.shown, asked.judged))
  local number, granted, worst = choose(asked, standing, needs, least, wanted, most)
  if taken and (number ~= nil or taken.rank >= worst.rank) then
    return taken.reply
  elseif number == nil then
    return worst.reply
  end
  local needed = granted == wanted and most or needs_at(needs, granted)
  return hold(shard, call_id, asked, standing, needed, number, granted, entry[9], entry[11])
end
