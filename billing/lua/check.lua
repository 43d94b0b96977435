-- check: whether what a worker knows of a key, its organization and the policy is what holds, for calls that reserve
-- nothing (/models, idempotent answers). Reads only.
--
-- {'check', shard, epoch, organization, key, brand, key version, organization version, policy version}
-- Replies: {'OK', now} {'STALE', now, 'key'|'organization'|'policy'} {'EPOCH', now, …}

local function check(entry)
  local shard = shard_of(entry[2])
  if strange(shard, entry[3]) then
    return closed(shard)
  end
  local stale = stale_version(shard, entry[4], entry[5], entry[6], entry[7], entry[8], entry[9])
  if stale then
    return {'STALE', now, stale}
  end
  return {'OK', now}
end
