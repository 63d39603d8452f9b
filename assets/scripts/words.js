/* What Gradio draws, in the page's language: labels of components, static areas, its own words.
 *
 * Gradio sends one page to all people, with English labels, and says its own words in the language
 * of the browser. A label is known by its English (zh.server.json), Gradio's words by their place.
 */
"use strict";

(() => {
  const { locale } = Whetstone;

  // What people wrote, what the server drew for this person, and Gradio's own words.
  const ELSEWHERE =
    ".wsl-area:not(.wsl-static), [role=listbox], .file-preview, [data-testid=upload-text], textarea";
  const ATTRIBUTES = ["aria-label", "placeholder", "title"];
  // The keys of the text pieces of an element, in their order.
  const OWN_TEXT = [
    ["[data-testid=upload-text]", ["gradio.drop_file", "gradio.or", "gradio.click_to_upload"]],
    [".toast-title.warning", ["gradio.warning"]],
    [".toast-title.error", ["gradio.error"]],
    [".toast-title.info", ["gradio.info"]],
  ];
  const OWN_LABELS = [
    [".upload-container", "gradio.upload_label"],
    ["[data-testid=file-upload]", "gradio.upload_label"],
    ["[data-testid=toast-close]", "keys.close"],
  ];

  let chinese = null;
  let shownIn = locale.language();
  const known = new WeakMap(); // node or attribute -> {english, shown}

  async function fetchChinese() {
    try {
      const reply = await fetch(Whetstone.assetUrl("locales/zh.server.json"));
      chinese = new Map(Object.entries(await reply.json()));
    } catch {
      chinese = null; // asked for again at the next switch
    }
  }

  /** What stands for `shown` in the page's language; null when it is nothing of ours. */
  function translated(holder, shown) {
    const before = known.get(holder);
    const english = before?.shown === shown ? before.english : shown;
    if (!chinese?.has(english)) return null;
    const text = locale.language() === "zh" ? chinese.get(english) : english;
    known.set(holder, { english, shown: text });
    return text;
  }

  function write(node, text) {
    const shown = node.data.trim();
    if (text !== null && shown !== text) node.data = node.data.replace(shown, () => text);
  }

  function texts(root) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) if (walker.currentNode.data.trim()) found.push(walker.currentNode);
    return found;
  }

  function paintLabels(root) {
    for (const node of texts(root)) {
      if (!node.parentElement.closest(ELSEWHERE)) write(node, translated(node, node.data.trim()));
    }
    for (const name of ATTRIBUTES) {
      for (const element of root.querySelectorAll(`[${name}]`)) {
        if (element.closest(ELSEWHERE) && element.tagName !== "TEXTAREA") continue;
        const attribute = element.getAttributeNode(name);
        const text = translated(attribute, attribute.value);
        if (text !== null && text !== attribute.value) attribute.value = text;
      }
    }
  }

  function paintOwn(root) {
    for (const [selector, keys] of OWN_TEXT) {
      for (const element of root.querySelectorAll(selector)) {
        texts(element).forEach((node, i) => keys[i] && write(node, Whetstone.t(keys[i])));
      }
    }
    for (const [selector, key] of OWN_LABELS) {
      for (const element of root.querySelectorAll(selector)) {
        const text = Whetstone.t(key);
        if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text);
      }
    }
  }

  function paint(root) {
    paintLabels(root);
    paintOwn(root);
  }

  const places = new Set();

  /** Paint a place now, and whenever Gradio changes it. The judging tabs are none: they are ours. */
  function watch(place) {
    if (places.has(place)) return;
    places.add(place);
    paint(place);
    new MutationObserver(() => paint(place)).observe(place, {
      childList: true,
      subtree: true,
      characterData: true,
      attributeFilter: ATTRIBUTES,
    });
  }

  function watchTabs() {
    for (const tab of document.querySelectorAll("#ws-tabs > .ws-tab")) {
      if (!tab.querySelector("[id^=ws-]")) watch(tab);
    }
  }

  /** Tabs come into the page when they are first opened. */
  function start() {
    const tabs = document.getElementById("ws-tabs");
    const toasts = document.querySelector(".toast-wrap");
    if (!tabs || !window.WhetstoneLeads) return;
    new MutationObserver(watchTabs).observe(tabs, { childList: true });
    watchTabs();
    if (toasts) watch(toasts);
  }

  locale.onChange(async () => {
    if (!window.WhetstoneLeads) return;
    if (locale.language() === "zh" && chinese === null) await fetchChinese();
    places.forEach(paint);
    if (shownIn !== locale.language()) window.WhetstoneLeads.redraw();
    shownIn = locale.language();
  });

  Whetstone.words = { start };
})();
