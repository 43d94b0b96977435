-- One verdict per entry. An entry that fails says so ({'ERROR', now, message}) and never harms its neighbours.

local steps = {reserve = reserve, look = look, settle = settle, lapse = lapse, void = void, renew = renew, due = due,
  seed = seed, apply = apply, check = check, epoch = read_epoch, begin = begin, clear = clear, assert = assert_holds, finish = finish}

local verdicts = {}
for n, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  local step = steps[entry[1]]
  local fine, verdict = pcall(step or error, step and entry or 'no such step')
  verdicts[n] = fine and verdict or {'ERROR', now, tostring(verdict)}
end
return cmsgpack.pack(verdicts)
