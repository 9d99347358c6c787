// The beat of the page: when the state is read, what is said when nobody answers, when to rest.
// A page left open must not keep sparkd awake: with nothing to see it stops asking until touched.

const BEAT_MS = 4000;
const BUSY_BEAT_MS = 1000;
const REST_AFTER_MS = 40_000;
const page = { timer: 0, busySince: Date.now(), resting: false, known: false };

function explain(error) {
  if (error instanceof Refused) return error.message; // It ends with the hint.
  return "sparkd does not answer; trying again. On its host: systemctl status sparkd.socket";
}

function banner(text, resting = false) {
  $("banner").hidden = !text;
  $("banner").classList.toggle("rest", resting);
  $("banner").replaceChildren(text ?? "", ...(resting ? [" ", make("button", { type: "button", onclick: wake }, "Look again")] : []));
}

/** Why a key was refused, for a person who does not know HTTP. */
function whyRefused(error) {
  const refused = error.code === "expired_api_key" ? "This key has expired." : "This key is not valid here.";
  return `${refused} Ask the person who runs this server for a key.`;
}

function askKey(why) {
  setText($("ask-why"), why);
  if (!$("ask").open) $("ask").showModal();
  $("key").focus();
}

async function read() {
  clearTimeout(page.timer);
  if (page.resting || document.hidden || $("ask").open) return;
  if (!session.key) return askKey("");
  try {
    const status = await askJson("/status");
    world.status = status;
    world.clockOffset = status.now - Date.now() / 1000;
    banner("");
    if (!page.known) await begin();
    fillModelChoices();
    showStatus();
    schedule(status);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return askKey(whyRefused(error));
    banner(explain(error));
    setText($("state"), "unreachable");
    page.busySince = Date.now(); // Once there is an answer, it is something to see.
    page.timer = setTimeout(read, BEAT_MS);
  }
}

/** Once a key: what it may do, and what follows from that. */
async function begin() {
  page.known = true;
  $("forget").hidden = false;
  world.admin = world.status.scopes?.includes("admin") ?? false;
  $("log-section").hidden = $("recent-section").hidden = !world.admin;
  const listed = await askJson("/v1/models?all=1").catch(() => ({ data: [] }));
  if (!world.status.models.some((model) => model.present)) $("show").value = "";
  world.models = new Map(listed.data.map((model) => [model.id, model]));
  listen();
  if (world.admin) showChecks();
}

function schedule(status) {
  const moving = status.queue.length > 0 || status.models.some((model) => ["starting", "stopping", "busy"].includes(model.state));
  if (moving || status.models.some((model) => RUNNING.has(model.state)) || talk.stop) page.busySince = Date.now();
  if (Date.now() - page.busySince > REST_AFTER_MS) return rest();
  page.timer = setTimeout(read, moving ? BUSY_BEAT_MS : BEAT_MS);
}

/** Read the state in a moment; many events make one reading. */
function soon() {
  clearTimeout(page.timer);
  page.timer = setTimeout(read, 150);
}

function rest() {
  page.resting = true;
  live.events?.abort();
  clearTimeout(page.timer);
  setText($("state"), "asleep");
  banner("Nothing runs, so this page lets sparkd sleep. The next request of any client wakes it.", true);
}

function wake() {
  page.resting = false;
  page.busySince = Date.now();
  banner("");
  if (page.known) listen();
  read();
}

/** Whoever does something wants to see what comes of it, also on a page that rests. */
function touched() {
  if (page.resting) return wake();
  page.busySince = Date.now();
  soon();
}

async function act(id, verb) {
  $("notice").hidden = true;
  touched();
  try {
    await ask("POST", `/models/${pathOf(id)}/${verb}`);
  } catch (error) {
    $("notice").hidden = false;
    setText($("notice"), explain(error));
  }
  soon();
}

function start() {
  $("ask-form").addEventListener("submit", () => {
    session.key = $("key").value.trim();
    $("key").value = "";
    page.known = false;
    setTimeout(wake);
  });
  $("ask").addEventListener("cancel", (event) => event.preventDefault());
  $("forget").addEventListener("click", () => { session.key = ""; live.events?.abort(); live.log?.abort(); location.reload(); });
  $("filter").addEventListener("input", () => world.status && showModels());
  $("show").addEventListener("change", () => world.status && showModels());
  $("chat").addEventListener("submit", send);
  $("halt").addEventListener("click", () => talk.stop?.abort());
  $("clear").addEventListener("click", clearTalk);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("chat").requestSubmit(); }
  });
  $("log-model").addEventListener("change", followLog);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !page.resting) read(); });
  setInterval(() => world.status && !document.hidden && world.status.models.forEach((model) => RUNNING.has(model.state) && showTimes(model)), 1000);
  read();
}

start();
