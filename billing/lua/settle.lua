-- settle: ends a hold with what was used; lapse: the same for a hold whose lease ran out, by the sweeper.
--
-- {'settle', shard, epoch, call id, organization, key, model, day id, amounts of UNITS, charge, event}
-- {'lapse',  shard, epoch, call id, organization, key, model, day id, amounts of UNITS, charge, event, grace ms}
-- Replies: {'OK', now, stream id, late (0|1)} {'KEPT', now} (lapse: renewed or settled meanwhile)
--   {'EPOCH', now, ''} while the shard is closed. Any epoch will do: the record says what to free.
-- Invariant: the hold is the marker. It goes with everything it held, in the same step in which its usage is posted and
-- its entry is appended, so nothing is charged twice; without it only the entry is appended, marked late.

-- Usage is posted by rule, not by the hold's list: to every counter of the call's day, month and life that exists by
-- now, so that a limit which came while the call ran is exact too. Minutes: only those that the call was judged by. What
-- a window no longer has (it expired, or Redis was rebuilt) is left alone.
local posted_fields = {}
local function posted_of(key, model)
  local name = key .. ' ' .. model
  local fields = posted_fields[name]
  if fields == nil then
    fields = {}
    for _, scope in ipairs({'o', 'k' .. key, 'm' .. model}) do
      local names = fields_of(scope)
      for unit = 1, #UNITS do
        fields[#fields + 1] = names[unit]
      end
    end
    posted_fields[name] = fields
  end
  return fields
end

-- Which of them a hash has, each with its unit; found again when it has got more.
local function posting_of(hash, fields)
  local postings = hash.postings or {}
  local posting = postings[fields]
  if posting == nil then
    posting = {fields = {}, units = {}, made = -1}
    hash.postings, postings[fields] = postings, posting
  end
  if posting.made ~= hash.made then
    local last = 0
    for n = 1, #fields do
      if hash.values[fields[n]] then
        last = last + 1
        posting.fields[last], posting.units[last] = fields[n], (n - 1) % #UNITS + 1
      end
    end
    posting.made = hash.made
  end
  return posting
end

local function post(hash, posting, amounts)
  for n = 1, #posting.fields do
    local field, amount = posting.fields[n], amounts[posting.units[n]]
    if amount > 0 then
      put(hash, field, grown(hash.values[field], amount))
    end
  end
end

-- A hash that is not there has no fields but those that this run gives it.
local function is_there(hash)
  if hash.is_there == nil then
    hash.is_there = redis.call('EXISTS', hash.name) == 1
  end
  return hash.is_there
end

-- The windows of a hold by number, with all known of them that it will move.
local function windows_of_hold(base, hold, posted)
  local list, windows = hold[9], {hash_at(base .. hold[5]), hash_at(base .. hold[6]), hash_at(base .. 'life'),
    hash_at(base .. 'i' .. text(hold[7]))}
  for n = 1, #list, 4 do
    local hash, unit, names = windows[list[n]], list[n + 2], fields_of(list[n + 1])
    want(hash, names[unit + #UNITS])
    if list[n] == MINUTE then
      want(hash, names[unit])
    end
  end
  for n = DAY, LIFE do
    local hash = windows[n]
    if posted and not (hash.postings and hash.postings[posted]) and (n ~= LIFE or is_there(hash)) then
      local values, wanted = hash.values, hash.wanted or {}
      for m = 1, #posted do
        if values[posted[m]] == nil then
          wanted[#wanted + 1] = posted[m]
        end
      end
      hash.wanted = #wanted > 0 and wanted or nil
    end
    learn(hash)
  end
  learn(windows[MINUTE])
  return windows
end

local function free_windows(windows, list, amounts)
  for n = 1, #list, 4 do
    local hash, unit, names = windows[list[n]], list[n + 2], fields_of(list[n + 1])
    local posted, held = names[unit], names[unit + #UNITS]
    if hash.values[held] then
      put(hash, held, grown(hash.values[held], -list[n + 3]))
      if list[n] == MINUTE then
        put(hash, posted, grown(hash.values[posted] or 0, amounts and amounts[unit] or 0))
      end
    end
  end
end

local function free_money(account, money, charge)
  if account.values.bal and charge > 0 then
    put(account, 'bal', grown(account.values.bal, -charge))
  end
  if account.values.held and money > 0 then
    put(account, 'held', grown(account.values.held, -money))
  end
end

local MONEY = {'bal', 'held'}

-- `amounts` nil posts nothing. The first write frees memory, so that Redis lets the rest pass even when it is full.
local function end_hold(shard, hold, call_id, amounts, charge)
  local posted, postings = amounts and posted_of(hold[2], hold[3]), {}
  local windows = windows_of_hold(windows_of(shard, hold[1]), hold, posted)
  local account = hash_at(account_of(shard, hold[1]))
  learn_all(account, MONEY)
  if amounts then
    for unit = 1, #UNITS do
      assert(type(amounts[unit]) == 'number', 'no amount')
    end
    for n = DAY, LIFE do
      postings[n] = posting_of(windows[n], posted)
    end
  end
  assert(type(charge) == 'number' and type(hold[8]) == 'number', 'no charge')
  redis.call('HDEL', shard.tag .. 'holds', call_id, call_id .. ':u')
  redis.call('ZREM', shard.tag .. 'leases', call_id)
  for _, scope in ipairs(hold[10]) do
    redis.call('ZREM', running_of(shard, hold[1], scope), call_id)
  end
  for n = 1, #postings do
    post(windows[n], postings[n], amounts)
  end
  free_windows(windows, hold[9], amounts)
  free_money(account, hold[8], charge)
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
