-- One verdict per entry. An entry that fails says so ({'ERROR', now, message}) and never harms its neighbours.

local steps = {
  reserve = reserve, look = look, settle = settle, lapse = lapse, void = void, renew = renew, due = due, check = check,
  seed = seed, apply = apply, forget = forget,
  epoch = read_epoch, begin = begin, clear = clear, mark = mark_streamed, drop = drop, assert = assert_holds,
  await = await, reassert = reassert, replay = replay, ack = acknowledge, acks = acknowledged, finish = finish,
}

-- They know of counters what a run has learned; the others see and write Redis alone.
local shares = {reserve = true, look = true, settle = true, lapse = true, void = true, renew = true, due = true, check = true}

-- A step gives its verdict as a list, or as msgpack already.
local entries = cmsgpack.unpack(ARGV[1])
local verdicts = {#entries < 16 and string.char(0x90 + #entries)
  or string.char(0xdc, math.floor(#entries / 256), #entries % 256)}
for n, entry in ipairs(entries) do
  local step = steps[entry[1]]
  if not shares[entry[1]] then
    write_out()
  end
  local fine, verdict = pcall(step or error, step and entry or 'no such step')
  if not fine then
    verdict = {'ERROR', now, tostring(verdict)}
  end
  verdicts[n + 1] = type(verdict) == 'string' and verdict or cmsgpack.pack(verdict)
end
write_out()
return table.concat(verdicts)
