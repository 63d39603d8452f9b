/* Practice: an item with a known verdict. What is expected comes with the answer to the verdict, and
 * stays on the screen until a key or a press goes on. */
"use strict";

(() => {
  const { t, say, locale, outbox, supply, drafts } = Whetstone;

  Whetstone.practice = (() => {
    let root = null;
    let part = {};
    let shown = null; // what is on the screen
    let answered = null; // the item whose verdict was given, until one goes on
    let told = null; // what the server said of it; null while that is on its way

    function mount(page, parts) {
      root = page;
      part = parts;
    }

    /** Another item is on the screen, or none. */
    function show(item) {
      shown = item;
      if (item !== answered) answered = null;
      paint();
    }

    const isAnswered = (item) => answered !== null && answered === item;

    /** The verdict on an item was given; `reply` resolves with what the server says, or null. */
    async function answer(item, reply) {
      answered = item;
      told = null;
      paint();
      const found = (await reply)?.practice ?? { agrees: undefined };
      if (!isAnswered(item)) return;
      told = found;
      paint();
      say(`${part.practice_title.textContent} ${part.practice_text.textContent}`);
    }

    function goOn() {
      if (!answered) return;
      drafts.forget(answered.lease_id);
      answered = null;
      supply.next();
    }

    const expected = () => t({ 0: "verdict.a", 1: "verdict.b" }[told.expected_place] ?? "verdict.tie");

    function title() {
      if (!isAnswered(shown)) return t("practice.hint");
      if (!told) return t(outbox.state === "offline" ? "practice.offline" : "practice.checking");
      if (told.agrees === undefined) return t("practice.unknown");
      return t(told.agrees ? "practice.agrees" : "practice.differs", { verdict: expected() });
    }

    function paint() {
      if (!root) return;
      const isPractice = Boolean(shown?.practice);
      part.practice.hidden = !isPractice;
      delete root.dataset.expected;
      if (!isPractice) return;
      const isDone = isAnswered(shown) && told !== null && told.agrees !== undefined;
      part.practice.dataset.outcome = !isDone ? "open" : told.agrees ? "agrees" : "differs";
      part.practice_number.textContent = t("practice.number", { n: shown.practice.number, total: shown.practice.total });
      part.practice_title.textContent = title();
      part.practice_next.hidden = !isAnswered(shown);
      part.practice_text.hidden = !isDone;
      if (isDone) {
        Whetstone.prose.fill(part.practice_text, told.explanation);
        if (told.expected_place !== null) root.dataset.expected = String(told.expected_place);
      } else part.practice_text.textContent = "";
    }

    outbox.onChange(() => answered && !told && paint());
    locale.onChange(paint);

    return { mount, show, isAnswered, answer, goOn };
  })();
})();
