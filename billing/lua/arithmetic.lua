-- Exact int64 arithmetic with doubles. A decimal text is split in two limbs of base 10^15, each exact with its sign.
-- Posted, held and limit stay text; what one call needs is a number below 2^53. billing/limits.py and the oracle of
-- tests/billing/oracle.py compute the same with Python's integers.

local EXACT_MAX = 9007199254740991
local INT64_MAX = '9223372036854775807'
local BASE = 1e15
local BASE_DIGITS = 15

local function limbs(value)
  if #value <= BASE_DIGITS then
    return 0, tonumber(value)
  end
  local sign, digits = 1, value
  if string.byte(value) == 45 then
    sign, digits = -1, string.sub(value, 2)
  end
  local cut = #digits - BASE_DIGITS
  return sign * (tonumber(string.sub(digits, 1, cut)) or 0), sign * tonumber(string.sub(digits, cut + 1))
end

-- limit − posted − held, clamped to ±(2^53 − 1); every need is below that, so a clamped room judges as the true one.
local function room(limit, posted, held)
  if #limit <= BASE_DIGITS and #posted <= BASE_DIGITS and #held <= BASE_DIGITS then
    return limit - posted - held
  end
  local high, low = limbs(limit)
  local posted_high, posted_low = limbs(posted)
  local held_high, held_low = limbs(held)
  high, low = high - posted_high - held_high, low - posted_low - held_low
  if high >= 13 then
    return EXACT_MAX
  elseif high <= -13 then
    return -EXACT_MAX
  end
  return math.max(-EXACT_MAX, math.min(EXACT_MAX, high * BASE + low))
end

-- The limbs of a sum with one sign for both, each below its base; limbs of up to a thousand terms may come in.
local function settled(high, low)
  local carry = (low >= 0 and math.floor or math.ceil)(low / BASE)
  high, low = high + carry, low - carry * BASE
  if high > 0 and low < 0 then
    return high - 1, low + BASE
  elseif high < 0 and low > 0 then
    return high + 1, low - BASE
  end
  return high, low
end

local function within_int64(high, low)
  high, low = math.abs(high), math.abs(low)
  return high < 9223 or (high == 9223 and low <= 372036854775807)
end

-- Whether value + amount (text, or a number below 2^53) stays an int64.
local function sum_fits(value, amount)
  if #value < 18 and (type(amount) == 'number' or #amount < 18) then
    return true
  end
  local high, low = limbs(value)
  local other_high, other_low = limbs(type(amount) == 'number' and text(amount) or amount)
  return within_int64(settled(high + other_high, low + other_low))
end

-- value + (high, low) as text, at the end of the scale when it is past int64.
local function sum_text(value, high, low)
  local value_high, value_low = limbs(value)
  high, low = settled(value_high + high, value_low + low)
  local sign = (high < 0 or low < 0) and '-' or ''
  if not within_int64(high, low) then
    return sign .. INT64_MAX
  elseif high == 0 then
    return sign .. text(math.abs(low))
  end
  return sign .. text(math.abs(high)) .. string.format('%015.0f', math.abs(low))
end

-- need(g) = ceil((fixed + g·per) / scale) of a unit in {fixed, per, scale, …}. A quotient of doubles may be off by one.
local function need(needs, unit, g)
  local sum, scale = needs[3 * unit - 2] + g * needs[3 * unit - 1], needs[3 * unit]
  if scale == 1 then
    return sum
  end
  local quotient = math.floor(sum / scale)
  local rest = sum - quotient * scale
  while rest < 0 do
    quotient, rest = quotient - 1, rest + scale
  end
  while rest >= scale do
    quotient, rest = quotient + 1, rest - scale
  end
  return rest > 0 and quotient + 1 or quotient
end

-- The largest g in [least, wanted] whose need fits; nil when none does. Who needs nothing is in nobody's way.
local function largest(needs, unit, least, wanted, have)
  local most = need(needs, unit, wanted)
  if most == 0 or most <= have then
    return wanted
  elseif need(needs, unit, least) > have then
    return nil
  end
  -- have < most, so the product is below 2^53; and per > 0, because wanting more costs more.
  local per, spare = needs[3 * unit - 1], have * needs[3 * unit] - needs[3 * unit - 2]
  local g = math.floor(spare / per)
  while g * per > spare do
    g = g - 1
  end
  while (g + 1) * per <= spare do
    g = g + 1
  end
  return g
end

-- value + amount as text, exact; |amount| is below 2^53. Posting what was delivered must not fail, so past int64 a sum
-- stays at the end of the scale.
local function plus(value, amount)
  if #value <= BASE_DIGITS and amount <= BASE and amount >= -BASE then
    return text(tonumber(value) + amount)
  end
  local high = math.floor(amount / BASE)
  return sum_text(value, high, amount - high * BASE)
end
