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

function announce(text) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}

// Times are sent in UTC; a reader's own zone is nicer.
function localise(time) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) return;
  const style = { dateStyle: "medium", timeStyle: { minute: "short", second: "medium" }[time.dataset.to] };
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

// A part of a page that is fetched again every few seconds while somebody looks at it. Whoever is signed out, or no
// longer a member, is asked nothing more; a server that is away is asked less often.
const LIVE_EVERY_MS = 5_000;
const LIVE_AWAY_MS = 30_000;

async function refreshed(part) {
  try {
    const answer = await fetch(part.dataset.live, { redirect: "manual" }); // a redirect (to sign in) has status 0
    if (answer.ok) {
      const text = await answer.text();
      if (part.contains(document.activeElement)) return answer.status; // a link that has the focus keeps it
      part.innerHTML = text;
      part.querySelectorAll("time[data-to]").forEach(localise);
    }
    return answer.status;
  } catch {
    return 503;
  }
}

function looking() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", function back() {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", back);
      resolve();
    });
  });
}

async function keepLive(part) {
  let wait = LIVE_EVERY_MS;
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    await looking();
    const status = await refreshed(part);
    if ([0, 401, 403, 404].includes(status)) return;
    wait = status === 200 ? LIVE_EVERY_MS : LIVE_AWAY_MS;
  }
}

document.querySelectorAll("[data-live]").forEach(keepLive);
document.querySelectorAll("[data-copy]").forEach(offerCopying);
document.querySelectorAll("time[data-to]").forEach(localise);
document.querySelectorAll('input[type="password"]').forEach(offerShowing);
document.querySelectorAll('[role="tablist"]').forEach(offerChoosing);
closeMenusOnLeaving();

// A form is sent once, however often its button is pressed.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    setTimeout(() => { delete form.dataset.sent; }, 5000);
  });
}
