-- wrk: send an optional body or one token after the other, and print the result as one line of JSON.
local f = os.getenv("BODY_FILE")
if f and f ~= "" then
  local h = io.open(f, "rb"); wrk.body = h:read("*a"); h:close(); wrk.method = "POST"
end
local t = os.getenv("TOKENS_FILE")
if t and t ~= "" then
  local requests, next = {}, 0
  function init()
    for token in io.lines(t) do
      wrk.headers["Authorization"] = "Bearer " .. token
      requests[#requests + 1] = wrk.format()
    end
  end
  function request()
    next = next % #requests + 1
    return requests[next]
  end
end
function done(s, l)
  local e = s.errors
  print(string.format('JSON {"requests": %d, "secs": %.4f, "p50": %d, "p99": %d, "p999": %d, "errors": %d}', s.requests, s.duration / 1e6,
    l:percentile(50), l:percentile(99), l:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
