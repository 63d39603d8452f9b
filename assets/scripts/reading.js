/* How responses are read: rendered, as raw text, or with the words marked in which two differ.
 *
 * Either stays on from item to item, and on every page, until it is turned off.
 */
"use strict";

(() => {
  const { el, t, remembered, diff } = Whetstone;

  Whetstone.reading = (() => {
    let isRaw = remembered.get("raw") === "yes";
    let isDiff = false;
    const changed = new Set();

    function toggleRaw() {
      isRaw = !isRaw;
      remembered.set("raw", isRaw ? "yes" : "no");
      changed.forEach((listener) => listener());
    }

    function toggleDiff() {
      isDiff = !isDiff;
      changed.forEach((listener) => listener());
    }

    /** The nodes of an item's responses as they are read now; `rendered` are those of their HTML. */
    function bodies(item, rendered) {
      const differing = isDiff && item.responses.length === 2 ? marked(item) : null;
      return item.responses.map(({ text }, place) => {
        if (!text.trim()) return el("p", { class: "ws-quiet" }, t("response.empty"));
        if (differing) return differing[place];
        if (!isRaw) return rendered[place];
        return el("pre", { class: "ws-raw", dir: "auto", lang: item.language }, text);
      });
    }

    function marked({ responses, language }) {
      return diff.compare(responses[0].text, responses[1].text, language).map((pieces) => {
        const text = el("div", { class: "ws-prose ws-diff", dir: "auto", lang: language });
        text.append(
          ...pieces.map((piece) => (piece.isShared ? piece.text : el("mark", {}, piece.text))),
        );
        return text;
      });
    }

    /** Say on a page's buttons what is on. */
    function press(root) {
      for (const [name, isOn] of [["raw", isRaw], ["diff", isDiff]]) {
        for (const button of root.querySelectorAll(`[data-act=${name}]`)) {
          button.setAttribute("aria-pressed", String(isOn));
        }
      }
    }

    return { toggleRaw, toggleDiff, bodies, press, onChange: (listener) => changed.add(listener) };
  })();
})();
