// A backend's own caller, written with fetch alone as code in a Convex action is.
import assert from "node:assert/strict";

async function post(path, body) {
  const answer = await fetch(process.env.MAYFLY_URL + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.MAYFLY_KEY}` },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw Object.assign(new Error("failed"), { status: answer.status, ...(await answer.json()) });
  return answer;
}

async function fetchEmbeddingBatch(texts) {
  const { data } = await (await post("/v1/embeddings", {
    model: "text-embedding-ada-002", input: texts.map((text) => text.replace(/\n/g, " ")) })).json();
  assert.equal(data.length, texts.length);
  return data.sort((a, b) => a.index - b.index).map((entry) => entry.embedding);
}

async function chat(body) {
  const { choices } = await (await post("/v1/chat/completions", body)).json();
  return choices[0];
}

// Splits at "\n\n" and knows neither "\r" nor comments that aren't lines of their own.
async function* stream(body) {
  const answer = await post("/v1/chat/completions", { ...body, stream: true });
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of answer.body) {
    rest += decoder.decode(bytes, { stream: true });
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block === "data: [DONE]") return;
      if (block.startsWith("data: ")) yield JSON.parse(block.slice(6)).choices[0]?.delta?.content ?? "";
    }
  }
  throw new Error("the stream ended without [DONE]");
}

async function whole(body) {
  let text = "";
  for await (const piece of stream(body)) {
    assert.ok(!piece.includes("\ufffd"), "half a character arrived");
    text += piece;
  }
  return text;
}

const vectors = await fetchEmbeddingBatch(["Alice is\na baker.", "Bob likes trees.", ""]);
assert.deepEqual(vectors.map((vector) => vector.length), [384, 384, 384]);
for (const vector of vectors) assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-3);

const count = [{ role: "system", content: "You are Alice." }, { role: "user", content: "count" }];
const stopped = await chat({ model: "gpt-3.5-turbo", messages: count, stop: ["three", "\nAlice:"], temperature: 0 });
assert.deepEqual([stopped.message.content, stopped.finish_reason], ["one two ", "stop"]);
const one = await chat({ model: "gpt-3.5-turbo", messages: count, max_tokens: 1 });
assert.deepEqual([one.message.content, one.finish_reason], ["one ", "length"]);
assert.equal(await whole({ model: "gpt-3.5-turbo", messages: count }), "one two three four");
assert.equal(await whole({ messages: [{ role: "user", content: "greet" }] }), "你好😀");
await assert.rejects(chat({ model: "gpt-9", messages: count }),
  (failure) => failure.status === 404 && failure.error.code === "model_not_found");
console.log("fetch ok");
