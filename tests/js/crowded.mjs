// The official npm client at a service with one place and no queue: RateLimitError at once, or patience.
import assert from "node:assert/strict";
import OpenAI from "openai";

const connect = (maxRetries) => new OpenAI({ baseURL: `${process.env.MAYFLY_URL}/v1`, apiKey: process.env.MAYFLY_KEY, maxRetries });
const slow = { model: "played", messages: [{ role: "user", content: "slow" }] };

const stream = await connect(0).chat.completions.create({ ...slow, stream: true });
await stream[Symbol.asyncIterator]().next();
await assert.rejects(connect(0).chat.completions.create(slow),
  (error) => error instanceof OpenAI.RateLimitError && Number(error.headers.get("retry-after")) >= 1);
stream.controller.abort();
const answers = await Promise.all([1, 2, 3].map(() => connect(8).chat.completions.create(slow)));
assert.deepEqual(answers.map((answer) => answer.choices[0].message.content), ["abcd", "abcd", "abcd"]);
console.log("3 calls at once, one place: all answered");
