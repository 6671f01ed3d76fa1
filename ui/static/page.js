// One EventSource for what changed, clocks that run, tooltips, and the theme. The page works without it.
"use strict";

const connection = document.getElementById("connection");

function say(text, kind) {
  connection.textContent = text;
  connection.className = "connection " + kind;
}

function listen() {
  const source = new EventSource(document.body.dataset.events);
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("changed", () => htmx.trigger(document.body, "changed"));
  source.addEventListener("error", () => {
    const refused = source.readyState === EventSource.CLOSED; // by another server: its token is another
    say(refused ? "refused: open the address that was printed last" : "not connected, trying again", "lost");
  });
  addEventListener("pagehide", () => source.close());
}

// A fresh part of the page must not take the keyboard's place away.
let focused = null;
document.addEventListener("htmx:oobBeforeSwap", (event) => {
  const active = document.activeElement;
  if (active && active.id && event.detail.target.contains(active)) focused = active.id;
  // What somebody has opened stays open.
  const open = [...event.detail.target.querySelectorAll("details")].map((each) => each.open);
  const fresh = event.detail.fragment.querySelectorAll("details");
  if (open.length === fresh.length) fresh.forEach((each, place) => (each.open = open[place]));
});
document.addEventListener("htmx:oobAfterSwap", () => {
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  focused = null;
});

// What was asked is in the journal now; the next decision has reasons of its own.
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && event.detail.elt.matches("form.act")) event.detail.elt.elements.reason.value = "";
});

// Clocks: what is said of a time goes on between two events, so that what hangs is seen to hang.
function since(seconds) {
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 60) return Math.round(seconds) + " s";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return minutes + " min " + String(Math.floor(seconds % 60)).padStart(2, "0") + " s";
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? hours + " h " + String(minutes % 60).padStart(2, "0") + " min" : Math.floor(hours / 24) + " d " + (hours % 24) + " h";
}
setInterval(() => {
  for (const each of document.querySelectorAll("time.ago"))
    each.textContent = since(Math.max(0, (Date.now() - Date.parse(each.dateTime)) / 1000));
}, 1000);

// Tooltips of charts: by mouse and by keyboard.
const tip = document.getElementById("tip");
function show(event) {
  const mark = event.target.closest?.(".pick");
  tip.hidden = true;
  if (!mark) return;
  const title = mark.querySelector(":scope > title"); // the browser would show it as well, a second later
  if (title) {
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = !tip.textContent;
  const place = mark.getBoundingClientRect();
  const left = Math.min(Math.max(8, place.x + place.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = place.y - tip.offsetHeight - 8;
  tip.style.left = left + "px";
  tip.style.top = (above > 8 ? above : place.bottom + 8) + "px";
}
for (const name of ["pointerover", "focusin"]) document.addEventListener(name, show);
addEventListener("scroll", () => (tip.hidden = true), true);
addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));

// The theme: as the system has it, until somebody chooses.
const root = document.documentElement;
const kept = localStorage.getItem("theme");
if (kept) root.dataset.theme = kept;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

document.getElementById("surface").addEventListener("change", (event) => event.target.form.submit());
for (const form of document.querySelectorAll("form.filters:not([hx-get])"))
  form.addEventListener("change", () => form.submit());

listen();
