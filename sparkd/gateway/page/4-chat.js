// A small chat, to see whether a model answers and how.

const talk = { messages: [], stop: null };

function chatWith(id) {
  const choice = $("chat-model");
  if (![...choice.options].some((option) => option.value === id)) choice.append(make("option", { value: id }, id));
  choice.value = id;
  $("prompt").focus();
}

function fillModelChoices() {
  const chatty = world.status.models.filter((model) => model.status !== "disabled" && (model.present || RUNNING.has(model.state)) && (model.dialects ?? ["chat"]).includes("chat"));
  for (const [place, models, first] of [[$("chat-model"), chatty, []], [$("log-model"), world.status.models, [["", "none"]]]]) {
    const wanted = [...first, ...models.map((model) => [model.id, model.id])];
    if (JSON.stringify(wanted.map(([value]) => value)) === place.dataset.values) continue;
    const chosen = place.value || (place === $("chat-model") ? models.find((model) => RUNNING.has(model.state))?.id : "");
    place.replaceChildren(...wanted.map(([value, text]) => make("option", { value }, text)));
    place.dataset.values = JSON.stringify(wanted.map(([value]) => value));
    if (wanted.some(([value]) => value === chosen)) place.value = chosen;
  }
}

function say(role, text) {
  const line = make("p", { class: role }, text);
  $("talk").append(line);
  $("talk").scrollTop = $("talk").scrollHeight;
  return line;
}

async function send(event) {
  event.preventDefault();
  const text = $("prompt").value.trim();
  const model = $("chat-model").value;
  if (!text || !model || talk.stop) return;
  $("prompt").value = "";
  say("user", text);
  talk.messages.push({ role: "user", content: text });
  const note = say("note", `asking ${model} …`);
  talk.stop = new AbortController();
  setBusy(true);
  touched();
  try {
    await stream(model, note);
  } catch (error) {
    setText(note, error.name === "AbortError" ? "stopped" : explain(error));
    if (error instanceof Refused && error.status === 401) askKey(error.message);
  } finally {
    talk.stop = null;
    setBusy(false);
  }
}

async function stream(model, note) {
  const response = await ask("POST", "/v1/chat/completions", {
    body: { model, stream: true, messages: talk.messages }, signal: talk.stop.signal,
    headers: { "x-sparkd-keep-alive": "comment" },
  });
  const began = performance.now();
  let line = null;
  let answer = "";
  let first = 0;
  try {
    for await (const text of linesOf(response)) {
      if (text.startsWith(":") && !answer) setText(note, text.slice(1).trim());
      if (!text.startsWith("data:") || text.includes("[DONE]")) continue;
      const data = JSON.parse(text.slice(5));
      if (data.error) throw new Refused(response.status, data.error);
      const delta = data.choices?.[0]?.delta ?? {};
      const piece = delta.content ?? delta.reasoning_content ?? delta.reasoning ?? "";
      if (!piece) continue;
      first ||= performance.now();
      answer += piece;
      line ??= say("assistant", "");
      line.textContent = answer;
      $("talk").scrollTop = $("talk").scrollHeight;
    }
  } finally {
    if (answer) talk.messages.push({ role: "assistant", content: answer });
  }
  const total = (performance.now() - began) / 1000;
  setText(note, answer ? `${model}: first word after ${((first - began) / 1000).toFixed(1)} s, ${total.toFixed(1)} s in all` : `${model} said nothing`);
}

function setBusy(busy) {
  $("send").disabled = busy;
  $("halt").disabled = !busy;
}

function clearTalk() {
  talk.stop?.abort();
  talk.messages = [];
  $("talk").replaceChildren();
}
