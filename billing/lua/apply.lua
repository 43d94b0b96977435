-- apply: takes over a change that PostgreSQL decided (grant, correction, late settlement), each once and in order.
--
-- {'apply', shard, epoch (ignored), organization, seq, balance nanos, day ('' or YYYYMMDD), key ('' or id), model,
--   {unit, amount, …}, id of the month that the day counts in ('' without a day)}: amounts as decimal text, signed
-- Replies: {'OK', now} {'ALREADY', now} {'UNSEEDED', now} (done too: a seed will bring it) {'GAP', now, applied seq}
--   {'FULL', now, field} (past int64; nothing written) {'EPOCH', now, ''} while the shard is closed
-- Invariant: seq = applied + 1 only. An account that is not seeded remembers the least seq a seed must have. The scopes
-- concerned are marked as used, so that a counter that does not exist yet is seeded, never started at nought.

local function scopes_of(key, model)
  local scopes = {'o'}
  if key ~= '' then
    scopes[#scopes + 1] = 'k' .. key
  end
  if model ~= '' then
    scopes[#scopes + 1] = 'm' .. model
  end
  return scopes
end

local function changes_of(base, entry)
  local changes, full = {}, nil
  for _, id in ipairs({'d' .. entry[7], entry[11], 'life'}) do
    for _, scope in ipairs(scopes_of(entry[8], entry[9])) do
      for n = 1, #entry[10], 2 do
        local field = scope .. '.' .. entry[10][n] .. '.p'
        local value = redis.call('HGET', base .. id, field)
        if value then
          full = full or (not sum_fits(value, entry[10][n + 1]) and field)
          changes[#changes + 1] = {base .. id, field, entry[10][n + 1]}
        end
      end
    end
  end
  return changes, full
end

local function mark(base, entry)
  for _, window in ipairs({{'d' .. entry[7], KEEP_DAY_MS}, {entry[11], KEEP_MONTH_MS}}) do
    for _, scope in ipairs(scopes_of(entry[8], entry[9])) do
      redis.call('HSET', base .. window[1], scope, '1')
    end
    if redis.call('PTTL', base .. window[1]) == -1 then
      redis.call('PEXPIRE', base .. window[1], text(window[2] * 2)) -- its end is not known here
    end
  end
end

local function apply(entry)
  local shard, seq = shard_of(entry[2]), entry[5]
  if not shard.open then
    return closed(shard)
  end
  local account, base = account_of(shard, entry[4]), windows_of(shard, entry[4])
  local known = redis.call('HMGET', account, 'seq', 'min', 'bal')
  if not known[1] then
    if not known[2] or room(seq, known[2], '0') > 0 then
      redis.call('HSET', account, 'min', seq)
    end
    if entry[7] ~= '' then
      mark(base, entry)
    end
    return {'UNSEEDED', now}
  end
  local ahead = room(seq, known[1], '0')
  if ahead <= 0 then
    return {'ALREADY', now}
  elseif ahead > 1 then
    return {'GAP', now, known[1]}
  end
  local changes, full = {}, nil
  if entry[7] ~= '' then
    changes, full = changes_of(base, entry)
  end
  if not sum_fits(known[3], entry[6]) then
    full = 'bal'
  end
  if full then
    return {'FULL', now, full}
  end
  redis.call('HSET', account, 'seq', seq)
  redis.call('HINCRBY', account, 'bal', entry[6])
  for _, change in ipairs(changes) do
    redis.call('HINCRBY', change[1], change[2], change[3])
  end
  if entry[7] ~= '' then
    mark(base, entry)
  end
  return {'OK', now}
end
