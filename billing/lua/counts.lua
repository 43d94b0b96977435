-- What a run knows of the hashes that count: each is read once and written once, however many of the run's entries move
-- it, because the calls of a burst are mostly one customer's. An entry sees what those before it did.
--
-- A count is a number where that is below 2^53, else decimal text: what fits a double is added as one, the rest in limbs.
-- A sum of two such doubles that is below 2^53 is exact, and one that is not is told by its size.
-- Invariant: what could fail is done in `learn`, which an entry calls before its first write; `put` cannot fail. So an
-- entry moves all its counts or none. `write_out` comes before the run's reply, and before any step that writes to such a
-- hash by itself; a run that ends without it has no reply, and its caller takes its outcome as unknown.

local WRITES_MAX = 2000 -- names and values of one HSET: Lua unpacks them onto its stack
local is_wide = false -- whether any count is text

local function count_of(value)
  local number = tonumber(value) or error('not a count')
  if number <= EXACT_MAX and number >= -EXACT_MAX then
    return number
  end
  is_wide = true
  return value
end

local function said(count)
  return type(count) == 'number' and text(count) or count
end

-- limit − posted − held, exact within ±2^53 and past it where it is.
local function spare(limit, posted, held)
  if not is_wide then
    local left = limit - posted
    if left <= EXACT_MAX and left >= -EXACT_MAX then
      return left - held
    end
  end
  return room(said(limit), said(posted), said(held))
end

-- count + amount; |amount| is below 2^53.
local function grown(count, amount)
  if not is_wide then
    local sum = count + amount
    if sum <= EXACT_MAX and sum >= -EXACT_MAX then
      return sum
    end
  end
  return count_of(plus(said(count), amount))
end

-- Names → hashes: `values` of the fields that were asked for (false: absent), `made` counts those that came to be.
local hashes, moved = {}, {}
local function hash_at(name)
  local hash = hashes[name]
  if hash == nil then
    hash = {name = name, values = {}, is_new = true, made = 0}
    hashes[name] = hash
  end
  return hash
end

-- What is wanted of a hash is read by `learn`.
local function want(hash, field)
  if hash.values[field] == nil then
    local wanted = hash.wanted
    if wanted == nil then
      hash.wanted = {field}
    else
      wanted[#wanted + 1] = field
    end
  end
end

local function read(hash, fields)
  local values, found = hash.values, redis.call('HMGET', hash.name, unpack(fields))
  for n = 1, #fields do
    if values[fields[n]] == nil then -- what is known may be newer: an entry that failed may have left what it wanted
      values[fields[n]] = found[n] and count_of(found[n])
    end
  end
  hash.is_new = false
end

local function learn(hash)
  local wanted = hash.wanted
  if wanted then
    hash.wanted = nil
    read(hash, wanted)
  end
end

local function learn_all(hash, fields)
  if hash.is_new then
    read(hash, fields)
    return
  end
  for n = 1, #fields do
    want(hash, fields[n])
  end
  learn(hash)
end

local function put(hash, field, count)
  if not hash.values[field] then
    hash.made = hash.made + 1
  end
  if hash.changed == nil then
    hash.changed = {}
    moved[#moved + 1] = hash
  end
  hash.values[field], hash.changed[field] = count, true
end

local function write_hash(hash)
  local writes, last = {}, 0
  for field in pairs(hash.changed) do
    local count = hash.values[field]
    writes[last + 1], writes[last + 2], last = field, is_wide and said(count) or text(count), last + 2
    if last == WRITES_MAX then
      redis.call('HSET', hash.name, unpack(writes, 1, last))
      last = 0
    end
  end
  if last > 0 then
    redis.call('HSET', hash.name, unpack(writes, 1, last))
  end
  if hash.expires then
    redis.call('PEXPIREAT', hash.name, hash.expires)
  end
end

-- Nothing is known any more afterwards.
local known
local function write_out()
  for n = 1, #moved do
    write_hash(moved[n])
  end
  hashes, moved, known = {}, {}, {}
end
