/* Copying text, from a button that says whether it worked. */
"use strict";

(() => {
  const { el, say, t, wait } = Whetstone;

  /** Copies the text; the button's word tells the outcome for a moment. */
  async function copy(text, button) {
    const label = button.querySelector("[data-t]");
    let outcome = "response.copied";
    try {
      if (navigator.clipboard) await navigator.clipboard.writeText(text);
      else copyTheOldWay(text, button);
    } catch {
      outcome = "response.copy_failed";
    }
    label.textContent = t(outcome);
    say(t(outcome));
    await wait(1200);
    label.textContent = t(label.dataset.t);
  }

  /** The clipboard interface exists on https and localhost only. */
  function copyTheOldWay(text, button) {
    const area = el("textarea", { class: "ws-visually-hidden" });
    area.value = text;
    button.after(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!isCopied) throw new Error("copy was refused");
  }

  Whetstone.clipboard = { copy };
})();
