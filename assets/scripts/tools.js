/* Small tools of the page's scripts, and the object through which these know each other.
 *
 * Text goes into the page as text; only the server's sanitised HTML goes in as HTML.
 */
"use strict";

(() => {
  // What the scripts share; each adds its noun. `me` is who is signed in, null until it is known.
  window.Whetstone = { me: null };
  // What came with the page is as old as the page: everything else is asked for under its version.
  const SCRIPT_URL = new URL(document.currentScript.src);
  Whetstone.assetUrl = (path) => new URL(`../${path}${SCRIPT_URL.search}`, SCRIPT_URL);

  /** A UUID of version 7 (RFC 9562): milliseconds, then chance. See `store/ids.py` for why. */
  function uuid() {
    const b = crypto.getRandomValues(new Uint8Array(16)); // there without https too
    new DataView(b.buffer).setBigUint64(0, (BigInt(Date.now()) << 16n) | BigInt((b[6] << 8) | b[7]));
    b[6] = (b[6] & 0x0f) | 0x70;
    b[8] = (b[8] & 0x3f) | 0x80;
    const hex = [...b].map((x) => x.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  }

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") node.addEventListener("click", value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /** The one place where HTML enters the page. The browser's own sanitiser is a second lock. */
  function setSanitisedHtml(node, html) {
    if (node.setHTML) node.setHTML(html, { sanitizer: {} });
    else node.innerHTML = html;
  }

  /** Choices kept in the browser. A private window may refuse; they then last as long as the page. */
  const remembered = {
    get: (key) => attempted(() => localStorage.getItem(`whetstone.${key}`)),
    set: (key, value) => attempted(() => localStorage.setItem(`whetstone.${key}`, value)),
    getForWindow: (key) => attempted(() => sessionStorage.getItem(`whetstone.${key}`)),
    remove: (key) => attempted(() => localStorage.removeItem(`whetstone.${key}`)),
    keys: (prefix) =>
      attempted(() =>
        Object.keys(localStorage)
          .filter((key) => key.startsWith(`whetstone.${prefix}`))
          .map((key) => key.slice("whetstone.".length)),
      ) ?? [],
    setForWindow: (key, value) => attempted(() => sessionStorage.setItem(`whetstone.${key}`, value)),
  };

  function attempted(action) {
    try {
      return action() ?? null;
    } catch {
      return null;
    }
  }

  /** Runs once the page has answered the key press, however often it is asked for meanwhile. */
  function deferred(action) {
    let isQueued = false;
    return () => {
      if (isQueued) return;
      isQueued = true;
      setTimeout(() => {
        isQueued = false;
        action();
      });
    };
  }

  const MAX_BACKOFF_MS = 15_000;

  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const backoff = (attempt) =>
    Math.min(MAX_BACKOFF_MS, 400 * 2 ** attempt) * (0.75 + Math.random() / 2);

  /** Tell it to everyone, and to screen readers without taking the focus. */
  function say(text) {
    const region = document.getElementById("ws-live");
    if (region) region.textContent = text;
  }

  Object.assign(window.Whetstone, {
    uuid,
    el,
    setSanitisedHtml,
    remembered,
    deferred,
    wait,
    backoff,
    say,
  });
})();
