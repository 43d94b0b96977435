// Does one thing with the openai SDK and prints what came of it as one line of JSON.
// node ask.mjs BASE_URL KEY '{"what": "chat", "body": {…}, "options": {…}}'
import OpenAI from "openai";

const [baseURL, apiKey, wish] = process.argv.slice(2);
const { what, body, options } = JSON.parse(wish);
let asked = 0;
const client = new OpenAI({
  baseURL,
  apiKey,
  ...options,
  fetch: (url, init) => {
    asked += 1;
    return fetch(url, init);
  },
});

const does = {
  async chat() {
    const answer = await client.chat.completions.create(body);
    return { id: answer.id, text: answer.choices[0].message.content, usage: answer.usage, request: answer._request_id };
  },
  async stream() {
    let text = "";
    let chunks = 0;
    let usage = null;
    try {
      for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
        chunks += 1;
        text += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
    } catch (error) {
      error.chunks = chunks;
      throw error;
    }
    return { text, chunks, usage };
  },
  async response() {
    const answer = await client.responses.create(body);
    return { ...told(answer), id: answer.id, request: answer._request_id };
  },
  async responseStream() {
    let text = "";
    let thought = "";
    const stream = client.responses.stream(body);
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
      if (event.type === "response.reasoning_text.delta") thought += event.delta;
    }
    const final = await stream.finalResponse();
    return { ...told(final), final: final.output_text, text, thought };
  },
  async models() {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    return { found };
  },
  async embeddings() {
    const answer = await client.embeddings.create(body);
    return { vectors: answer.data.length, numbers: answer.data[0].embedding.length };
  },
};

function told(response) {
  const parts = response.output.flatMap((item) => item.content ?? []);
  const calls = response.output.filter((item) => item.type === "function_call").map((item) => item.name);
  const thought = parts.find((part) => part.type === "reasoning")?.text ?? "";
  const { status, usage, output_text: text } = response;
  return { status, usage, text, thought, calls, parts: parts.map((part) => part.type) };
}

try {
  console.log(JSON.stringify({ ...(await does[what]()), asked }));
} catch (error) {
  const { name, status, code, param, type, requestID, message, chunks } = error;
  const kind = error.constructor.name;
  console.log(JSON.stringify({ error: { kind, name, status, code, param, type, requestID, message, chunks }, asked }));
}
