/* The leads' tabs: buttons inside our own HTML become events, destructive ones ask first.
 *
 * Pages are drawn on the server, in the person's language; nothing here makes HTML out of text.
 */
"use strict";

window.WhetstoneLeads ??= (() => {
  const NEAR = 8; // pixels that a hand moves while it presses

  /** `element` stays while its content is drawn again, so one listener serves all its buttons. */
  function mount(element, trigger) {
    element.addEventListener("pointerdown", (event) => {
      const button = event.target.closest("button");
      if (button && event.button === 0) finish(element, button, event);
    });
    element.addEventListener("click", async (event) => {
      const button = event.target.closest("button");
      if (!button || !element.contains(button) || button.disabled) return;
      if (button.dataset.copy !== undefined) return copy(button);
      if (button.dataset.act === undefined) return;
      if (button.dataset.ask && !(await ask(button.dataset))) return;
      button.dataset.busy = document.activeElement === button ? "focused" : "";
      button.disabled = true;
      button.setAttribute("aria-busy", "true");
      const { act, key = "", field = "" } = button.dataset;
      trigger("click", { act, key, text: document.getElementById(field)?.value ?? "" });
    });
    keepFocus(element);
  }

  /** Of a button that is drawn anew, or moves, while it is held down no click comes by itself. */
  function finish(element, pressed, down) {
    const over = new AbortController();
    const { signal } = over;
    document.addEventListener("pointercancel", () => over.abort(), { signal }); // now a scroll
    document.addEventListener(
      "pointerup",
      (up) => {
        over.abort();
        const released = up.target.closest?.("button");
        if (released === pressed) return;
        const stayed = Math.hypot(up.clientX - down.clientX, up.clientY - down.clientY) <= NEAR;
        if (stayed || (released && isSame(pressed, released))) again(element, pressed)?.click();
      },
      { signal },
    );
  }

  const does = ({ dataset }) => [dataset.act, dataset.key, dataset.copy].map((part) => part ?? "");

  /** Both do something, and the same. */
  const isSame = (one, other) =>
    does(one).some(Boolean) && does(one).every((part, at) => part === does(other)[at]);

  /** The button itself, or what was drawn in its place; nothing where it is no longer offered. */
  const again = (element, button) =>
    button.isConnected
      ? button
      : [...element.querySelectorAll("button")].find((other) => isSame(button, other));

  /** Who works by keyboard goes on from where they were when the area is drawn again. */
  function keepFocus(element) {
    let held = null;
    element.addEventListener("focusin", (event) => {
      held = event.target.closest("button");
    });
    element.addEventListener("focusout", async (event) => {
      const left = held;
      await null; // of one that is being taken away this is told while it is still there
      const wasTaken = !left?.isConnected || left.disabled || !document.hasFocus();
      if (held === left && (event.relatedTarget || !wasTaken)) held = null;
    });
    new MutationObserver(() => {
      if (!held || held.isConnected) return;
      const next = again(element, held);
      held = null;
      if (document.activeElement !== document.body) return;
      if (next && !next.disabled) return next.focus({ preventScroll: true });
      element.tabIndex = -1; // not to another button: what it does was not what they were about
      element.focus({ preventScroll: true });
    }).observe(element, { childList: true, subtree: true });
  }

  /** A static area is translated in the browser (words.js); its tab is drawn anew by the server. */
  function mountStatic(element, trigger) {
    mount(element, trigger);
    const isHead = element.querySelector(".wsl-head") !== null;
    if (isHead) heads.set(element, () => trigger("click", {}));
  }

  const heads = new Map();

  /** The language was switched: the tab in front is drawn anew, others when they come to the front. */
  function redraw() {
    for (const [element, trigger] of heads) if (element.offsetParent !== null) trigger();
  }

  const t = (key) => window.Whetstone.t(key);

  /** An event has been answered. What was refused must be pressable again. */
  function settle() {
    for (const button of document.querySelectorAll("button[data-busy]")) {
      button.disabled = false;
      const isLeft = button.dataset.busy === "focused" && document.activeElement === document.body;
      if (isLeft) button.focus({ preventScroll: true });
      button.removeAttribute("data-busy");
      button.removeAttribute("aria-busy");
    }
  }

  async function copy(button) {
    const label = button.querySelector("code") ?? button;
    const shown = label.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      label.textContent = t("response.copied");
    } catch {
      label.textContent = t("response.copy_failed");
    }
    setTimeout(() => {
      label.textContent = shown;
    }, 1200);
  }

  /** Resolves to whether the person said yes; Escape and a click outside mean no. */
  function ask({ ask: question, askTitle, askYes }) {
    const dialog = document.createElement("dialog");
    dialog.className = "ws-dialog wsl-ask";
    dialog.id = "wsl-ask";
    const title = document.createElement("h2");
    title.textContent = askTitle || t("ask.sure");
    const text = document.createElement("p");
    text.textContent = question;
    const row = document.createElement("div");
    row.className = "wsl-ask-row";
    const no = choice(t("ask.no"), "");
    const yes = choice(askYes || t("ask.yes"), "yes");
    yes.classList.add("wsl-button-danger");
    yes.id = "wsl-ask-yes";
    row.append(no, yes);
    dialog.append(title, text, row);
    dialog.setAttribute("aria-label", title.textContent);

    function choice(label, value) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "wsl-button";
      button.textContent = label;
      button.addEventListener("click", () => dialog.close(value));
      return button;
    }

    return new Promise((done) => {
      dialog.addEventListener("click", (event) => {
        if (event.target === dialog) dialog.close("");
      });
      dialog.addEventListener("close", () => {
        dialog.remove();
        done(dialog.returnValue === "yes");
      });
      document.body.append(dialog);
      dialog.showModal();
      no.focus();
    });
  }

  // Gradio shows a bare "Error" when a session has ended, and took hold of `fetch` before this
  // script came: read the answers off the browser's own record, say what happened and what to do.
  new PerformanceObserver((seen) => {
    const isRefused = (entry) =>
      entry.responseStatus === 401 && entry.name.includes("/gradio_api/");
    if (seen.getEntries().some(isRefused)) sayEnded();
  }).observe({ type: "resource", buffered: true });

  function sayEnded() {
    if (document.getElementById("wsl-ended")) return;
    const notice = document.createElement("div");
    notice.className = "wsl-ended";
    notice.id = "wsl-ended";
    notice.setAttribute("role", "alert");
    notice.append(`${t("ask.ended")} `);
    const link = document.createElement("a");
    link.href = "/login";
    link.textContent = t("banner.sign_in");
    notice.append(link);
    document.body.append(notice);
  }

  return { mount, mountStatic, redraw, settle };
})();
