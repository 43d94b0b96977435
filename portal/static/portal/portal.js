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
