// SPDX-License-Identifier: Apache-2.0
// OpenAI's library for JavaScript, as its users call it. Speaks as conversation.py does; NODE_PATH
// says where the library is.
"use strict";

const readline = require("node:readline");
const { OpenAI } = require("openai");

const TOOL = {
  type: "function",
  function: {
    name: "add",
    parameters: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "integer" } },
      required: ["a", "b"],
    },
  },
};

function client({ url, key, retries = 0 }) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: retries, timeout: 60000 });
}

function said(text) {
  return typeof text === "string" ? [{ role: "user", content: text }] : text;
}

function add(call) {
  const { a, b } = JSON.parse(call.function.arguments);
  return `the sum is ${a + b}`;
}

const verbs = {
  async chat({ model, text, ...connection }) {
    const messages = said(text);
    const answer = await client(connection).chat.completions.create({ model, messages });
    const [choice] = answer.choices;
    return { text: choice.message.content, finish: choice.finish_reason };
  },

  async stream({ model, text, fake = {}, leave_after: leaveAfter = 0, ...connection }) {
    const body = { model, messages: said(text), stream: true, fake };
    const pieces = [];
    for await (const chunk of await client(connection).chat.completions.create(body)) {
      const content = chunk.choices[0]?.delta?.content;
      if (content) pieces.push(content);
      if (leaveAfter && pieces.length === leaveAfter) break;
    }
    return { pieces };
  },

  async tool({ model, text, ...connection }) {
    const ask = client(connection).chat.completions;
    const messages = said(text);
    const first = (await ask.create({ model, messages, tools: [TOOL] })).choices[0];
    const [call] = first.message.tool_calls;
    messages.push(first.message, { role: "tool", tool_call_id: call.id, content: add(call) });
    const last = (await ask.create({ model, messages, tools: [TOOL] })).choices[0];
    const { name } = call.function;
    return { finish: first.finish_reason, called: name, text: last.message.content };
  },

  async tool_stream({ model, text, ...connection }) {
    const body = { model, messages: said(text), tools: [TOOL] };
    const whole = await client(connection).chat.completions.stream(body).finalChatCompletion();
    const [call] = whole.choices[0].message.tool_calls;
    return { called: call.function.name, result: add(call) };
  },

  async embed({ model, texts, ...connection }) {
    const answer = await client(connection).embeddings.create({ model, input: texts });
    return { sizes: answer.data.map((one) => one.embedding.length) };
  },

  async respond({ model, text, ...connection }) {
    const events = client(connection).responses.stream({ model, input: text });
    const kinds = [];
    for await (const event of events) kinds.push(event.type);
    return { text: (await events.finalResponse()).output_text, kinds };
  },

  async models(connection) {
    const ids = [];
    for await (const model of client(connection).models.list()) ids.push(model.id);
    return { ids };
  },
};

async function main() {
  console.log(JSON.stringify({ ready: true }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { verb, ask } = JSON.parse(line);
    let told;
    try {
      told = await verbs[verb](ask);
    } catch (error) {
      told = { error: error.constructor.name, status: error.status ?? null, message: String(error) };
    }
    console.log(JSON.stringify(told));
  }
}

main();
