// The playground: a chat through the gateway itself, with a key of minutes that only this page's memory holds.

import { announce } from "./portal.js";
import { addressed, snippets } from "./snippets.js";

const form = document.getElementById("playground");
const facts = form?.dataset;
const part = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty"];
const KEY_SPARE_MS = 30_000; // a call must begin well within its key's life
const BOOKED_TRIES = 15;
const talk = []; // {role, content}
let key = null;
let running = null;

class Said extends Error {} // what a reader is told as it stands

// The key ------------------------------------------------------------------------------------------------------------

function token() {
  return form.querySelector("[name=csrfmiddlewaretoken]").value;
}

async function secretNow(fresh) {
  if (!fresh && key && Date.now() < key.until - KEY_SPARE_MS) return key.secret;
  const answer = await fetch(facts.keyUrl, { method: "POST", headers: { "X-CSRFToken": token() }, redirect: "manual" });
  if (answer.status === 0) throw new Said("You are signed out. Sign in again in another window, then send once more.");
  if (answer.status === 429) throw new Said("Too many keys were made for the playground just now. Try again in some minutes.");
  if (answer.status === 503) throw new Said((await answer.json()).problem);
  if (!answer.ok) throw new Said("Your role in this account does not allow calls any more.");
  const { secret, seconds } = await answer.json();
  key = { secret, until: Date.now() + seconds * 1000 };
  return secret;
}

function leave() {
  if (running) running.abort();
  if (!key) return;
  key = null;
  const body = new FormData();
  body.append("csrfmiddlewaretoken", token());
  navigator.sendBeacon(facts.closeUrl, body);
}

// The call -----------------------------------------------------------------------------------------------------------

function asked(extra = []) {
  const system = part("system").value.trim();
  const body = { model: part("model").value, messages: [...talk, ...extra] };
  if (system) body.messages.unshift({ role: "system", content: system });
  for (const name of NUMBERS) {
    const value = part(name).valueAsNumber;
    if (!Number.isNaN(value)) body[name] = value;
  }
  const stop = part("stop_at").value;
  if (stop) body.stop = stop;
  return body;
}

async function sent(body, signal) {
  for (let attempt = 0; ; attempt += 1) {
    const { url, headers } = addressed(`${facts.baseUrl}/chat/completions`, facts.scheme, await secretNow(attempt > 0));
    const answer = await fetch(url, {
      method: "POST",
      credentials: "omit",
      headers: { ...headers, "Content-Type": "application/json", "x-include": "cost" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    if (answer.status !== 401 || attempt) return answer; // its key may have been replaced by another window's
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const frames = waiting.split(/\r?\n\r?\n/);
    waiting = frames.pop();
    for (const frame of frames) {
      const data = frame.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length && data[0] !== "[DONE]") yield JSON.parse(data.join("\n"));
    }
  }
}

function problemOf(status, body, wait) {
  const error = typeof body?.error === "object" ? body.error : body;
  const said = error?.message ? ` ${error.message}` : "";
  if (status === 402 || error?.code === "insufficient_quota") return { words: `There is no balance or quota left for this call.${said}`, money: true };
  if (status === 429) return { words: `A limit is reached.${said}${wait ? ` Try again in ${wait} s.` : ""}`, money: true };
  if (status === 401) return { words: `The playground's key was not taken.${said}` };
  if (status === 403) return { words: `This account may not do that.${said}` };
  if (status >= 500) return { words: `The model's engine did not answer.${said || " Try again in a moment."}` };
  return { words: `The gateway did not take the call.${said}` };
}

// The page -----------------------------------------------------------------------------------------------------------

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function link(href, text) {
  const made = element("a", "", text);
  made.href = href;
  return made;
}

function shown(role, who, text) {
  part("talk-empty").hidden = true;
  const turn = element("article", `turn turn-${role}`);
  turn.append(element("p", "turn-who", who), element("div", "turn-text", text));
  part("talk").append(turn);
  follow();
  return turn;
}

function follow() {
  part("talk").scrollTop = part("talk").scrollHeight;
}

function thought(turn, text) {
  let place = turn.querySelector("details p");
  if (!place) {
    const details = element("details");
    place = element("p");
    details.append(element("summary", "", "Reasoning"), place);
    turn.querySelector(".turn-text").before(details);
  }
  place.textContent += text;
}

function foot(turn, pieces, callId) {
  turn.querySelector(".turn-foot")?.remove();
  const made = element("p", "turn-foot");
  made.append(...pieces.filter(Boolean).map((text) => element("span", "", text)));
  if (callId) made.append(" ", link(`${facts.requestsUrl}?id=${callId}`, "Explain"));
  turn.append(made);
  follow();
}

// Exact, with at least the two decimals of every other page.
const dollars = (cost) => {
  const [whole, fraction = ""] = String(cost).split(".");
  return `${whole}.${fraction.padEnd(2, "0")}`;
};
const lasted = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
const counted = (read, written) => `${read.toLocaleString()} → ${written.toLocaleString()} tokens`;

function used(turn, usage, call) {
  const price = usage.cost === undefined ? "" : `${facts.symbol}${dollars(usage.cost)}`;
  const first = call.first ? `first token ${lasted(call.first - call.began)}` : "";
  const all = lasted(performance.now() - call.began);
  foot(turn, [counted(usage.prompt_tokens, usage.completion_tokens), price, first, all], call.id);
}

// What was stopped, or broke, says nothing of its cost: the books do, a moment later.
async function awaitBooks(turn, callId, word) {
  foot(turn, [`${word}: counting what was written…`], callId);
  for (let tries = 0; tries < BOOKED_TRIES && turn.isConnected; tries += 1) {
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    const answer = await fetch(`${facts.callUrl}?id=${callId}`, { redirect: "manual" }).catch(() => null);
    const call = answer?.ok ? await answer.json() : {};
    if (call.booked) return foot(turn, [word, counted(call.input_tokens, call.output_tokens), call.cost], callId);
  }
  return foot(turn, [`${word}; what it cost will be under Requests`], callId);
}

function failed(turn, { words, money }, callId) {
  const notice = element("p", "notice notice-bad", words);
  notice.setAttribute("role", "alert");
  if (money) notice.append(" ", link(facts.balanceUrl, "Balance"), " ", link(facts.limitsUrl, "Limits"));
  turn.append(notice);
  if (callId) foot(turn, ["Request"], callId);
  follow();
}

function busy(on) {
  part("send").disabled = on;
  part("clear").disabled = on;
  part("stop").hidden = !on;
}

// One answer, from the message that is asked to its last word.
async function answered(message) {
  const question = { role: "user", content: message };
  const body = asked([question]);
  shown("user", "You", message);
  const turn = shown("assistant", body.model, "");
  turn.classList.add("turn-writing");
  const call = { began: performance.now(), first: 0, id: "", text: "", usage: null };
  running = new AbortController();
  busy(true);
  try {
    await received(await sent(body, running.signal), turn, call);
    if (call.usage) used(turn, call.usage, call); else await awaitBooks(turn, call.id, "Done");
    announce("The answer is complete.");
  } catch (error) {
    troubled(error, turn, call);
  } finally {
    turn.classList.remove("turn-writing");
    running = null;
    busy(false);
  }
  if (call.text) talk.push(question, { role: "assistant", content: call.text });
  else part("message").value ||= message; // to be sent again
  retell();
}

async function received(answer, turn, call) {
  call.id = answer.headers.get("x-request-id") ?? "";
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw Object.assign(new Error("refused"), { problem: problemOf(answer.status, body, answer.headers.get("retry-after")) });
  }
  const place = turn.querySelector(".turn-text");
  for await (const event of events(answer.body)) {
    if (event.error) throw Object.assign(new Error("broken"), { problem: problemOf(502, event), began: true });
    const delta = event.choices?.[0]?.delta ?? {};
    const thinks = delta.reasoning_content ?? delta.reasoning;
    if ((thinks || delta.content) && !call.first) call.first = performance.now();
    if (typeof thinks === "string") thought(turn, thinks);
    if (delta.content) {
      call.text += delta.content;
      place.append(delta.content);
      follow();
    }
    if (event.usage) call.usage = event.usage;
  }
}

function troubled(error, turn, call) {
  if (error.name === "AbortError") {
    announce("Stopped.");
    if (call.id) awaitBooks(turn, call.id, "Stopped"); else foot(turn, ["Stopped before it began"], "");
  } else if (error.problem) {
    failed(turn, error.problem, call.id);
    if (error.began) awaitBooks(turn, call.id, "Broken off");
  } else if (error instanceof Said) failed(turn, { words: error.message }, "");
  else failed(turn, { words: "The gateway cannot be reached. Look at your connection, then try again." }, call.id);
}

// The same call in other words, as the form stands.
function retell() {
  const message = part("message").value.trim() || (talk.length ? "And now?" : "Say hello.");
  const body = asked([{ role: "user", content: message }]);
  const texts = snippets({ baseUrl: facts.baseUrl, scheme: facts.scheme, secret: facts.placeholder, body });
  for (const [name, text] of Object.entries(texts)) {
    const place = part(`text-${name}`);
    if (place) place.textContent = text;
  }
}

function send() {
  const message = part("message").value.trim();
  if (!message || running || !form.reportValidity()) return;
  part("message").value = "";
  answered(message);
}

function bound() {
  part("max_tokens").max = part("model").selectedOptions[0].dataset.max;
}

if (form) {
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  form.addEventListener("input", retell);
  part("model").addEventListener("change", bound);
  part("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  part("stop").addEventListener("click", () => running?.abort());
  part("clear").addEventListener("click", () => {
    talk.length = 0;
    part("talk").querySelectorAll(".turn").forEach((turn) => turn.remove());
    part("talk-empty").hidden = false;
    retell();
    part("message").focus();
  });
  addEventListener("pagehide", leave);
  bound();
  retell();
}
