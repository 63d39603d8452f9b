/* Which tab a person pressed last. In the page's head: Gradio draws its tabs before it listens to
   them, and before the other scripts are there. */
"use strict";

window.WhetstonePresses = { tab: null, listener: null };

document.addEventListener(
  "click",
  (event) => {
    const tab = event.target.closest?.("#ws-tabs :is([role=tab], .overflow-dropdown button)");
    if (!tab || !event.isTrusted) return;
    window.WhetstonePresses.tab = tab;
    window.WhetstonePresses.listener?.();
  },
  true,
);
