// Talking to sparkd: the key, one way to ask, one way to read a stream.

class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `sparkd answered ${status}`);
    this.status = status;
    this.code = error?.code ?? "";
  }
}

const session = {
  get key() { return sessionStorage.getItem("sparkd-key") ?? ""; },
  set key(value) { value ? sessionStorage.setItem("sparkd-key", value) : sessionStorage.removeItem("sparkd-key"); },
};

/** The response of an answer that succeeded. Throws Refused, or TypeError when nobody answers. */
async function ask(method, path, { body, signal, headers: more } = {}) {
  const headers = { authorization: `Bearer ${session.key}`, ...more };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
  });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, said.error);
}

const askJson = async (path, options) => (await ask("GET", path, options)).json();

/** The lines of a response as they come. */
async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines.map((line) => line.replace(/\r$/, ""));
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

const pathOf = (model) => model.split("/").map(encodeURIComponent).join("/");
