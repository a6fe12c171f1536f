// What the server's pages need of a browser: live updates, local times, curves, logs, the theme.
"use strict";

// --- live: one stream while the page can be seen; each event has the live parts fetched again, at most once a second
const live = { source: null, due: false, last: 0 };
const digests = new Map(); // element's id -> digest of what it shows, so that the server can answer "the same"

function connect() {
  if (live.source || document.hidden || !document.querySelector("[data-live], [hx-trigger*='star:change']")) return;
  live.source = new EventSource("/events");
  live.source.addEventListener("change", changed);
  live.source.onopen = () => away(false);
  live.source.onerror = () => {
    away(true);
    if (live.source?.readyState === EventSource.CLOSED) { // an answer that was no stream: browsers do not try again by themselves
      disconnect();
      setTimeout(connect, 3000);
    }
  };
}

function disconnect() {
  live.source?.close();
  live.source = null;
}

function changed() {
  if (live.due) return;
  live.due = true;
  setTimeout(() => {
    live.due = false;
    live.last = Date.now();
    htmx.trigger(document.body, "star:change");
    document.querySelectorAll(".chart[data-live]").forEach((chart) => draw(chart, true));
  }, Math.max(30, 1000 - (Date.now() - live.last)));
}

function away(is) {
  document.getElementById("away").hidden = !is;
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
window.addEventListener("pagehide", disconnect);

document.addEventListener("htmx:configRequest", (event) => {
  const known = digests.get(event.detail.elt.id);
  if (known && event.detail.triggeringEvent?.type === "star:change") event.detail.headers["X-Have"] = known;
});
document.addEventListener("htmx:afterRequest", (event) => {
  const digest = event.detail.xhr?.getResponseHeader("X-Digest");
  if (digest && event.detail.successful) digests.set((event.detail.target || event.detail.elt).id, digest);
});
document.addEventListener("htmx:sendError", () => away(true));
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.elt.dataset.keep !== undefined && event.detail.elt.querySelector(".loading"))
    event.detail.elt.innerHTML = "<p class='empty'>This part could not be read. It is tried again when something changes.</p>";
  else away(event.detail.xhr.status >= 500);
});
document.addEventListener("htmx:afterSettle", refresh);

// --- morphing: what the reader opened, chose or typed stays; parts that load themselves are left alone
function keepAsItIs(node) {
  return node.nodeType === 1 && node.dataset?.keep !== undefined;
}
Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) =>
  !(old.tagName === "TIME" && old.dateTime === fresh.dateTime) &&
  !(keepAsItIs(old) && fresh.nodeType === 1 && old.id === fresh.id && old.dataset.src === fresh.dataset.src && old.getAttribute("hx-get") === fresh.getAttribute("hx-get"));
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
  !((name === "open" && node.tagName === "DETAILS") || (name === "checked" && node.tagName === "INPUT"));
Idiomorph.defaults.ignoreActiveValue = true;

// --- times in the reader's zone
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });
function ago(then) {
  const seconds = Math.max(0, (Date.now() - then) / 1000);
  if (seconds < 5) return "now";
  for (const [unit, size] of [["s", 1], ["min", 60], ["h", 3600], ["days", 86400]].reverse())
    if (seconds >= size * (unit === "s" ? 1 : 1.5)) return `${Math.round(seconds / size)} ${unit} ago`;
  return `${Math.round(seconds)} s ago`;
}
function times() {
  document.querySelectorAll("time[datetime]").forEach((time) => {
    const then = new Date(time.dateTime), whole = clock.format(then);
    const text = time.dataset.since !== undefined ? ago(then) : whole;
    if (time.textContent !== text) time.textContent = text;
    time.title = whole;
  });
}
setInterval(times, 5000);

// --- curves
const PALETTE = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (value) => (value == null ? "–" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : +value.toPrecision(4) + "");

async function draw(chart, again = false) {
  if (chart.busy || typeof uPlot === "undefined") return;
  chart.busy = true;
  const plot = chart.querySelector(".plot");
  try {
    const answer = await fetch(chart.dataset.src);
    if (!answer.ok) throw new Error((await answer.json()).error || answer.statusText);
    const text = await answer.text();
    if (again && text === chart.shown) return;
    chart.shown = text;
    const data = JSON.parse(text);
    if (!data.x.length) { plot.innerHTML = "<p class='quiet'>Nothing is recorded yet.</p>"; return; }
    const many = data.series.length > 1, points = chart.dataset.points !== undefined;
    const series = data.series.map((one, i) => {
      const colour = css(PALETTE[i % PALETTE.length]), dots = points && !one.line;
      return { label: one.label, stroke: colour, width: 1.5, spanGaps: true, dash: DASHES[Math.floor(i / PALETTE.length) % 4],
        paths: dots ? () => null : undefined, points: { show: dots || data.x.length < 40, size: dots ? 6 : 4, fill: colour }, value: (_, v) => short(v) };
    });
    const axis = { stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "11px system-ui" };
    const size = { width: plot.clientWidth || 320, height: 210 };
    // choices among texts stand side by side, each at its place in the list
    const choices = data.choices?.length ? data.choices.map((one) => (one.length > 16 ? one.slice(0, 15) + "…" : one)) : null;
    const x = choices ? { time: false, range: [-0.5, choices.length - 0.5] } : { time: false, distr: data.log ? 3 : 1 };
    const across = choices ? { ...axis, splits: () => choices.map((_, i) => i), values: () => choices } : axis;
    const step = choices ? { label: data.step, value: (_, i) => (i == null ? "–" : data.choices[i]) } : { label: data.step };
    const columns = [data.x, ...data.series.map((one) => one.y)];
    chart.plot?.destroy();
    plot.textContent = "";
    chart.plot = new uPlot({ ...size, series: [step, ...series], scales: { x }, legend: { show: true, live: true },
      axes: [across, { ...axis, size: 56, values: (_, values) => values.map(short) }], cursor: { drag: { x: true, y: false } } }, columns, plot);
    plot.classList.toggle("many", many);
  } catch (error) {
    if (!again) plot.textContent = `This curve could not be read: ${error.message}`;
  } finally {
    chart.busy = false;
  }
}
const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (entry.isIntersecting && !entry.target.shown) draw(entry.target);
}), { rootMargin: "200px" });
function redraw() {
  document.querySelectorAll(".chart").forEach((chart) => { if (chart.shown) { chart.shown = null; draw(chart); } });
}
let resizing;
window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redraw, 200); });

// --- logs: the end first, then what is added
const LINES = 5000;
async function tail(box) {
  if (box.busy || document.hidden) return;
  box.busy = true;
  const pre = box.querySelector("pre");
  try {
    for (let more = true; more && box.isConnected; ) {
      const from = box.next === undefined ? "" : `?from=${box.next}`;
      const answer = await fetch(box.dataset.log + from);
      if (!answer.ok) return;
      const part = await answer.json();
      if (part.next < box.next) pre.textContent = "";
      box.next = part.next;
      more = part.more;
      if (part.skipped) pre.append(`… ${part.skipped} bytes left out …\n`);
      if (part.text) pre.append(part.text);
      const lines = pre.textContent.split("\n");
      if (lines.length > LINES * 1.2) pre.textContent = lines.slice(-LINES).join("\n");
      if (part.text && box.querySelector("input").checked) pre.scrollTop = pre.scrollHeight;
      if (!part.text) more = false;
    }
  } finally {
    box.busy = false;
  }
}
setInterval(() => document.querySelectorAll("[data-log]").forEach(tail), 1000);

// --- the theme, and forms that must not be sent twice
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it lasts as long as the page */ }
  redraw();
});
document.addEventListener("submit", (event) => {
  if (event.target.dataset.once === undefined) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
  event.target.querySelector("button").textContent = "Working…";
});

function refresh() {
  times();
  document.querySelectorAll(".chart").forEach((chart) => { if (!chart.watched) { chart.watched = true; seen.observe(chart); } });
  document.querySelectorAll("[data-log]").forEach(tail);
}
refresh();
connect();
