/* Light and dark. */
"use strict";

(() => {
  const { remembered } = Whetstone;

  Whetstone.theme = (() => {
    const systemDark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => {
      const chosen = remembered.get("theme");
      return chosen ? chosen === "dark" : systemDark.matches;
    };
    function apply() {
      document.body.classList.toggle("dark", isDark());
      document.documentElement.style.colorScheme = isDark() ? "dark" : "light";
    }
    function toggle() {
      remembered.set("theme", isDark() ? "light" : "dark");
      apply();
    }
    systemDark.addEventListener("change", () => setTimeout(apply));
    // Gradio sets the class itself while it starts.
    new MutationObserver(() => {
      if (document.body.classList.contains("dark") !== isDark()) apply();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    apply();
    return { toggle };
  })();
})();
