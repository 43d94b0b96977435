-- What a reserve asks that is the same for every call of a key and model: read once for all entries of a run that bring
-- the same text, and made ready, so that a burst of one customer does not spell the same names again and again.
--
-- static = msgpack of {organization, key, model, brand, key version, organization version, policy version, rate from ms,
--   rate until ms (0: open), day id, start, end, month id, start, end, counters, plans, concurrency, judged,
--   {numbers of the counters of day, month, life and minute}, shown}
--   counters = {window, scope, unit, …} (window and unit as in the prelude); each is counted whatever plan pays, the
--   first `judged` of them have a limit in some plan, and only those are held on; the first `shown` are told
--   plans = {{payer, asks money (0|1), {limit of each counter, '' when it is only counted}}, …} in order of preference
--   concurrency = {scope, limit, …}

-- A day, month or life: the marks of its three scopes, each counter's posted and, where it is judged, held amount.
local function calendar_of(asked, static, window, id, began, expires)
  local numbers, hash = static[20][window], hash_at(asked.base .. id)
  local marks = {'o', 'k' .. static[2], 'm' .. static[3]}
  local fields = {marks[1], marks[2], marks[3]}
  for n = 1, #numbers do
    local i = numbers[n]
    asked.hash[i], fields[#fields + 1] = hash, asked.posted[i]
    if i <= asked.judged then
      fields[#fields + 1] = asked.held[i]
    end
  end
  return {hash = hash, began = began, expires = expires, numbers = numbers, fields = fields,
    marks = window == LIFE and {} or marks}
end

-- The rate of a minute is that of the last sixty seconds: this minute, and what of the one before still runs.
local function minute_of(asked, numbers)
  local fields, minute = {}, math.floor(now / MINUTE_MS)
  local this, before = hash_at(asked.base .. 'i' .. text(minute)), hash_at(asked.base .. 'i' .. text(minute - 1))
  for n = 1, #numbers do
    local i = numbers[n]
    fields[2 * n - 1], fields[2 * n] = asked.posted[i], asked.held[i]
    asked.hash[i], asked.before[i] = this, before
  end
  return {this = this, before = before, fields = fields}
end

-- What a plan judges: counters by number with their unit and limit, and the balance as number 0.
local function plan_of(asked, plan)
  local asks_money, found = plan[2] == 1, {}
  for i, limit in ipairs(plan[3]) do
    if limit ~= '' and (asked.unit[i] ~= NANO or asks_money) then
      found[#found + 1] = {i, asked.unit[i], count_of(limit)}
    end
  end
  if asks_money then
    found[#found + 1] = {0, NANO}
  end
  return {payer = plan[1], asks_money = asks_money, judges = found}
end

local function ready(shard, static)
  local asked = {organization = static[1], key = static[2], model = static[3], brand = static[4], versions = {static[5],
    static[6], static[7]}, from = static[8], till = static[9], day = static[10], day_start = static[11], day_end = static[12],
    month = static[13], month_start = static[14], month_end = static[15], judged = static[19], shown = static[21],
    base = windows_of(shard, static[1]), account = hash_at(account_of(shard, static[1])),
    window = {}, scope = {}, unit = {}, posted = {}, held = {}, hash = {}, before = {}, plans = {}, calendar = {}, slots = {},
    scopes = {}}
  local counters = static[16]
  for i = 1, #counters / 3 do
    local window, scope, unit = counters[3 * i - 2], counters[3 * i - 1], counters[3 * i]
    local names = fields_of(scope)
    asked.window[i], asked.scope[i], asked.unit[i] = window, scope, unit
    asked.posted[i], asked.held[i] = names[unit], names[unit + #UNITS]
  end
  for n, plan in ipairs(static[17]) do
    asked.plans[n] = plan_of(asked, plan)
  end
  asked.calendar[1] = calendar_of(asked, static, DAY, static[10], static[11], static[12] + KEEP_DAY_MS)
  asked.calendar[2] = calendar_of(asked, static, MONTH, static[13], static[14], static[15] + KEEP_MONTH_MS)
  if #static[20][LIFE] > 0 then
    asked.calendar[3] = calendar_of(asked, static, LIFE, 'life', 0, nil)
  end
  if #static[20][MINUTE] > 0 then
    asked.minute = minute_of(asked, static[20][MINUTE])
  end
  for n = 1, #static[18], 2 do
    local scope = static[18][n]
    asked.scopes[#asked.scopes + 1] = scope
    asked.slots[#asked.slots + 1] = {running_of(shard, static[1], scope), static[18][n + 1]}
  end
  return asked
end

known = {}
local function asked_of(shard, static)
  local asked = known[static]
  if asked == nil then
    asked = ready(shard, cmsgpack.unpack(static))
    known[static] = asked
  end
  return asked
end
