/* The list of keys, in a dialog, where each can be changed: press the button, then the new key. */
"use strict";

(() => {
  const { t, say, keys, locale } = Whetstone;

  /** For one page, and its dialog. */
  Whetstone.makeKeyList = () => {
    let dialog = null;
    let said = null;
    let waiting = null; // the button whose action gets the next key

    function mount(node, line) {
      dialog = node;
      said = line;
      for (const button of dialog.querySelectorAll("[data-rebind]")) {
        button.addEventListener("click", () => (waiting === button ? stop() : begin(button)));
        button.addEventListener("blur", () => waiting === button && stop());
      }
      dialog.querySelector("[data-part=keys_reset]").addEventListener("click", () => {
        keys.reset();
        tell(t("keys.reset_done"));
      });
      dialog.addEventListener("keydown", onKey, { capture: true });
      dialog.addEventListener("close", stop);
      paint();
    }

    const nameOf = (id) =>
      // Another page's keys may be in the way of one, under the name that its list gives them.
      [...document.querySelectorAll("[data-rebind]")]
        .find((button) => button.dataset.rebind === id)
        ?.closest("dd")
        .querySelector("[data-t]").textContent ?? t(`verdict.${id.slice(id.indexOf(".") + 1)}`);

    function begin(button) {
      waiting = button;
      tell(t("keys.press", { name: nameOf(button.dataset.rebind) }));
      paint();
    }

    function stop() {
      waiting = null;
      paint();
    }

    function onKey(event) {
      if (!waiting) return;
      if (["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock", "Process", "Dead"].includes(event.key)) return;
      if (event.isComposing || event.repeat || event.key === "Tab") return;
      event.preventDefault();
      event.stopPropagation();
      const button = waiting;
      stop();
      if (event.key === "Escape") {
        tell(t("keys.kept"));
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey) {
        tell(t("keys.no_modifiers"));
        return;
      }
      give(button.dataset.rebind, keys.read(event));
    }

    function give(id, key) {
      const { outcome, why, by, old } = keys.change(id, key);
      const told = { key: keys.sign(key), name: nameOf(id), other: by ? nameOf(by) : "", old: keys.sign(old ?? "") };
      if (outcome === "refused") tell(t(why, told));
      else tell(t({ changed: "keys.changed", swapped: "keys.swapped", same: "keys.kept" }[outcome], told));
    }

    function tell(text) {
      said.textContent = text;
      say(text);
    }

    function paint() {
      if (!dialog) return;
      for (const button of dialog.querySelectorAll("[data-rebind]")) {
        const isWaiting = button === waiting;
        button.setAttribute("aria-pressed", String(isWaiting));
        const label = button.querySelector("[data-t]");
        label.dataset.t = isWaiting ? "keys.press_short" : "keys.change";
        label.textContent = t(label.dataset.t);
        button.setAttribute("aria-label", t("keys.change_label", { name: nameOf(button.dataset.rebind) }));
      }
      dialog.querySelector("[data-part=keys_reset]").hidden = !keys.areOwn;
    }

    function show() {
      said.textContent = "";
      dialog.showModal();
      paint();
    }

    keys.onChange(paint);
    locale.onChange(paint);

    return { mount, show };
  };
})();
