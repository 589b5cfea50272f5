// Ollama's own client from npm, and the AI SDK through a provider for Ollama. MAYFLY_BASE is the service, or has a key in its
// path; where it has, each call looks as if it came through a tunnel.
import assert from "node:assert/strict";
import { embedMany, generateText, streamText } from "ai";
import { Ollama } from "ollama";
import { createOllama } from "ollama-ai-provider-v2";

const base = process.env.MAYFLY_BASE;
const headers = base === process.env.MAYFLY_URL ? {} : { "X-Forwarded-For": "203.0.113.9" };
const client = new Ollama({ host: base, headers });
const count = [{ role: "user", content: "count" }];
const counted = "one two three four";
const text = "The cat sat on the mat.";

const { models } = await client.list();
assert.ok(models.some((model) => model.name === "llama3:latest" && model.details.parameter_size));
assert.equal((await client.show({ model: "all-minilm" })).capabilities[0], "embedding");
assert.ok((await client.ps()).models.length >= 2);
assert.match((await client.version()).version, /^\d+\.\d+\.\d+$/);

const { embeddings } = await client.embed({ model: "all-minilm", input: [text, "More."] });
assert.deepEqual(embeddings.map((vector) => vector.length), [384, 384]);
assert.deepEqual((await client.embeddings({ model: "mxbai-embed-large", prompt: text })).embedding, embeddings[0]);

assert.equal((await client.chat({ model: "llama3.2", messages: count })).message.content, counted);
let said = "", last;
for await (const part of await client.chat({ model: "llama3.2", messages: count, stream: true })) {
  said += part.message.content;
  last = part;
}
assert.equal(said, counted);
assert.ok(last.done && last.eval_count === 4);
said = "";
for await (const part of await client.generate({ model: "played", prompt: "greet", stream: true })) said += part.response;
assert.equal(said, "你好😀");
const slow = await client.chat({ model: "played", messages: [{ role: "user", content: "slow" }], stream: true });
await assert.rejects(async () => {
  for await (const part of slow) slow.abort();
}, { name: "AbortError" });
await assert.rejects(client.chat({ model: "nobody", messages: count }), /^ResponseError: model 'nobody' not found$/);
await assert.rejects(async () => {
  for await (const part of await client.chat({ model: "played", messages: [{ role: "user", content: "crash" }],
    stream: true })) assert.ok(part.message);
}, /The model process died/);

const options = { Authorization: `Bearer ${process.env.MAYFLY_KEY}` };
const keeper = new Ollama({ host: process.env.MAYFLY_URL, headers: options });
assert.equal((await keeper.pull({ model: "all-minilm" })).status, "success");
const statuses = [];
for await (const part of await keeper.pull({ model: "llama3", stream: true })) statuses.push(part.status);
assert.equal(statuses.at(-1), "success");
const name = `copied-${process.pid}`;
assert.equal((await keeper.copy({ source: "played", destination: name })).status, "success");
assert.equal((await keeper.delete({ model: name })).status, "success");

const provider = createOllama({ baseURL: `${base}/api`, headers });
const made = await generateText({ model: provider("llama3.2"), prompt: "count", maxRetries: 0 });
assert.equal(made.text, counted);
said = "";
for await (const part of streamText({ model: provider("llama3.2"), prompt: "greet" }).textStream) said += part;
assert.equal(said, "你好😀");
const many = await embedMany({ model: provider.embedding("all-minilm"), values: [text, "More."] });
assert.deepEqual(many.embeddings[0], embeddings[0]);
console.log("ollama of npm and the AI SDK ok");
