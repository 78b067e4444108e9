// Keeps an open page up to date: fetches its own URL every few seconds with the last ETag, and
// merges the changes. A hidden tab fetches nothing.

"use strict";

{
  const base = document.body.dataset.root;
  const words = {
    live: "Live",
    reconnecting: "Reconnecting…",
    away: "Redis cannot be used",
    off: "Not updated",
  };
  let etag = '""';
  let stop = null;                     // ends the polling

  // Random, so that many pages do not poll at once.
  const pause = () => (document.querySelector("[data-running]") ? 1000 : 2000 + 3000 * Math.random());

  async function poll(left, wait) {
    while (!left.aborted) {
      if (wait) await new Promise((done) => setTimeout(done, pause()));
      wait = true;
      const state = left.aborted || await refresh();
      if (!left.aborted) show(state);
    }
  }

  function begin(wait) {
    if (stop || document.hidden) return;
    const left = new AbortController();
    stop = () => { left.abort(); stop = null; };
    if (wait) show("live");            // the page is new
    poll(left.signal, wait);
  }

  function show(state) {
    const place = document.getElementById("live");  // a status: read aloud whenever it changes
    if (place && place.textContent !== words[state]) place.textContent = words[state];
    if (place) place.dataset.state = state;
  }

  async function refresh() {
    const headers = { "If-None-Match": etag };
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers, signal: AbortSignal.timeout(10_000) });
      if (answer.redirected && new URL(answer.url).pathname === `${base}/login`) reopen();
      else if (answer.ok) {
        update(new DOMParser().parseFromString(await answer.text(), "text/html"));
        etag = answer.headers.get("ETag") ?? '""';
      }
      // A router's own 503 has no X-Request-Id.
      if (answer.status === 503 && answer.headers.has("X-Request-Id")) return "away";
      return answer.status < 500 ? "live" : "reconnecting";
    } catch {
      return "reconnecting";
    }
  }

  // Not reload(), which would submit a form a second time.
  const reopen = () => location.replace(location.pathname + location.search);

  function update(page) {
    if (!document.querySelector("main :is(form, [data-live])") && page.querySelector("main [data-live]")) {
      reopen();  // this page is the error page, and Redis is back
    }
    const focused = document.activeElement;
    const tails = [...document.querySelectorAll("#output pre")].filter(
      (tail) => tail.scrollHeight - tail.scrollTop - tail.clientHeight < 8,
    );
    for (const region of document.querySelectorAll("[data-live]")) {
      const next = page.getElementById(region.id);
      if (next) merge(region, next);
    }
    if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    for (const tail of tails) tail.scrollTop = tail.scrollHeight;
    document.title = page.title;
  }

  // Change `old` into `next`, and keep equal elements: focus, selection, checked boxes and typed text
  // belong to the elements and are not in the HTML.
  function merge(old, next) {
    if (old.isEqualNode(next)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) { old.data = next.data; return; }
    for (const { name, value } of next.attributes) {
      if (!own(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!own(name) && !next.hasAttribute(name)) old.removeAttribute(name);
    }
    const kept = new Set([...next.childNodes].map(key).filter(Boolean));
    for (const child of [...old.childNodes]) if (key(child) && !kept.has(key(child))) child.remove();
    let at = old.firstChild;
    for (const child of next.childNodes) {
      let same = at;
      while (same && (same.nodeName !== child.nodeName || key(same) !== key(child))) same = same.nextSibling;
      if (!same) old.insertBefore(document.importNode(child, true), at);
      else if (same === at) at = at.nextSibling;
      else if (old.moveBefore) old.moveBefore(same, at);  // keeps focus; insertBefore lets it go
      else old.insertBefore(same, at);
      if (same) merge(same, child);
    }
    while (at) { const rest = at; at = at.nextSibling; rest.remove(); }
  }

  // Attributes that the reader or app.js changes.
  const own = (attribute) => attribute === "open" || attribute === "hidden";

  // A row is identified by its link. A row that moves keeps its focus and its box, so that nobody
  // pauses the schedule that took another one's place.
  function key(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    if (node.id) return node.id;
    return node.matches("tr, li") ? node.querySelector("a[href]")?.getAttribute("href") ?? "" : "";
  }

  // ---- begin ------------------------------------------------------------------------------------

  const choice = "rq-clock-live";
  const stored = () => { try { return localStorage.getItem(choice); } catch { return null; } };
  const button = document.createElement("button");

  function choose(wait = false) {
    const off = stored() === "off";
    button.textContent = off ? "Update live" : "Stop updating";
    if (off) { stop?.(); show("off"); } else begin(wait);
  }

  button.type = "button";
  button.className = "quiet";
  button.addEventListener("click", () => {
    localStorage.setItem(choice, stored() === "off" ? "on" : "off");
    choose();
  });
  if (document.querySelector("header nav")) {  // only with a login
    document.getElementById("live")?.after(button);
    addEventListener("storage", (event) => { if (event.key === choice) choose(); });
    document.addEventListener("visibilitychange", () => { if (document.hidden) stop?.(); else choose(); });
    addEventListener("pageshow", (event) => { if (event.persisted) choose(); });
    choose(true);
  }
}
