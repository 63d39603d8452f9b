/* A short tour for whoever sees the compare page for the first time. It stands beside what it speaks
 * of and is in nobody's way: a verdict ends it and judges. */
"use strict";

(() => {
  const { t, remembered, locale, keys, outbox } = Whetstone;

  const GAP = 10;
  const MARGIN = 12;

  Whetstone.tour = (() => {
    let root = null;
    let box = null;
    let part = {};
    let steps = []; // those whose anchor is on the page now
    let at = -1;
    let before = null; // what had the focus
    let isOffered = false;

    const isOn = () => at >= 0;
    const key = () => `tour.${outbox.owner}`;
    const isVisible = (node) => node !== null && node.offsetParent !== null;

    function mount(page, parts) {
      root = page;
      part = parts;
      box = part.tour;
      box.querySelector("[data-act=tour_next]").addEventListener("click", next);
      box.querySelector("[data-act=tour_end]").addEventListener("click", end);
    }

    /** Shown once for each person in each browser, as soon as there is something to judge. */
    function offer() {
      if (isOffered || !outbox.owner) return;
      const isSeen = remembered.get(key()) === "seen";
      if (!isSeen && (document.querySelector("dialog[open]") || !isVisible(part.figures))) return;
      isOffered = true;
      if (!isSeen) start();
    }

    /** What is said, and beside what; {keys} of the kind at hand are those that work now. */
    function allSteps() {
      const { kind, scale } = root.dataset;
      const verdict = { pair: scale, ranking: "ranking", rating: "rating" }[kind];
      const guidelines = isVisible(part.guidelines_button);
      return [
        { name: "see", anchor: part.conversation },
        { name: `judge_${verdict}`, anchor: root.querySelector(`.ws-verdicts[data-for-kind=${kind}]${kind === "pair" ? `[data-for-scale=${scale}]` : ""}`) },
        { name: "undo", anchor: root.querySelector(".ws-bar-tools [data-act=undo]") },
        { name: "doubt", anchor: root.querySelector(".ws-bar-tools [data-act=skip]") },
        { name: guidelines ? "guidelines" : "progress", anchor: guidelines ? part.guidelines_button : part.figures },
      ];
    }

    function start() {
      steps = allSteps().filter(({ anchor }) => isVisible(anchor));
      if (!steps.length) return;
      before = document.activeElement;
      at = 0;
      box.hidden = false;
      paint();
      box.querySelector("[data-act=tour_next]").focus({ preventScroll: true });
    }

    function next() {
      if (at + 1 >= steps.length) end();
      else {
        at += 1;
        paint();
      }
    }

    function end() {
      if (!isOn()) return;
      unmark();
      at = -1;
      remembered.set(key(), "seen");
      const hadFocus = box.contains(document.activeElement);
      box.hidden = true;
      if (!hadFocus) return;
      if (before?.isConnected && before !== document.body) before.focus({ preventScroll: true });
      else document.activeElement.blur();
    }

    function unmark() {
      for (const node of root.querySelectorAll("[data-toured]")) delete node.dataset.toured;
    }

    function paint() {
      if (!isOn()) return;
      const { name, anchor } = steps[at];
      unmark();
      anchor.dataset.toured = "";
      const printed = (id) => keys.printed(`page.${id}`);
      const values = Object.fromEntries(["undo", "skip", "why", "flag", "guidelines", "keys"].map((id) => [id, printed(id)]));
      const scale = root.dataset.scale;
      for (const verdict of ["a", "b", "tie", "both_bad"]) values[verdict] = keys.printed(`${scale}.${verdict}`);
      if (scale === "seven_point") for (const verdict of ["a3", "b3"]) values[verdict] = keys.printed(`${scale}.${verdict}`);
      part.tour_title.textContent = t(`tour.${name}.title`);
      const isTouch = matchMedia("(hover: none)").matches;
      const text = isTouch && t(`tour.${name}.touch`) !== `tour.${name}.touch` ? `tour.${name}.touch` : `tour.${name}.text`;
      part.tour_text.textContent = t(text, values);
      part.tour_count.textContent = t("tour.count", { n: at + 1, total: steps.length });
      const label = box.querySelector("[data-act=tour_next] [data-t]");
      label.dataset.t = at + 1 < steps.length ? "tour.next" : "tour.done";
      label.textContent = t(label.dataset.t);
      anchor.scrollIntoView({ block: "nearest" });
      place();
    }

    /** Beside its anchor, where there is more room, and within the window; never on the verdicts. */
    function place() {
      if (!isOn()) return;
      const node = steps[at].anchor;
      const anchor = node.getBoundingClientRect();
      const beside = (node.closest(".ws-bar") ?? node).getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = box;
      const isBelow = innerHeight - beside.bottom > beside.top;
      const top = isBelow ? beside.bottom + GAP : beside.top - GAP - height;
      const left = anchor.left + anchor.width / 2 - width / 2;
      box.style.top = `${Math.max(MARGIN, Math.min(top, innerHeight - height - MARGIN))}px`;
      box.style.left = `${Math.max(MARGIN, Math.min(left, innerWidth - width - MARGIN))}px`;
    }

    /** Whether the key was the tour's. */
    function onKey(event) {
      if (!isOn()) return false;
      if (event.key === "Escape") end();
      else if (event.key === "Enter" && !event.target.closest?.("button, a, input, textarea, summary")) next();
      else return false;
      return true;
    }

    addEventListener("resize", place);
    document.addEventListener("scroll", place, { capture: true, passive: true });
    locale.onChange(paint);
    keys.onChange(paint);

    return { mount, offer, start, end, onKey };
  })();
})();
