/* Sanitised HTML as people read it: code can be copied, and what is wide scrolls in its own box. */
"use strict";

(() => {
  const { clipboard, el, locale, setSanitisedHtml, t } = Whetstone;

  Whetstone.prose = (() => {
    // Without a mouse a box is scrolled by focusing it; one that does not scroll stays out of the way.
    const widths = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const isWide = target.scrollWidth > target.clientWidth;
        if (isWide === target.hasAttribute("tabindex")) continue;
        target.toggleAttribute("tabindex", isWide);
        target.toggleAttribute("role", isWide);
        if (!isWide) {
          target.removeAttribute("aria-label");
          continue;
        }
        target.tabIndex = 0;
        target.setAttribute("role", "group");
        target.setAttribute("aria-label", t(target.dataset.wide));
      }
    });

    function fill(node, html) {
      setSanitisedHtml(node, html);
      for (const pre of node.querySelectorAll("pre")) wrapCode(pre);
      for (const table of node.querySelectorAll(".ws-table")) watch(table, "prose.table");
      for (const math of node.querySelectorAll("math")) {
        watch(math.closest(".ws-formula") ?? topBlock(math, node), "prose.formula");
      }
    }

    function topBlock(inner, node) {
      while (inner.parentElement !== node) inner = inner.parentElement;
      return inner;
    }

    function watch(box, key) {
      box.dataset.wide = key;
      widths.observe(box);
    }

    function wrapCode(pre) {
      const language = /\blanguage-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
      const label = el("span", { "data-t": "response.copy" }, t("response.copy"));
      const button = el(
        "button",
        {
          type: "button",
          class: "ws-small",
          "data-t-label": "prose.copy_code",
          "aria-label": t("prose.copy_code"),
          onclick: () => clipboard.copy(pre.textContent, button),
        },
        label,
      );
      const head = el("div", { class: "ws-code-head", "data-ui-lang": true, lang: locale.tag() });
      head.append(el("span", { class: "ws-code-language" }, language), button);
      const block = el("div", { class: "ws-code", dir: "ltr" }, head);
      pre.replaceWith(block);
      block.append(pre);
      watch(pre, "prose.code");
    }

    return { fill };
  })();
})();
