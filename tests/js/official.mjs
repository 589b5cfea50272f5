// The official npm client of OpenAI, as programs use it.
import assert from "node:assert/strict";
import OpenAI from "openai";

const connect = (options) => new OpenAI({ baseURL: `${process.env.MAYFLY_URL}/v1`, apiKey: process.env.MAYFLY_KEY, ...options });
const client = connect({ maxRetries: 0 });
const count = [{ role: "user", content: "count" }];
const counted = "one two three four";

// It always asks for base64 and always decodes: 96 numbers would mean that the answer was floats.
const input = ["The cat sat on the mat.", "", "你好😀"];
const made = await client.embeddings.create({ model: "text-embedding-3-small", input });
const plain = await client.embeddings.create({ model: "all-MiniLM-L6-v2", input, encoding_format: "float" });
let furthest = 0;
made.data.forEach(({ embedding, index }, row) => {
  assert.equal(index, row);
  assert.equal(embedding.length, 384);
  embedding.forEach((number, at) => (furthest = Math.max(furthest, Math.abs(number - plain.data[row].embedding[at]))));
});
assert.ok(furthest < 1e-6, `base64 and float differ by ${furthest}`);

const text = await client.completions.create({ model: "gpt-3.5-turbo", prompt: "count", max_tokens: 3 });
assert.equal(text.choices[0].text, "one two three ");
assert.equal(text.usage.completion_tokens, 3);
let pieces = "";
for await (const chunk of await client.completions.create({ model: "played", prompt: "count", stream: true })) {
  pieces += chunk.choices[0].text;
}
assert.equal(pieces, counted);

const chat = await client.chat.completions.create({ model: "gpt-4o-mini", messages: count, n: 2 });
assert.deepEqual(chat.choices.map((choice) => choice.message.content), [counted, counted]);
const chunks = [];
const options = { model: "played", messages: count, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(options)) chunks.push(chunk);
assert.equal(chunks.pop().usage.completion_tokens, 4);
assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), counted);
assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
const greet = { model: "played", messages: [{ role: "user", content: "greet" }] };
const final = await client.chat.completions.stream(greet).finalChatCompletion();
assert.equal(final.choices[0].message.content, "你好😀");
const { data, response } = await client.chat.completions.create(greet).withResponse();
assert.equal(data.choices[0].message.content, "你好😀");
assert.ok(response.headers.get("x-request-id"));
const again = { model: "played", messages: [...greet.messages, data.choices[0].message, ...greet.messages] };
assert.equal((await client.chat.completions.create(again)).choices[0].message.content, "你好😀");

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert.deepEqual(ids, ["all-MiniLM-L6-v2", "played"]);
assert.equal((await client.models.retrieve("played")).object, "model");

// A key that isn't needed isn't looked at; where one is, as through a tunnel, a wrong one is refused.
for await (const model of connect({ apiKey: "a-wrong-key" }).models.list()) assert.ok(ids.includes(model.id));
await assert.rejects(connect({ apiKey: "a-wrong-key", defaultHeaders: { Via: "1.1 tunnel" } }).models.list(),
  OpenAI.AuthenticationError);
await assert.rejects(client.chat.completions.create({ model: "gpt-9", messages: count }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ model: "played", messages: count, seed: 1 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "seed");

console.log(`openai of npm ok on node ${process.version}: 384 numbers, base64 and float differ by at most ${furthest}`);
