-- What every step shares: Redis' clock, the shard's epoch, names. The files of this folder are joined in the order that
-- billing/script.py lists and run as one script: one call carries many entries, each is one atomic step.
--
-- Keys: every name of an entry carries its shard's tag, so an entry touches one slot; KEYS names the epochs concerned.
-- Argument: one msgpack list of entries {op, shard, epoch counter, …}. Ids and amounts that may pass 2^53 are decimal
-- text; every other number is exact as a double. Counts in verdicts are numbers below 2^53, else decimal text. Reply: one msgpack list with one verdict {word, now ms, …} per entry.
-- Invariant: all reads of an entry come before its first write, and what could fail is checked before that write.

local UNITS = {'req', 'in', 'out', 'tok', 'cred', 'nano'}
local NANO = 6
local DAY, MONTH, LIFE, MINUTE = 1, 2, 3, 4
local MINUTE_MS = 60000
local KEEP_DAY_MS, KEEP_MONTH_MS, KEEP_MINUTE_S = 3 * 86400000, 40 * 86400000, 180

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')

-- "<counter>:<run id>" opens a shard. A restarted or replaced Redis has another run id, whatever data it came back with,
-- so the shard stays closed until billing.rebuild opens a new epoch. The counter is Redis' clock at that moment: windows
-- that began later have no older usage that Redis does not know of.
-- "~<ms>-<run id><…>-<…>" is a rebuild's token. One of another run reads as if it were not there: that Redis may have come
-- back without what was forgotten, asserted and acknowledged under it, so the shard is rebuilt from the beginning.
local shards = {}
local function shard_of(number)
  local shard = shards[number]
  if shard == nil then
    local tag = '{s' .. number .. '}:'
    local epoch = redis.call('GET', tag .. 'epoch') or ''
    local counter, run = string.match(epoch, '^(%d+):(%w+)$')
    if not counter and string.sub(string.match(epoch, '^~%d+%-(%w+)%-') or '', 1, #run_id) ~= run_id then
      epoch = ''
    end
    shard = {tag = tag, epoch = epoch, open = counter ~= nil and run == run_id, counter = tonumber(counter)}
    shards[number] = shard
  end
  return shard
end

local function closed(shard)
  return {'EPOCH', now, shard.open and shard.epoch or ''}
end

-- The worker must know this epoch: one that slept through a rebuild learns of it before anything is decided.
local function strange(shard, counter)
  return not shard.open or counter ~= shard.counter
end

local function account_of(shard, organization)
  return shard.tag .. 'a:' .. organization
end

local function windows_of(shard, organization)
  return shard.tag .. 'w:' .. organization .. ':'
end

local function running_of(shard, organization, scope)
  return shard.tag .. 'z:' .. organization .. ':' .. scope
end

-- '%d' takes a third of the time of '%.0f', and is right where a C long has 64 bits.
local WHOLE = string.format('%d', 2 ^ 52) == '4503599627370496' and '%d' or '%.0f'
local format = string.format
local function text(number)
  return format(WHOLE, number)
end

-- The names of a scope's twelve fields: posted first, then held.
local field_names = {}
local function fields_of(scope)
  local names = field_names[scope]
  if names == nil then
    names = {}
    for n, unit in ipairs(UNITS) do
      names[n], names[n + #UNITS] = scope .. '.' .. unit .. '.p', scope .. '.' .. unit .. '.h'
    end
    field_names[scope] = names
  end
  return names
end

local function hold_of(record)
  local _, fields = cmsgpack.unpack_one(record)
  return fields
end
