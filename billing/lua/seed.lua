-- seed: gives counters that Redis does not know their value from PostgreSQL, exact at a position of the stream.
--
-- {'seed', shard, epoch, organization, seq, last stream id, balance, {{window id, expires at ms (0: never),
--   first day, day after the last (YYYYMMDD), {{scope, unit, value}, …}}, …}}: values, balance, seq and last stream id read in one REPEATABLE READ transaction
-- Replies: {'OK', now} {'SEQ', now, applied seq} (changes between are missing in Redis: apply them, then seed again)
--   {'RETRY', now} (what was read is too old) {'BACKLOG', now, entries} (too many entries wait to be folded in)
--   {'EPOCH', now, …}
-- Invariant: a counter that exists keeps its value. A new one is PostgreSQL's value plus every entry of the stream that
-- PostgreSQL had not taken over. The journal says in `drained` how far it deleted, so that an entry which left the
-- stream after the reading is noticed, not lost.

local FOLD_MAX = 20000

local function position(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end

local function later(one, other)
  local ms, sequence = position(one)
  local other_ms, other_sequence = position(other)
  return ms > other_ms or (ms == other_ms and sequence > other_sequence)
end

local function pairs_of(flat)
  local found = {}
  for n = 1, #flat, 2 do
    found[flat[n]] = flat[n + 1]
  end
  return found
end

-- Sums per name in limbs, so that no total loses a digit.
local function add_to(sums, name, value)
  local high, low = limbs(value)
  local sum = sums[name] or {0, 0}
  sum[1], sum[2] = sum[1] + high, sum[2] + low
  if math.abs(sum[2]) >= BASE then
    local carry = sum[2] > 0 and 1 or -1
    sum[1], sum[2] = sum[1] + carry, sum[2] - carry * BASE
  end
  sums[name] = sum
end

local function fold(shard, organization, last_id, windows)
  local sums = {}
  local entries = redis.call('XRANGE', shard.tag .. 'journal', '(' .. last_id, '+', 'COUNT', FOLD_MAX + 1)
  if #entries > FOLD_MAX then
    return nil
  end
  for _, entry in ipairs(entries) do
    local of = pairs_of(entry[2])
    if of.o == organization and of.late == '0' then
      add_to(sums, 'bal', of.bal)
      for _, window in ipairs(windows) do
        if window[3] <= of.d and of.d < window[4] then
          for _, scope in ipairs({'o', 'k' .. of.k, 'm' .. of.m}) do
            for _, unit in ipairs(UNITS) do
              add_to(sums, window[1] .. ' ' .. scope .. '.' .. unit, of[unit])
            end
          end
        end
      end
    end
  end
  return sums
end

local function create(key, field, value, sum, sign)
  if sum then
    value = sum_text(value, sign * sum[1], sign * sum[2])
  end
  redis.call('HSETNX', key, field, value)
end

local function seed(entry)
  local shard, organization = shard_of(entry[2]), entry[4]
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local account = account_of(shard, organization)
  local known = redis.call('HMGET', account, 'seq', 'min')
  if known[1] and known[1] ~= entry[5] then
    return room(known[1], entry[5], '0') > 0 and {'RETRY', now} or {'SEQ', now, known[1]}
  elseif known[2] and room(known[2], entry[5], '0') > 0 then
    return {'RETRY', now}
  end
  if later(redis.call('GET', shard.tag .. 'drained') or '0-0', entry[6]) then
    return {'RETRY', now}
  end
  local sums = fold(shard, organization, entry[6], entry[8])
  if sums == nil then
    return {'BACKLOG', now, redis.call('XLEN', shard.tag .. 'journal')}
  end
  if not known[1] then
    redis.call('HSET', account, 'seq', entry[5])
    redis.call('HDEL', account, 'min')
  end
  create(account, 'bal', entry[7], sums.bal, -1)
  for _, window in ipairs(entry[8]) do
    local key = windows_of(shard, organization) .. window[1]
    for _, counter in ipairs(window[5]) do
      local name = counter[1] .. '.' .. counter[2]
      create(key, name .. '.p', counter[3], sums[window[1] .. ' ' .. name], 1)
    end
    if window[2] > 0 then
      redis.call('PEXPIREAT', key, text(window[2]))
    end
  end
  return {'OK', now}
end
