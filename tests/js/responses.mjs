// The AI SDK with its provider for OpenAI as it is by default, which calls /v1/responses, and the official client's responses.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const baseURL = `${process.env.MAYFLY_URL}/v1`;
const apiKey = process.env.MAYFLY_KEY;
const openai = createOpenAI({ baseURL, apiKey });
const counted = "one two three four";

for (const name of ["played", "gpt-4o-mini"]) {
  const made = await generateText({ model: openai(name), system: "You are Ada.", prompt: "count", maxRetries: 0 });
  assert.equal(made.text, counted);
  assert.equal(made.finishReason, "stop");
  assert.equal(made.usage.outputTokens, 4);
}
const cut = await generateText({ model: openai("played"), prompt: "count", maxOutputTokens: 2, temperature: 0 });
assert.deepEqual([cut.text, cut.finishReason], ["one two ", "length"]);

const stream = streamText({ model: openai("played"), prompt: "greet" });
let said = "";
for await (const part of stream.textStream) said += part;
assert.equal(said, "你好😀");
assert.equal(await stream.finishReason, "stop");

// It calls a tool, and goes on with what came of it.
const inputSchema = jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] });
const weather = tool({ description: "Tells the weather.", inputSchema,
  execute: async ({ city }) => (city === "Oslo" ? "Snow." : "Sun.") });
const steps = { model: openai("played"), prompt: "What is the weather?", tools: { weather }, stopWhen: stepCountIs(3) };
const looked = await generateText(steps);
assert.deepEqual([looked.text, looked.steps.length], ["It snows.", 2]);
assert.deepEqual(looked.steps[0].toolCalls[0].input, { city: "Oslo" });
said = "";
for await (const part of streamText(steps).textStream) said += part;
assert.equal(said, "It snows.");

// A conversation of several turns: the items themselves, for nothing is kept.
const model = openai("played"), providerOptions = { openai: { store: false } };
const first = await generateText({ model, prompt: "count", providerOptions });
const messages = [{ role: "user", content: "go on" }, ...first.response.messages, { role: "user", content: "more" }];
assert.equal((await generateText({ model, messages, providerOptions, maxRetries: 0 })).text, "Hello there.");
await assert.rejects(generateText({ model, messages, maxRetries: 0 }), /store: false/);

await assert.rejects(generateText({ model: openai("nobody"), prompt: "count", maxRetries: 0 }), { statusCode: 404 });
const errors = [];
const crashed = streamText({ model: openai("played"), prompt: "crash", maxRetries: 0, onError: ({ error }) => errors.push(error) });
await crashed.consumeStream();
assert.match(String(errors[0]?.message ?? errors[0]), /died/);

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const response = await client.responses.create({ model: "played", input: "count" });
assert.equal(response.output_text, counted);
const types = [];
for await (const event of await client.responses.create({ model: "played", input: "count", stream: true })) types.push(event.type);
assert.deepEqual([types[0], types.at(-1)], ["response.created", "response.completed"]);
console.log("responses ok");
