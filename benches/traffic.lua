-- The traffic of an app platform, for wrk: JSON POSTs of 1 kB, each request of the next of IDS installations.
-- With ID_IN=body the ID is a member of the JSON, else a field.
-- At the end one line for the script that started it: requests, seconds, p50, p99 and p99.9 in ms,
-- errors.

local ids = tonumber(os.getenv("IDS") or "10000")
local size = 1024
local requests = {}
local at = 0

function init()
  local in_body = os.getenv("ID_IN") == "body"
  local head = '{"items":[{"sku":"4601234567890","quantity":1}],"comment":"'
  for i = 1, ids do
    local id = string.format("%08x-0000-4000-8000-%012x", i, i)
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
  at = at % ids + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %.3f %.3f %.3f %.3f %d\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
