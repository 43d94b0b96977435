// What pages do beyond plain HTML. Every page works without it.

const copied = "Copied";

async function write(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Pages served over plain http have no clipboard API.
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function offerCopying(button) {
  const source = document.getElementById(button.dataset.copy);
  const label = button.querySelector("[data-label]") ?? button;
  const before = label.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await write(source.textContent.trim());
    label.textContent = copied;
    announce(copied);
    setTimeout(() => { label.textContent = before; }, 2000);
  });
}

export function announce(text) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}

// Times are sent in UTC; a reader's own zone is nicer.
const TIMES = "time[data-to], time[data-day]";
function localise(time) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) return;
  // A day is one of the brand's calendar, the same for every reader: only its spelling is theirs.
  const style = time.dataset.day === undefined
    ? { dateStyle: "medium", timeStyle: { minute: "short", second: "medium" }[time.dataset.to] }
    : { dateStyle: "medium", timeZone: "UTC" };
  time.title = time.textContent;
  time.textContent = new Intl.DateTimeFormat(undefined, style).format(at);
}

function offerShowing(input) {
  const wrapper = document.createElement("div");
  wrapper.className = "password";
  input.replaceWith(wrapper);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Show";
  button.setAttribute("aria-label", "Show password");
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const show = input.type === "password";
    input.type = show ? "text" : "password";
    button.textContent = show ? "Hide" : "Show";
    button.setAttribute("aria-pressed", String(show));
  });
  wrapper.append(input, button);
}

// Several code samples in one place: one is shown, the others are a click or an arrow key away. A language chosen in one
// place is chosen in all others of the page, and on the next page.
const LANGUAGE = "language";
const bars = [];

function remembered() {
  try { return localStorage.getItem(LANGUAGE); } catch { return null; }
}

function remember(language) {
  try { localStorage.setItem(LANGUAGE, language); } catch { /* the reader's browser keeps nothing */ }
}

function offerChoosing(bar) {
  const tabs = [...bar.querySelectorAll("button")];
  const show = (chosen) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    }
  };
  const choose = (chosen) => {
    const language = chosen.dataset.language;
    show(chosen);
    if (!language) return;
    const top = chosen.getBoundingClientRect().top;
    remember(language);
    for (const other of bars) if (other.bar !== bar) other.speak(language);
    window.scrollBy(0, chosen.getBoundingClientRect().top - top); // what was chosen stays where it was
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }
  const named = (language) => tabs.find((tab) => tab.dataset.language && tab.dataset.language === language);
  bars.push({ bar, speak: (language) => { const tab = named(language); if (tab) show(tab); } });
  bar.hidden = false;
  show(named(remembered()) ?? tabs[0]);
}

function closeMenusOnLeaving() {
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
}

// A part of a page that is fetched again every few seconds while somebody looks at it and has not paused it. Whoever is
// signed out, or no longer a member, is asked nothing more; a server that is away is asked less often. A part that says
// by a tag what it shows is sent again only when that differs; its new rows are marked for a moment.
const LIVE_EVERY_MS = 5_000;
const LIVE_AWAY_MS = 30_000;
const GONE = new Set([0, 401, 403, 404]);

async function refreshed(part) {
  const headers = part.dataset.liveTag ? { "If-None-Match": part.dataset.liveTag } : {};
  try {
    const answer = await fetch(part.dataset.live, { redirect: "manual", headers }); // a redirect (to sign in) has status 0
    if (answer.ok) {
      const text = await answer.text();
      if (part.contains(document.activeElement) || part.dataset.paused) return answer.status; // a focused link stays
      replaceWith(part, text);
      part.dataset.liveTag = answer.headers.get("ETag") ?? "";
    }
    return answer.status;
  } catch {
    return 503;
  }
}

function replaceWith(part, text) {
  const rows = () => [...part.querySelectorAll("[data-row]")];
  const known = new Set(rows().map((row) => row.dataset.row));
  part.innerHTML = text;
  for (const row of rows()) row.classList.toggle("fresh", !known.has(row.dataset.row));
  part.querySelectorAll(TIMES).forEach(localise);
  part.querySelectorAll("[data-copy]").forEach(offerCopying);
}

function looking(part) {
  const on = () => !document.hidden && !part.dataset.paused;
  if (on()) return Promise.resolve();
  return new Promise((resolve) => {
    const back = () => {
      if (!on()) return;
      document.removeEventListener("visibilitychange", back);
      part.removeEventListener("resumed", back);
      resolve();
    };
    document.addEventListener("visibilitychange", back);
    part.addEventListener("resumed", back);
  });
}

async function keepLive(part) {
  const every = () => Number(part.dataset.liveMs) || LIVE_EVERY_MS;
  let wait = every();
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    await looking(part);
    if (!part.isConnected || !part.dataset.live) return;
    const status = await refreshed(part);
    if (GONE.has(status)) return;
    wait = status === 200 || status === 304 ? every() : LIVE_AWAY_MS;
  }
}

function offerPausing(button) {
  const part = document.getElementById(button.dataset.liveSwitch);
  button.hidden = false;
  button.addEventListener("click", () => {
    const live = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(live));
    if (live) delete part.dataset.paused; else part.dataset.paused = "yes";
    part.dispatchEvent(new Event("resumed"));
    announce(live ? "Live" : "Paused");
  });
}

document.querySelectorAll("[data-live-switch]").forEach(offerPausing);
document.querySelectorAll("[data-live]").forEach(keepLive);
document.querySelectorAll("[data-copy]").forEach(offerCopying);
document.querySelectorAll(TIMES).forEach(localise);
document.querySelectorAll('input[type="password"]').forEach(offerShowing);
document.querySelectorAll('[role="tablist"]').forEach(offerChoosing);
closeMenusOnLeaving();
document.querySelector(".nav-list [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone it scrolls

// What is typed beside a choice chooses it: data-chooses="NAME=VALUE".
for (const input of document.querySelectorAll("[data-chooses]")) {
  const [name, value] = input.dataset.chooses.split("=");
  input.addEventListener("input", () => { if (input.value) input.form.elements[name].value = value; });
}

// A form is sent once, however often its button is pressed.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    setTimeout(() => { delete form.dataset.sent; }, 5000);
  });
}
