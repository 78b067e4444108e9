// Keeps open pages as they are on the server. One tab of a browser listens to /events for all its
// tabs, since HTTP/1.1 gives a host six connections, and the seventh tab would wait for ever. Each
// tab that shows a region which has changed fetches its own URL again and takes over what differs.

"use strict";

{
  const base = document.body.dataset.root;
  const name = `rq-clock ${base}`;
  const words = {
    live: "Live",
    polling: "Updated every 5 s",
    reconnecting: "Reconnecting…",
    away: "Redis cannot be used",
    off: "Not updated",
  };
  const channel = "BroadcastChannel" in window ? new BroadcastChannel(name) : null;
  const turn = document.createElement("button");
  let state = "";
  let leave = null;                    // ends what `begin` has begun

  // ---- who listens ------------------------------------------------------------------------------

  // A hidden tab does nothing, so a browser's work is that of what is looked at.
  function begin() {
    if (leave || document.hidden) return;
    const left = new AbortController();
    leave = () => { left.abort(); leave = null; state = ""; };
    if (!navigator.locks || !channel) {  // browsers have locks for https and localhost alone
      poll(left.signal);
      return;
    }
    channel.postMessage({ hello: true });
    // Held for as long as we listen; who waits is next when this tab is closed, hidden or dead.
    navigator.locks.request(name, { signal: left.signal }, () => listen(left.signal)).catch(() => {});
  }

  function listen(left) {
    let source, silence, trouble, later;
    const tell = (message) => { channel.postMessage(message); hear(message); };
    const answer = ({ data }) => { if (data.hello && state) tell({ state, again: true }); };

    function connect() {
      source = new EventSource(`${base}/events`);
      source.addEventListener("store", ({ data }) => {
        alive();
        tell({ state: data === "up" ? "live" : "away" });
      });
      source.addEventListener("changed", ({ data }) => { alive(); tell({ changed: data.split(" ") }); });
      source.addEventListener("ping", () => { alive(); tell({ changed: ["clock"] }); });
      source.onerror = () => {
        // Streams end now and then, and are back at once: nothing to worry anybody with.
        trouble ??= setTimeout(() => tell({ state: "reconnecting" }), 2000);
        // To an answer that is no stream, as a router's 503, the browser does not come back. Or
        // nobody is logged in any more: then the page itself leads to the login.
        if (source.readyState === EventSource.CLOSED) {
          later = setTimeout(connect, 3000);
          refresh();
        }
      };
    }

    // A connection that was cut without a word looks like one on which nothing happens.
    function alive() {
      clearTimeout(trouble);
      trouble = null;
      clearTimeout(silence);
      silence = setTimeout(() => { source.close(); tell({ state: "reconnecting" }); connect(); }, 40_000);
    }

    connect();
    channel.addEventListener("message", answer);
    return new Promise((done) => left.addEventListener("abort", () => {
      source.close();
      for (const timer of [silence, trouble, later]) clearTimeout(timer);
      channel.removeEventListener("message", answer);
      done();
    }));
  }

  async function poll(left) {
    while (!left.aborted) {
      show(await refresh() ? "polling" : "reconnecting");
      await new Promise((done) => setTimeout(done, 5000));
    }
  }

  function hear(message) {
    if (!leave) return;
    if (message.state) {
      const known = message.again && message.state === state;
      show(message.state);
      if (state === "live" && !known) refresh();  // what has changed before, nobody has told
    }
    const shown = (region) => document.querySelector(`[data-region~="${region}"]`);
    if (message.changed?.some(shown)) refresh();
  }

  function show(now) {
    state = now;
    const place = document.getElementById("live");  // a status: read aloud whenever it changes
    if (place && place.textContent !== words[now]) place.textContent = words[now];
    if (place) place.dataset.state = now;
  }

  // ---- what has changed -------------------------------------------------------------------------

  let fetching = false, again = false;

  // At most one at a time, and one a second. Whether the server has answered.
  async function refresh() {
    if (fetching || document.hidden) { again = fetching; return true; }
    fetching = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
      if (answer.redirected && new URL(answer.url).pathname === `${base}/login`) anew();
      else if (answer.ok) take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      return answer.status < 500;
    } catch {
      return false;
    } finally {
      setTimeout(() => { fetching = false; if (again) { again = false; refresh(); } }, 1000);
    }
  }

  // Not reload(), which would send again what a form has sent.
  const anew = () => location.replace(location.pathname + location.search);

  function take(page) {
    const regions = [...document.querySelectorAll("[data-region]")];
    if (!document.querySelector("main :is(form, [data-region])") && page.querySelector("main [data-region]")) {
      anew();  // this one says that Redis is away, and that is over
    }
    const focused = document.activeElement;
    const tails = [...document.querySelectorAll("[data-region~=output] pre")].filter(
      (tail) => tail.scrollHeight - tail.scrollTop - tail.clientHeight < 8,
    );
    for (const region of regions) {
      const same = `[data-region="${region.dataset.region}"]`;
      const place = [...document.querySelectorAll(same)].indexOf(region);
      const next = region.id ? page.getElementById(region.id) : page.querySelectorAll(same)[place];
      if (next) merge(region, next);
    }
    if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    for (const tail of tails) tail.scrollTop = tail.scrollHeight;
    document.title = page.title;
  }

  // Make `old` what `next` is, and leave alone what is the same: so focus, a selection, boxes that
  // are checked and words that are typed stay, which belong to the elements and are not in the HTML.
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
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  }

  // What the reader, or app.js, has opened or uncovered.
  const own = (attribute) => attribute === "open" || attribute === "hidden";

  // Rows are what they lead to: one that moves takes its focus and its box along, so that nobody
  // pauses the schedule that has come to where another one was.
  function key(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    if (node.id) return node.id;
    return node.matches("tr, li") ? node.querySelector("a[href]")?.getAttribute("href") ?? "" : "";
  }

  // ---- begin ------------------------------------------------------------------------------------

  const choice = "rq-clock-live";
  const stored = () => { try { return localStorage.getItem(choice); } catch { return null; } };

  function choose() {
    turn.textContent = stored() === "off" ? "Update live" : "Stop updating";
    if (stored() === "off") { leave?.(); show("off"); } else begin();
  }

  turn.type = "button";
  turn.className = "quiet";
  turn.addEventListener("click", () => {
    localStorage.setItem(choice, stored() === "off" ? "on" : "off");
    choose();
  });
  if (document.querySelector("header nav")) {  // who is not logged in may not listen
    document.getElementById("live")?.after(turn);
    channel?.addEventListener("message", ({ data }) => hear(data));
    addEventListener("storage", (event) => { if (event.key === choice) choose(); });
    document.addEventListener("visibilitychange", () => { if (document.hidden) leave?.(); else choose(); });
    addEventListener("pageshow", (event) => { if (event.persisted) choose(); });
    choose();
  }
}
