/* The guidelines in force, and whether the person has read them. */
"use strict";

(() => {
  const { call, prose, remembered, t } = Whetstone;

  Whetstone.guidelines = (() => {
    let version = null; // in force, as the server said last
    let shown = null; // in the drawer
    const changed = new Set();

    function tell(found) {
      if (found === version) return;
      version = found;
      changed.forEach((listener) => listener());
    }

    async function open(part) {
      if (version === null) return;
      part.guidelines.showModal();
      try {
        if (shown !== version) {
          part.guidelines_text.textContent = t("guidelines.loading");
          const found = await call("GET", "/api/judging/guidelines");
          prose.fill(part.guidelines_text, found.html);
          part.guidelines_version.textContent = t("guidelines.version", { n: found.version });
          shown = version = found.version;
        }
        remembered.set("guidelines_read", String(version));
      } catch (error) {
        part.guidelines_text.textContent = error.isUnreachable ? t("unreachable.title") : error.message;
      }
      changed.forEach((listener) => listener());
    }

    return {
      tell,
      open,
      get version() {
        return version;
      },
      get isUnread() {
        return version !== null && Number(remembered.get("guidelines_read") ?? 0) < version;
      },
      onChange: (listener) => changed.add(listener),
    };
  })();
})();
