// SPDX-License-Identifier: Apache-2.0
// What many home gateways are: a validator that reads the whole body, asks a second local service to
// make sure that the model runs, and pipes the engine's answer back. Both services, one process each.
//
//   node node.js waker PORT
//   node node.js validator PORT WAKER_PORT ENGINE_SOCKET
"use strict";
const http = require("node:http");
const [role, port, wakerPort, engineSocket] = process.argv.slice(2);
const keepAlive = { keepAlive: true, maxSockets: Infinity };
const toWaker = new http.Agent(keepAlive);
const toEngine = new http.Agent(keepAlive);

function readAll(stream) {
  return new Promise((resolve, reject) => {
    const parts = [];
    stream.on("data", (part) => parts.push(part));
    stream.on("end", () => resolve(Buffer.concat(parts)));
    stream.on("error", reject);
  });
}

function ensure(model) {
  return new Promise((resolve, reject) => {
    const path = `/ensure/${encodeURIComponent(model)}`;
    const request = http.request({ port: wakerPort, method: "POST", path, agent: toWaker });
    request.on("response", (response) => readAll(response).then((text) => resolve(JSON.parse(text)), reject));
    request.on("error", reject);
    request.end();
  });
}

function pass(incoming, body, outgoing) {
  const headers = { ...incoming.headers, "content-length": body.length };
  const options = { socketPath: engineSocket, method: incoming.method, path: incoming.url, headers, agent: toEngine };
  const request = http.request(options, (answer) => {
    outgoing.writeHead(answer.statusCode, answer.headers);
    answer.pipe(outgoing);
  });
  request.on("error", (error) => outgoing.destroy(error));
  outgoing.on("close", () => request.destroy());
  request.end(body);
}

async function validate(incoming, outgoing) {
  try {
    const body = JSON.parse(await readAll(incoming));
    if (!body.model) throw new Error("no model");
    const ensured = await ensure(body.model);
    if (!ensured.ok) throw new Error("not ensured");
    pass(incoming, Buffer.from(JSON.stringify(body)), outgoing);
  } catch (error) {
    outgoing.writeHead(400, { "content-type": "application/json" });
    outgoing.end(JSON.stringify({ error: String(error) }));
  }
}

function wake(incoming, outgoing) {
  outgoing.writeHead(200, { "content-type": "application/json" });
  outgoing.end('{"ok": true}');
}

http.createServer(role === "waker" ? wake : validate).listen(Number(port), "127.0.0.1", 4096);
