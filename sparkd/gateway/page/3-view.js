// What is shown of a reading of /status.

const RUNNING = new Set(["starting", "ready", "busy", "sleeping", "stopping"]);
const TROUBLED = new Set(["failed", "backing-off"]);

const world = { status: null, models: new Map(), admin: false, clockOffset: 0 };

/** The host's clock, in seconds: deadlines are told on it. */
const hostNow = () => Date.now() / 1000 + world.clockOffset;

function showStatus() {
  const { status } = world;
  const running = status.models.filter((model) => RUNNING.has(model.state));
  const waiting = status.queue.reduce((sum, entry) => sum + entry.waiting, 0);
  setText($("state"), running.length || waiting
    ? `${running.map((model) => `${model.id} ${model.state}`).join(", ")}${waiting ? ` · ${waiting} waiting` : ""}`
    : "nothing runs");
  showNow(running);
  showMemory(status.memory, running);
  showQueue(status.queue);
  showModels();
}

function showNow(running) {
  const place = $("now");
  showEach(place, running, (model) => model.id,
    (model) => [model.state, model.pinned, model.lifecycle, model.typical_load_s, world.admin], card);
  if (!running.length) place.replaceChildren(make("p", { class: "quiet" }, "No model is loaded. Load one below, or name one from any client."));
  for (const model of running) showTimes(model);
}

function card(model) {
  const loading = model.state === "starting";
  return make("article", { class: `card ${model.state}` },
    make("h3", {}, model.id, tag(model.state)),
    make("p", { class: "facts", "data-part": "times" }),
    loading ? make("progress", { "data-part": "progress", "aria-label": `progress of ${model.id}` }) : null,
    buttons(model));
}

/** What changes every second, without making the card anew. */
function showTimes(model) {
  const place = [...$("now").children].find((child) => child.dataset.key === model.id);
  const times = place?.querySelector("[data-part=times]");
  if (!times) return;
  const since = model.started_at === null ? 0 : hostNow() - model.started_at;
  const bar = place.querySelector("[data-part=progress]");
  if (bar) {
    const typical = model.typical_load_s;
    const phase = model.phase ? `${model.phase}${model.progress === null ? "" : ` ${model.progress} %`}, ` : "";
    setText(times, `${phase}loading for ${span(since)}${typical ? `, typically ${span(typical)}` : ""}`);
    if (typical) bar.value = Math.min(0.98, since / typical); else if (model.progress !== null) bar.value = model.progress / 100;
    return;
  }
  const idle = model.state === "sleeping" ? "woken by the next request"
    : model.pinned ? "pinned, stays until unloaded"
    : model.in_use ? "in use now"
      : model.idle_check_at ? `unused, stops in ${span(model.idle_check_at - hostNow())}` : "";
  setText(times, [`up ${span(since)}`, model.lifecycle, idle].filter(Boolean).join(" · "));
}

function tag(state) {
  return make("span", { class: `tag ${state}` }, state);
}

function buttons(model) {
  const id = model.id;
  const list = [make("button", { type: "button", name: "chat", "aria-label": `Chat with ${id}`, onclick: () => chatWith(id) }, "Chat")];
  if (world.admin) {
    const runs = RUNNING.has(model.state) || model.state === "queued";
    list.unshift(runs
      ? make("button", { type: "button", name: "unload", "aria-label": `Unload ${id}`, onclick: () => act(id, "unload") }, "Unload")
      : make("button", { type: "button", name: "load", "aria-label": `Load ${id}`, onclick: () => act(id, "load") }, "Load"));
    if (RUNNING.has(model.state)) {
      list.push(
        make("button", { type: "button", name: "pin", "aria-label": `Pin ${id}`, "aria-pressed": String(model.pinned), disabled: model.pinned_by === "catalog", onclick: () => act(id, model.pinned ? "unpin" : "pin") }, "Pin"),
        make("button", { type: "button", name: "log", "aria-label": `Log of ${id}`, onclick: () => showLogOf(id) }, "Log"));
    }
  }
  return make("div", { class: "buttons" }, ...list);
}

function showMemory(memory, running) {
  $("memory").hidden = !memory?.total_bytes;
  if (!memory?.total_bytes) return;
  const used = memory.total_bytes - memory.available_bytes;
  let known = 0;
  const parts = running.filter((model) => model.peak_bytes).map((model, place) => {
    const bytes = Math.min(model.peak_bytes, used - known);
    known += bytes;
    return { name: model.id, bytes, kind: String(place % 3) };
  });
  const reserve = Math.min(memory.reserve_bytes, memory.available_bytes);
  parts.push({ name: "everything else", bytes: used - known, kind: "other" },
    { name: "available", bytes: memory.available_bytes - reserve, kind: "free" },
    { name: "kept free", bytes: reserve, kind: "reserve" });
  const shown = parts.filter((part) => part.bytes > 0);
  $("memory-bar").setAttribute("aria-label", `Memory of ${gib(memory.total_bytes)}: ${shown.map((part) => `${part.name} ${gib(part.bytes)}`).join(", ")}`);
  $("memory-bar").replaceChildren(...shown.map((part) => {
    const piece = make("i", { class: `part-${part.kind}` });
    piece.style.width = `${(100 * part.bytes) / memory.total_bytes}%`;
    return piece;
  }));
  showEach($("memory-legend"), shown, (part) => part.name, (part) => [part.kind, gib(part.bytes)],
    (part) => make("li", {}, make("i", { class: `part-${part.kind}`, "aria-hidden": "true" }), `${part.name} ${gib(part.bytes)}`));
}

function showQueue(queue) {
  $("queue").hidden = !queue.length;
  showEach($("queue-list"), queue, (entry) => entry.model, (entry) => entry, (entry) => make("li", {},
    make("strong", {}, entry.model),
    make("span", { class: "facts" }, `${entry.waiting} waiting, the oldest for ${span(entry.oldest_s)}${entry.loading ? ", loading" : `, ${entry.why}`}`)));
}

function showModels() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("show").value;
  const fits = (model) => {
    const known = world.models.get(model.id) ?? {};
    const text = [model.id, model.family, model.title, model.lifecycle, model.status, ...(known.aliases ?? [])].join(" ").toLowerCase();
    return words.every((word) => text.includes(word))
      && (kind !== "here" || model.present || RUNNING.has(model.state))
      && (kind !== "running" || RUNNING.has(model.state))
      && (kind !== "proven" || model.status === "validated")
      && (kind !== "troubled" || TROUBLED.has(model.state));
  };
  const all = world.status.models;
  const shown = all.filter(fits).sort((a, b) => RUNNING.has(b.state) - RUNNING.has(a.state) || a.id.localeCompare(b.id));
  setText($("count"), shown.length === all.length ? `${all.length} models` : `${shown.length} of ${all.length} models`);
  showEach($("models"), shown, (model) => model.id,
    (model) => [model.state, model.pinned, model.failure, model.present, model.typical_load_s && Math.round(model.typical_load_s), model.need_bytes, world.admin], row);
}

/** A share of this host's memory that its options reserve is not the size of the model. */
function need(model) {
  if (!model.need_bytes) return null;
  return model.need_basis === "utilization"
    ? `reserves ${gib(model.need_bytes)} of this host's memory` : `needs ${gib(model.need_bytes)}`;
}

function row(model) {
  const facts = [
    model.title, model.max_model_len && `${Math.round(model.max_model_len / 1024)}k context`,
    need(model),
    model.lifecycle !== "normal" && model.lifecycle, model.status !== "validated" && model.status,
    model.typical_load_s && `loads in ${span(model.typical_load_s)}`,
  ].filter(Boolean).join(" · ");
  const off = model.status === "disabled";
  const get = RUNNING.has(model.state) ? [] : [...new Set(model.missing.map((one) => one.hint))];
  return make("li", {},
    make("div", {}, make("strong", {}, model.id), model.state === "stopped" ? "" : tag(model.state),
      make("p", { class: "facts" }, facts),
      model.failure ? make("p", { class: "trouble" }, model.failure) : "",
      !off && get.length ? make("p", { class: "facts" }, "not on this host: ", make("code", {}, get.join("; "))) : "",
      off && model.reason ? make("p", { class: "facts" }, model.reason) : ""),
    off || get.length ? "" : buttons(model));
}
