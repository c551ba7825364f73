"""The scripts by which outputs change and read a shared log in Valkey or Redis; `log_redis` names its keys (SPEC 11).

``{NAME}:meta`` is a hash: ``server`` (the process at which the epoch began), ``epoch``, ``base`` (the position at which it began),
``before`` and ``behind`` (epoch and position of the last event before it), ``floor``, ``tail``, ``events`` and ``size`` (what is in
the log), ``total`` and ``bytes`` (what ever was), ``left`` and ``left_at`` (the floor at which the stream was trimmed last, and when).
"""

from __future__ import annotations

from trio_wsout.stores.redis import Script

__all__ = ["AFTER", "APPEND", "FIND", "JOIN", "LEAVE"]

_STATE = """
local log, meta, cursors = KEYS[1], KEYS[2], KEYS[3]
local function text(number) return string.format('%.0f', number) end
local names = {'epoch', 'base', 'floor', 'tail', 'events', 'size', 'total', 'bytes', 'left', 'left_at', 'before', 'behind'}
local values = redis.call('HMGET', meta, 'server', unpack(names))
local server, is = values[1], {}
for index, name in ipairs(names) do is[name] = tonumber(values[index + 1] or 0) end
local function keep()
    local all = {}
    for _, name in ipairs(names) do
        all[#all + 1] = name
        all[#all + 1] = text(is[name])
    end
    redis.call('HSET', meta, 'server', server, unpack(all))
end
local function extent(last)
    return {is.epoch, is.floor, is.tail, is.size, is.events, last or 0}
end
local function run_behind(position)
    local from = text(position + 1)
    while true do
        local run = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
        if not run then return nil end
        local last, count = tonumber(string.match(run[1], '^%d+')), tonumber(run[2][2])
        if count > 0 then
            return {
                first = last - count + 1, last = last, count = count, epoch = tonumber(string.match(run[1], '%d+$')),
                at = tonumber(run[2][4]), total = tonumber(run[2][6]), bytes = tonumber(run[2][8]), head = run[2][10],
                entry = run
            }
        end
        from = '(' .. run[1]  -- behind the marker of an epoch
    end
end
"""
"""Reads what is known of the log. Of a run's fields, only the first five have a fixed place: count, at, total, bytes, head."""

_TRIM = """
local function size_of(run, position)
    return struct.unpack('<I4', run.head, 4 * (run.count + position - run.first) + 1)
end
local function trim(settled, now, most_events, most_bytes, longest)
    local floor, left = is.floor, is.left
    while is.events > 0 do
        local run = run_behind(is.floor)
        if not run then  -- somebody has removed all
            is.floor, is.events, is.size = is.tail, 0, 0
            break
        end
        local start = math.max(run.first, is.floor + 1)
        local events = is.total - run.total + run.last - start + 1
        if events < is.events then  -- somebody has removed some
            is.events, is.size = events, is.bytes - run.bytes
            for position = start, run.last do is.size = is.size + size_of(run, position) end
        end
        local old = now - run.at > longest
        for position = start, run.last do
            if not (old or position <= settled or is.events > most_events or is.size > most_bytes) then break end
            is.floor, is.events, is.size = position, is.events - 1, is.size - size_of(run, position)
        end
        if is.floor < run.last then break end
    end
    local clock = tonumber(redis.call('TIME')[1])
    if clock > is.left_at + 1 then
        if is.left > 0 then
            redis.call('XTRIM', log, 'MINID', text(is.left))
            redis.call('ZREMRANGEBYSCORE', cursors, '-inf', '(' .. text(is.left))
        end
        is.left, is.left_at = is.floor, clock
    end
    return is.floor > floor or is.left > left
end
"""

JOIN = Script(
    _STATE
    + """
local process, proposed, base, epoch, seen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local before, behind = is.epoch, is.tail
local lost = epoch > is.epoch or (epoch == is.epoch and seen > is.tail) or (epoch < is.epoch and seen > is.base)
    or (epoch == is.before and seen > is.behind)
if lost then before, behind = epoch, seen end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local removed = not last or last[1] ~= text(is.tail) .. '-' .. text(is.epoch)
if server ~= process or lost or removed then
    if last then
        local position, of = string.match(last[1], '^(%d+)-(%d+)$')
        position, of = tonumber(position), tonumber(of)
        if position > behind or (position == behind and of > before) then before, behind = of, position end
    end
    if not server then is.floor = last and behind or math.max(base, seen) end
    is.epoch = math.max(proposed, before + 1, epoch + 1)
    is.base = math.max(base, behind, seen, is.tail)
    is.tail, is.before, is.behind, server = is.base, before, behind, process
    local follows = lost and '0-0' or text(before) .. '-' .. text(behind)  -- what somebody has lost is a gap for all
    redis.call('XADD', log, text(is.base) .. '-' .. text(is.epoch), 'count', '0', 'behind', follows)
    keep()
end
return extent()
"""
)
"""Begins a new epoch if the log is not what this output knows."""

APPEND = Script(
    _STATE
    + _TRIM
    + """
local process, epoch, node, number, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
if server ~= process or is.epoch ~= epoch then return {} end
local known = redis.call('GET', KEYS[4]) or ''
local of, which, position = string.match(known, '^(%d+) (%d+) (%d+)$')
if which == number and tonumber(of) == epoch then return extent(tonumber(position)) end
local at, bytes = tonumber(ARGV[6]), string.len(ARGV[9])
is.tail, is.events, is.size = is.tail + count, is.events + count, is.size + bytes
is.total, is.bytes = is.total + count, is.bytes + bytes
redis.call('XADD', log, text(is.tail) .. '-' .. text(epoch), 'count', ARGV[5], 'at', ARGV[6], 'total', text(is.total),
    'bytes', text(is.bytes), 'head', ARGV[8], 'checksum', ARGV[7], 'node', node, 'number', number, 'body', ARGV[9])
for index = 14, #ARGV, 2 do
    redis.call('ZADD', cursors, text(is.tail - count + tonumber(ARGV[index])), ARGV[index + 1])
end
redis.call('SET', KEYS[4], text(epoch) .. ' ' .. number .. ' ' .. text(is.tail), 'EX', '604800')
trim(tonumber(ARGV[10]), at, tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]))
keep()
return extent(is.tail)
"""
)
LEAVE = Script(
    _STATE
    + _TRIM
    + """
if server and trim(tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])) then keep() end
return extent()
"""
)
AFTER = Script(
    _STATE
    + """
local position, most, most_bytes = math.max(tonumber(ARGV[2]), is.floor), tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {is.floor}
while most > 0 and (most_bytes >= 0 or #found == 1) do
    local run = run_behind(position)
    if not run then break end
    found[#found + 1] = run.entry
    most = most - (run.last - math.max(position, run.first - 1))
    for at = math.max(position + 1, run.first), run.last do
        most_bytes = most_bytes - struct.unpack('<I4', run.head, 4 * (run.count + at - run.first) + 1)
    end
    position = run.last
end
return found
"""
)
FIND = Script(
    _STATE
    + """
local position = tonumber(redis.call('ZSCORE', cursors, ARGV[2]) or -1)
if position >= is.floor and position > 0 then return position end
position = tonumber(ARGV[4])
if position < is.floor or position == 0 then return false end
local run = run_behind(position - 1)
if run and run.epoch == tonumber(ARGV[3]) and run.first <= position then return position end
return false
"""
)
