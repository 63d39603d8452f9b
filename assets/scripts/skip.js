/* The dialog that asks why something cannot be judged; a number chooses, "other" takes a text. */
"use strict";

(() => {
  const { keys, VERDICTS } = Whetstone;

  const REASONS = ["too_long", "off_topic", "not_my_language", "need_expertise", "broken", "other"];

  /** For one page and its parts; `whenGiven` gets the verdict with its reason. */
  Whetstone.makeSkip = (whenGiven) => {
    let part = {};

    function mount(parts) {
      part = parts;
      for (const button of part.skip.querySelectorAll("[data-reason]")) {
        button.addEventListener("click", () => choose(button.dataset.reason));
      }
      part.skip.addEventListener("keydown", onKey);
      part.skip_form.addEventListener("submit", sendOther);
    }

    function open() {
      part.skip_form.reset();
      part.skip_form.hidden = true;
      part.skip.showModal();
    }

    function onKey(event) {
      if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest("input, textarea")) return;
      const reason = REASONS[Number(keys.read(event)) - 1];
      if (!reason) return;
      event.preventDefault();
      choose(reason);
    }

    /** Chromium leaves the focus in a closed dialog until it paints: the next key would go there. */
    function close() {
      part.skip.close();
      if (part.skip.contains(document.activeElement)) document.activeElement.blur();
    }

    function choose(reason) {
      if (reason === "other") {
        part.skip_form.hidden = false;
        part.skip_text.focus();
        return;
      }
      close();
      whenGiven({ ...VERDICTS.skip, reason });
    }

    function sendOther(event) {
      event.preventDefault();
      const text = part.skip_text.value.trim();
      close();
      whenGiven({ ...VERDICTS.skip, reason: text ? `other: ${text}` : "other" });
    }

    return { mount, open };
  };
})();
