/* An update makes the page anew: what had the focus gets it back, and what was opened or closed by hand stays so. */
(function () {
  "use strict";
  var focused = null;      // what has the focus, or had it when it was taken away: { name, nth }
  var folds = {};          // name of a fold -> whether it is open
  var path = location.pathname;

  function main() { return document.getElementById("main"); }

  /* What an element is called within the page; the order mark of a column is no part of it. */
  function named(element) {
    var table = element.closest("table"), card = element.closest("section");
    var place = table ? table.caption : card && card.querySelector("h2");
    var own = element.getAttribute("aria-label") || element.textContent;
    var text = own.replace(/ [▾▴]$/, "").slice(0, 120);
    return [element.tagName, place ? place.textContent : "", text].join("\n");
  }

  function like(element, name) {
    return Array.prototype.filter.call(main().querySelectorAll(element), function (other) {
      return named(other) === name;
    });
  }

  document.addEventListener("focusin", function (event) {
    var element = event.target, name;
    if (!main() || element === main() || !main().contains(element)) { focused = null; return; }
    name = named(element);
    focused = { tag: element.tagName, name: name, nth: like(element.tagName, name).indexOf(element) };
  });

  /* Left by hand, not taken away with the page. */
  document.addEventListener("focusout", function (event) {
    var element = event.target;
    setTimeout(function () {
      if (element.isConnected && document.activeElement === document.body) focused = null;
    }, 0);
  });

  document.addEventListener("toggle", function (event) {
    var fold = event.target;
    if (fold.isConnected && main() && main().contains(fold)) folds[named(fold.firstElementChild)] = fold.open;
  }, true);

  function again() {
    var found;
    if (!main()) return;
    if (path !== location.pathname) { path = location.pathname; folds = {}; focused = null; }
    main().querySelectorAll("details").forEach(function (fold) {
      var open = folds[named(fold.firstElementChild)];
      if (open !== undefined && fold.open !== open) fold.open = open;
    });
    if (focused && document.activeElement === document.body) {
      found = like(focused.tag, focused.name);
      if (found.length) found[Math.min(Math.max(0, focused.nth), found.length - 1)].focus({ preventScroll: true });
    }
  }

  /* Before the update is painted. What a chart draws under the pointer is none. */
  new MutationObserver(function (changes) {
    var box = main();
    if (box && changes.some(function (c) {
      return c.addedNodes.length && box.contains(c.target) && !c.target.closest(".js-plotly-plot");
    })) again();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
