/* The language of the page, and its strings. */
"use strict";

(() => {
  const { remembered } = Whetstone;

  Whetstone.locale = (() => {
    const strings = { en: {}, zh: {} };
    const fetched = {};
    const listeners = new Set();
    let language = remembered.get("language");
    if (language !== "en" && language !== "zh") {
      language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
    }
    tellServer();

    /** What the server draws is in the same language as the page. */
    function tellServer() {
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie = `whetstone.language=${language}; Path=/; Max-Age=31536000; SameSite=Strict${secure}`;
    }

    function fetchStrings(name) {
      const url = Whetstone.assetUrl(`locales/${name}.json`);
      fetched[name] ??= fetch(url)
        .then((reply) => reply.json())
        .then((found) => {
          strings[name] = found;
        })
        .catch(() => {
          delete fetched[name];
        });
      return fetched[name];
    }

    function t(key, values = {}) {
      const text = strings[language][key] ?? strings.en[key] ?? key;
      return text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
    }

    /** A counted sentence: `key.zero` when there is one, else the language's plural form. */
    function plural(key, n, values = {}) {
      const has = (form) => strings[language][`${key}.${form}`] != null;
      const form = n === 0 && has("zero") ? "zero" : new Intl.PluralRules(language).select(n);
      return t(`${key}.${has(form) ? form : "other"}`, { n, ...values });
    }

    /** Elements say which string they carry, so that a switch needs no rebuilding. */
    function translate(root) {
      for (const node of root.querySelectorAll("[data-t]")) {
        node.textContent = t(node.dataset.t);
      }
      for (const node of root.querySelectorAll("[data-t-label]")) {
        node.setAttribute("aria-label", t(node.dataset.tLabel));
        if (node.hasAttribute("title")) node.title = t(node.dataset.tLabel);
      }
      for (const node of root.querySelectorAll("[data-t-placeholder]")) {
        node.placeholder = t(node.dataset.tPlaceholder);
      }
      for (const node of root.querySelectorAll("[data-ui-lang]")) node.lang = tag();
    }

    const tag = () => (language === "zh" ? "zh-Hans" : "en");

    function apply() {
      document.documentElement.lang = tag();
      translateTabs();
      for (const listener of listeners) listener();
    }

    /** Which string a tab's button shows, in whichever language; undefined for another text. */
    function tabKey(button) {
      const shown = button.textContent.trim();
      const all = Object.values(strings).flatMap(Object.entries);
      return all.find(([key, text]) => key.startsWith("tab.") && text === shown)?.[0];
    }

    /** Gradio owns the tab buttons and may draw them again at any time. */
    function translateTabs() {
      for (const button of document.querySelectorAll(
        "#ws-tabs > .tab-wrapper :is([role=tab], .overflow-dropdown button)",
      )) {
        const key = tabKey(button);
        if (key && t(key) !== button.textContent.trim()) button.textContent = t(key);
      }
    }

    async function load() {
      await Promise.all([fetchStrings("en"), fetchStrings(language)]);
      apply();
    }

    async function toggle() {
      language = language === "en" ? "zh" : "en";
      remembered.set("language", language);
      tellServer();
      await load();
    }

    return {
      t,
      plural,
      translate,
      tabKey,
      translateTabs,
      load,
      toggle,
      tag,
      language: () => language,
      onChange: (listener) => listeners.add(listener),
    };
  })();

  Whetstone.t = Whetstone.locale.t;
})();
