// A chat call as a person would write it: for a shell, and for the openai SDKs. Pure.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const indented = (text, by) => text.replaceAll("\n", `\n${" ".repeat(by)}`);

const HEADERS = {
  bearer: (secret) => ["Authorization", `Bearer ${secret}`],
  "api-key": (secret) => ["Authorization", `Api-Key ${secret}`],
  "x-api-key": (secret) => ["X-API-Key", secret],
};

// Where a key goes: {url, headers}. A brand that takes no header takes it in the address.
export function addressed(url, scheme, secret) {
  const header = HEADERS[scheme];
  if (!header) return { url: `${url}?api_key=${encodeURIComponent(secret)}`, headers: {} };
  const [name, value] = header(secret);
  return { url, headers: { [name]: value } };
}

function curl(baseUrl, scheme, secret, body) {
  const { url, headers } = addressed(`${baseUrl}/chat/completions`, scheme, secret);
  const lines = [`curl ${quoted(url)}`];
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  lines.push("-H 'Content-Type: application/json'", `-d ${quoted(indented(JSON.stringify(body, null, 2), 2))}`);
  return lines.join(" \\\n  ");
}

// JSON's texts and numbers are Python's too; there are no others here but lists and objects.
function python(baseUrl, secret, body) {
  const rest = Object.entries(body).map(([name, value]) => `    ${name}=${indented(JSON.stringify(value, null, 4), 4)},\n`);
  return `from openai import OpenAI

client = OpenAI(
    base_url=${JSON.stringify(baseUrl)},
    api_key=${JSON.stringify(secret)},
)
answer = client.chat.completions.create(
${rest.join("")})
print(answer.choices[0].message.content)`;
}

function node(baseUrl, secret, body) {
  const rest = Object.entries(body).map(([name, value]) => `  ${name}: ${indented(JSON.stringify(value, null, 2), 2)},\n`);
  return `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: ${JSON.stringify(baseUrl)},
  apiKey: ${JSON.stringify(secret)},
});
const answer = await client.chat.completions.create({
${rest.join("")}});
console.log(answer.choices[0].message.content);`;
}

// By the names of the samples on the page.
export function snippets({ baseUrl, scheme, secret, body }) {
  return {
    curl: curl(baseUrl, scheme, secret, body),
    python: python(baseUrl, secret, body),
    node: node(baseUrl, secret, body),
  };
}
