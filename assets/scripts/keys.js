/* Which key does what: the defaults, what a person changed, and what is printed on the page.
 *
 * An action is named SCOPE.ACTION. The keys of `page` work beside those of the kind at hand, which
 * is a scale or a list to rank; two scales are never at hand together. Those of `arena` work beside
 * a scale. Numbers that answer criteria and
 * ratings, Enter, Escape and Tab are nobody's to give away.
 */
"use strict";

(() => {
  const { el, remembered } = Whetstone;

  const DEFAULTS = {
    "plain.a": ["1", "ArrowLeft"],
    "plain.b": ["2", "ArrowRight"],
    "plain.tie": ["3"],
    "plain.both_bad": ["0"],
    "seven_point.a3": ["1"],
    "seven_point.a": ["2", "ArrowLeft"],
    "seven_point.a1": ["3"],
    "seven_point.tie": ["4"],
    "seven_point.b1": ["5"],
    "seven_point.b": ["6", "ArrowRight"],
    "seven_point.b3": ["7"],
    "seven_point.both_bad": ["0"],
    "list.rank_tie": ["t"],
    "list.rank_out": ["x"],
    "list.not_rankable": ["0"],
    "page.skip": ["s"],
    "page.later": ["l"],
    "page.undo": ["u"],
    "page.raw": ["r"],
    "page.diff": ["d"],
    "page.expand": ["e"],
    "page.guidelines": ["g"],
    "page.why": ["w"],
    "page.flag": ["f"],
    "page.rewrite": ["i"],
    "page.criteria": ["c"],
    "page.keys": ["?"],
    "page.down": ["j", "ArrowDown"],
    "page.up": ["k", "ArrowUp"],
    "page.page_down": ["PageDown"],
    "page.page_up": ["PageUp"],
    "arena.again": ["a"],
    "arena.new": ["n"],
    "arena.list": ["o"],
    "arena.message": ["/"],
  };
  // Said beside the others, and never changed.
  const FURTHER = { "page.undo": ["Control+Z"], "page.criteria": ["Backspace"] };
  const SCALES = ["plain", "seven_point"];
  const SCOPES = [...SCALES, "list", "page", "arena"];
  const SIGNS = {
    ...{ ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Backspace: "⌫" },
    ...{ PageUp: "PgUp", PageDown: "PgDn", Delete: "Del", Insert: "Ins", "Control+Z": "Ctrl Z" },
  };
  const NAMED = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown"];
  const ALLOWED = new Set([...NAMED, "Home", "End", "Insert", "Delete"]);

  Whetstone.keys = (() => {
    let owner = null; // annotator id
    let bound = DEFAULTS;
    let actions = {}; // by scope, then by key
    const changed = new Set();

    const scopeOf = (id) => id.slice(0, id.indexOf("."));
    const nameOf = (id) => id.slice(id.indexOf(".") + 1);

    function index() {
      actions = Object.fromEntries(SCOPES.map((scope) => [scope, {}]));
      for (const [id, list] of Object.entries(bound)) {
        for (const key of list) actions[scopeOf(id)][key] = nameOf(id);
      }
    }

    /** Take in what this person changed in this browser; what makes no sense is left out. */
    function open(annotatorId) {
      owner = annotatorId;
      let kept = {};
      try {
        kept = JSON.parse(remembered.get(`keys.${owner}`) ?? "{}");
      } catch {
        /* Unreadable: the defaults. */
      }
      const known = Object.entries(kept).filter(
        ([id, list]) =>
          id in DEFAULTS && Array.isArray(list) && list.length > 0 && list.every((key) => !refusal(id, key)),
      );
      bound = { ...DEFAULTS, ...Object.fromEntries(known) };
      if (Object.keys(bound).some((id) => bound[id].some((key) => holder(id, key)))) bound = DEFAULTS;
      tell();
    }

    function tell() {
      index();
      changed.forEach((listener) => listener());
    }

    function keep() {
      const own = Object.entries(bound).filter(([id, list]) => list.join(" ") !== DEFAULTS[id].join(" "));
      if (own.length) remembered.set(`keys.${owner}`, JSON.stringify(Object.fromEntries(own)));
      else remembered.remove(`keys.${owner}`);
      tell();
    }

    /** The key of an event. On a keyboard of another script it is the one in that place. */
    function read(event) {
      const { key, code } = event;
      if (key.length !== 1) return key;
      if (/[a-z0-9]/i.test(key)) return key.toLowerCase();
      // Numbers need Shift on some keyboards; letters do not on any that has them.
      const digit = /^Digit(\d)$/.exec(code ?? "");
      if (digit && !event.shiftKey) return digit[1];
      const letter = /^Key([A-Z])$/.exec(code ?? "");
      if (letter && key > "\x7f") return letter[1].toLowerCase();
      return key;
    }

    /** What a key does where this scope is at hand; undefined when nothing. */
    const actionOf = (key, scope) => actions[scope]?.[key] ?? actions.page[key];

    /** Why a key cannot be given to an action, or null. */
    function refusal(id, key) {
      if (typeof key !== "string" || (key.length !== 1 && !ALLOWED.has(key)) || key === " ") return "keys.fixed";
      return /^[1-9]$/.test(key) && !SCALES.includes(scopeOf(id)) ? "keys.fixed_digit" : null;
    }

    function meet(a, b) {
      const [one, other] = [scopeOf(a), scopeOf(b)].sort();
      if (one === other || one === "page" || other === "page") return true;
      return one === "arena" && SCALES.includes(other);
    }

    /** Which other action that can be at hand beside it has this key, if any. */
    const holder = (id, key, list = bound) =>
      Object.keys(list).find((other) => other !== id && meet(id, other) && list[other].includes(key));

    /** Give an action another key in place of its first. An action that has it takes the old one. */
    function change(id, key) {
      const [old] = bound[id];
      const why = refusal(id, key);
      if (why) return { outcome: "refused", why };
      if (key === old) return { outcome: "same" };
      const swapped = { ...bound };
      const others = Object.keys(bound).filter((other) => other !== id && meet(id, other) && bound[other].includes(key));
      swapped[id] = [key, ...bound[id].slice(1).filter((known) => known !== key)];
      for (const other of others) {
        swapped[other] = bound[other].map((known) => (known === key ? old : known));
        const isClean = !refusal(other, old) && !holder(other, old, swapped);
        if (!isClean) return { outcome: "refused", why: "keys.taken", by: other };
      }
      bound = swapped;
      keep();
      return others.length ? { outcome: "swapped", by: others[0], old } : { outcome: "changed" };
    }

    function reset() {
      bound = DEFAULTS;
      keep();
    }

    const sign = (key) => SIGNS[key] ?? key;
    const printed = (id) => sign(bound[id][0]);
    const all = (id) => [...bound[id], ...(FURTHER[id] ?? [])];
    const kbd = (text) => el("kbd", {}, text);

    /** Print the keys on what says which action it is. */
    function print(root) {
      for (const node of root.querySelectorAll("[data-keys]")) {
        const id = node.dataset.keys;
        node.setAttribute("aria-keyshortcuts", all(id).join(" "));
        const mark = node.querySelector("kbd");
        if (mark) mark.textContent = printed(id);
      }
      for (const node of root.querySelectorAll("[data-key-list]")) {
        const signs = node.dataset.keyList.split(" ").flatMap((id) => all(id).map(sign));
        node.replaceChildren(...signs.map(kbd));
      }
      for (const node of root.querySelectorAll("[data-shift-key-list]")) {
        const signs = node.dataset.shiftKeyList.split(" ").map((id) => sign(bound[id].at(-1)));
        node.replaceChildren(...signs.map((text) => kbd(`⇧ ${text}`)));
      }
    }

    index();

    return {
      open,
      read,
      actionOf,
      change,
      reset,
      sign,
      printed,
      all,
      print,
      isScale: (name) => SCALES.includes(name),
      get areOwn() {
        return bound !== DEFAULTS && Object.keys(bound).some((id) => bound[id].join(" ") !== DEFAULTS[id].join(" "));
      },
      onChange: (listener) => changed.add(listener),
    };
  })();
})();
