/* The header bar, the tabs, and the start of the page. */
"use strict";

(() => {
  const { call, windows, wait, backoff, locale, theme, outbox, supply } = Whetstone;

  const OPENING_TRIES = 600;
  const OPENING_LOOKS = 5;
  const OPENING_PAUSE_MS = 100;
  const PRESSED_LOOKS = 5;

  const headers = new Set();

  function mountHeader(element) {
    const root = element.querySelector(".ws-header");
    headers.add(root);
    root.querySelector("[data-act=theme]").addEventListener("click", theme.toggle);
    root.querySelector("[data-act=language]").addEventListener("click", locale.toggle);
    locale.translate(root);
    paintHeaders();
    watchTabs();
    Whetstone.words.start();
    start();
  }

  function paintHeaders() {
    for (const root of headers) {
      root.querySelector("[data-part=name]").textContent = Whetstone.me?.name ?? "";
      root.querySelector("[data-part=sign_out]").hidden = !Whetstone.me?.can_sign_out;
    }
  }

  async function watchTabs() {
    let bar = null; // Gradio may draw it after the header
    while (!(bar = document.querySelector("[role=tablist]"))) await wait(OPENING_PAUSE_MS);
    locale.translateTabs();
    new MutationObserver(locale.translateTabs).observe(bar.parentElement, {
      childList: true,
      subtree: true,
      characterData: true,
    });
    window.WhetstonePresses.listener = openPressed;
    addEventListener("hashchange", openTab);
    new MutationObserver(rememberTab).observe(bar.parentElement, {
      subtree: true,
      attributeFilter: ["aria-selected"],
    });
    if (window.WhetstonePresses.tab) openPressed();
    else openTab();
  }

  let pressed = null; // the tab that a person wants, until it is in front

  /** Gradio opens what is pressed, unless it did not listen yet: then what is pressed counts too. */
  async function openPressed() {
    const name = nameOf(window.WhetstonePresses.tab);
    if (!name) return;
    pressed = name;
    putInAddress(name);
    for (let looks = 0; looks < PRESSED_LOOKS && pressed === name; looks++) {
      await wait(OPENING_PAUSE_MS);
      if (isInFront(name)) break;
      if (looks === PRESSED_LOOKS - 1) await openTab();
    }
    if (pressed === name) pressed = null;
  }

  /** Bring the tab to the front that the address names; Gradio draws a tab before it listens. */
  async function openTab() {
    const name = inAddress();
    let looks = 0; // at the tab in front, one after the other
    for (let tries = 0; tries < OPENING_TRIES && name === inAddress(); tries++) {
      if (looks === OPENING_LOOKS) return;
      looks = isInFront(name) ? looks + 1 : 0;
      if (looks === 0) clickTab(name);
      await wait(OPENING_PAUSE_MS);
    }
  }

  /** On a narrow page the tab may be in the menu, where only what it shows can tell. */
  function isInFront(name) {
    const tab = document.getElementById(`tab-${name}-button`);
    if (tab && tab.getAttribute("aria-selected") !== "true") return false;
    const shown = (other) => document.getElementById(`tab-${other}`)?.checkVisibility() ?? false;
    return shown(name) && (name === "compare" || !shown("compare"));
  }

  /** Nothing happens when there is no such tab yet; on a narrow page it may be in the menu. */
  function clickTab(name) {
    const inMenu = [...document.querySelectorAll("#ws-tabs .overflow-dropdown button")].find(
      (button) => nameOf(button) === name,
    );
    (document.getElementById(`tab-${name}-button`) ?? inMenu)?.click();
  }

  /** The tab that a button opens, be it in the bar or in the menu of a narrow page. */
  function nameOf(button) {
    const name = /^tab-(.+)-button$/.exec(button.id)?.[1];
    return name ?? locale.tabKey(button)?.slice("tab.".length).replaceAll("_", "-");
  }

  /** The address names the tab in front, so that a reload or a bookmark finds it again. */
  function rememberTab() {
    const selected = document.querySelector("#ws-tabs [role=tab][aria-selected=true]");
    if (selected && !pressed) putInAddress(nameOf(selected));
  }

  const inAddress = () => location.hash.slice(1) || "compare";

  function putInAddress(name) {
    if (name) history.replaceState(null, "", name === "compare" ? location.pathname : `#${name}`);
  }

  let isStarted = false;

  async function start() {
    if (isStarted) return;
    isStarted = true;
    locale.load();
    for (let attempt = 0; Whetstone.me === null; attempt++) {
      try {
        Whetstone.me = await call("GET", "/api/me");
      } catch (error) {
        if (error.isSignedOut) {
          location.assign("/login");
          return;
        }
        await wait(backoff(attempt));
      }
    }
    paintHeaders();
    Whetstone.keys.open(Whetstone.me.id);
    Whetstone.compare.setProject();
    windows?.postMessage({ signedIn: Whetstone.me.id });
    // An undo on its way decides what is open here, so what is unsent goes first, but not for long.
    const sent = outbox.open(Whetstone.me.id, Whetstone.me.name);
    Whetstone.drafts.open();
    await Promise.race([sent, wait(3000)]);
    supply.refill();
  }

  locale.onChange(() => headers.forEach((root) => locale.translate(root)));

  // One browser has one session: somebody else signed in here makes this window theirs too.
  windows?.addEventListener("message", ({ data }) => {
    if (!data.signedIn || Whetstone.me === null || data.signedIn === Whetstone.me.id) return;
    isLeavingToSignIn = true;
    location.reload();
  });

  let isLeavingToSignIn = false;
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a[href='/login']")) isLeavingToSignIn = true;
  });
  addEventListener("beforeunload", (event) => {
    if (outbox.unsent().length && !isLeavingToSignIn) event.preventDefault();
  });

  Whetstone.mountHeader = mountHeader;
})();
