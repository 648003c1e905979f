-- The traffic of an app platform, for wrk: JSON POSTs of 1 kB, each request of the next of IDS installations.
-- With ID_IN=body the ID is a member of the JSON, else a field. With ORDER=random they come by chance rather than in
-- turn: there may be more of them than there is memory for their requests.
-- At the end one line for the script that started it: requests, seconds, p50, p99 and p99.9 in ms,
-- errors.

local ids = tonumber(os.getenv("IDS") or "10000")
local size = 1024
local requests = {}
local at = 0
local by_chance = os.getenv("ORDER") == "random"
local before, behind

local function id_of(i)
  return string.format("%08x-0000-4000-8000-%012x", i, i)
end

function init()
  if by_chance then
    local fields = { ["Content-Type"] = "application/json", ["X-Install-Id"] = "HERE" }
    local whole = wrk.format("POST", "/basket/calculate", fields, '{"comment":"' .. string.rep("x", size - 14) .. '"}')
    local from, to = whole:find("HERE", 1, true)
    before, behind = whole:sub(1, from - 1), whole:sub(to + 1)
    math.randomseed(1)
    return
  end
  local in_body = os.getenv("ID_IN") == "body"
  local head = '{"items":[{"sku":"4601234567890","quantity":1}],"comment":"'
  for i = 1, ids do
    local id = id_of(i)
    -- In the body it comes last: all of it has to be searched.
    local tail = in_body and '","installId":"' .. id .. '"}' or '"}'
    local body = head .. string.rep("x", size - #head - #tail) .. tail
    local fields = { ["Content-Type"] = "application/json" }
    if not in_body then
      fields["X-Install-Id"] = id
    end
    requests[i] = wrk.format("POST", "/basket/calculate", fields, body)
  end
end

function request()
  if by_chance then
    return before .. id_of(math.random(ids)) .. behind
  end
  at = at % ids + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %.3f %.3f %.3f %.3f %d\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
