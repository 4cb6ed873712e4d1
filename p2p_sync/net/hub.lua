-- Appends a run of messages to the log that a hub holds, if it goes on where that ends. Redis runs
-- a script as a whole, so a run is stored once, whoever ships it and whenever a node dies.
--
-- KEYS: have, log, news, the index of the origin, messages, in
-- ARGV: the hub's id, origin, after, previous, number and running hash at the end, signature,
--       entries (empty: a cutoff), messages for programs, what may be otherwise than that:
--       "skip" where messages before the run are missing, or what is held and is to make way;
--       and the place in `in` of what a program has added and this run commits, if it does
-- Returns 1; or what is held of the origin instead, "" for nothing.
local have, log, news, index, messages, added = unpack(KEYS)
local id, origin, after, previous, n, hash, signature, entries, shown, instead, place = unpack(ARGV)
if redis.call('HGET', have, 'id') ~= id then return redis.error_reply('SETBACK') end
for key, kind in pairs({[log] = 'stream', [news] = 'stream', [messages] = 'stream', [index] = 'zset'}) do
  local found = redis.call('TYPE', key).ok -- before the first change, for Redis undoes none
  if found ~= kind and found ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key) end
end
local function clear()
  for _, key in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    redis.call('XDEL', log, key)
    redis.call('XDEL', news, key)
    redis.call('ZREM', index, key) -- so that a full hub sees no change where there is none
  end
end
local held = redis.call('HGET', have, origin)
if not held then clear() end -- what is left from before somebody deleted `have`
local last, running = '0', previous
if held then
  last, running = string.match(held, '^(%d+) (%x*) ')
end
if entries == '' then
  if tonumber(last) >= tonumber(n) then return held end
elseif held and held == instead then
  clear()
  id = redis.sha1hex(id) -- all nodes compare again
  redis.call('HSET', have, 'id', id, 'news', 'none')
elseif last ~= after or running ~= previous then
  if instead ~= 'skip' or tonumber(last) >= tonumber(after) then return held or '' end
end
if place ~= '' and #redis.call('XPENDING', added, 'p2p-sync', place, place, 1) == 0 then
  return held or '' -- another node has committed it
end
local head, key = n .. ' ' .. hash .. ' ' .. signature, '*'
local change = {'before', redis.call('HGET', have, 'news') or '', 'head', head, 'origin', origin}
if entries ~= '' then
  local run = {'after', after, 'previous', previous, 'entries', entries, 'signature', signature}
  key = redis.call('XADD', log, '*', 'origin', origin, unpack(run))
  redis.call('ZADD', index, after, key)
  for _, value in ipairs(#entries > 1000 and {} or run) do change[#change + 1] = value end
end
redis.call('HSET', have, origin, head)
if place ~= '' then -- after the message is held, for Redis undoes nothing if a command fails
  redis.call('XACK', added, 'p2p-sync', place)
  redis.call('XDEL', added, place)
end
for _, message in ipairs(cjson.decode(shown)) do
  redis.call('XADD', messages, '*', unpack(message))
end
-- A short run comes with its news, which have its place in the log, so that both are erased at once.
local last = redis.pcall('XADD', news, 'MAXLEN', '~', 10000, key, unpack(change))
if type(last) == 'table' then -- that place is taken: as news of a long run
  last = redis.call('XADD', news, 'MAXLEN', '~', 10000, '*', unpack(change, 1, 6))
end
redis.call('HSET', have, 'news', last)
return 1
