// What is told as it happens: events; for admins also requests of the last minutes, logs, doctor.

const RECENT_MOST = 100;
const LOG_MOST_CHARS = 200_000;
const live = { events: null, log: null, recent: [] };

/** Listen to /events until told to stop; every event has the state read again. */
async function listen() {
  live.events?.abort();
  const stop = live.events = new AbortController();
  const whose = world.admin ? "requests=1&" : "";
  let last = "last=600";
  while (!stop.signal.aborted && !page.resting) {
    try {
      const response = await ask("GET", `/events?${whose}${last}`, { signal: stop.signal });
      last = "last=10";
      for await (const line of linesOf(response)) {
        if (!line.startsWith("data:")) continue;
        const event = JSON.parse(line.slice(5));
        if (event.event === "left") break; // stopped or restarted: the readings tell which
        if (event.event === "request") noteRequest(event); else soon();
      }
    } catch (error) {
      if (stop.signal.aborted || error instanceof Refused) return;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function noteRequest(event) {
  if (live.recent.some((one) => one.request_id === event.request_id && one.at === event.at)) return;
  live.recent.unshift(event);
  live.recent.length = Math.min(live.recent.length, RECENT_MOST);
  showEach($("recent"), live.recent, (one) => `${one.request_id} ${one.at}`, (one) => one.at, (one) => make("li", {},
    make("span", {}, make("strong", {}, one.model ?? "–"), " ", one.operation ?? ""),
    make("span", { class: one.reason ? "trouble" : "facts" },
      `${new Date(one.at * 1000).toLocaleTimeString()} · ${one.reason ?? one.status} · ${((one.duration_ms ?? 0) / 1000).toFixed(1)} s`)));
}

function showLogOf(id) {
  $("log-model").value = id;
  followLog();
  $("log-section").scrollIntoView({ block: "nearest" });
}

async function followLog() {
  live.log?.abort();
  const model = $("log-model").value;
  $("log").textContent = "";
  if (!model) return;
  const stop = live.log = new AbortController();
  try {
    const response = await ask("GET", `/logs/${pathOf(model)}?lines=200&follow=1`, { signal: stop.signal });
    for await (const line of linesOf(response)) {
      const atEnd = $("log").scrollTop + $("log").clientHeight >= $("log").scrollHeight - 20;
      $("log").append(`${line}\n`);
      if ($("log").textContent.length > LOG_MOST_CHARS) $("log").textContent = $("log").textContent.slice(-LOG_MOST_CHARS / 2);
      if (atEnd) $("log").scrollTop = $("log").scrollHeight;
    }
    if (!stop.signal.aborted) $("log").append("(the log ended)\n");
  } catch (error) {
    if (!stop.signal.aborted) $("log").append(`${explain(error)}\n`);
  }
}

async function showChecks() {
  try {
    const { findings } = await askJson("/doctor");
    $("checks-section").hidden = false;
    const items = findings.length ? findings : [{ what: "nothing is wrong with this host", why: "sparkctl doctor says so" }];
    showEach($("checks"), items, (one) => one.what, (one) => one, (one) => make("li", {},
      make("div", {}, make("strong", {}, one.what), one.level ? tag(one.level) : "",
        make("p", { class: "facts" }, one.why), one.fix ? make("p", { class: "facts" }, make("code", {}, one.fix)) : "")));
  } catch { $("checks-section").hidden = true; }
}
