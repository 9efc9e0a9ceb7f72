/* What needs no server: theme, range, live tail, copying, help, and which GPU is under the pointer. */
(function () {
  "use strict";
  var none = function () { return window.dash_clientside.no_update; };
  var shown = {};          // facts about the page shown (frame.py)
  var before = [];         // queries one looked closer from
  var paused = false;
  var at = null;
  var held = false;        // a mouse button is down

  function el(id) { return document.getElementById(id); }

  function query(search) { return new URLSearchParams(search || ""); }

  function said(state) {
    var text = state.toString();
    return text ? "?" + text : "";
  }

  function toast(text) {
    var box = el("toast");
    if (!box) return;
    box.textContent = text;
    box.classList.add("on");
    setTimeout(function () { box.classList.remove("on"); }, 2500);
  }

  function iso(ms) { return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z"); }

  function age(seconds) {
    if (seconds < 90) return Math.round(seconds) + " s";
    if (seconds < 5400) return Math.round(seconds / 60) + " min";
    return Math.round(seconds / 3600) + " h";
  }

  /* Every second: how old is what the page shows? */
  function watch() {
    var badge = el("age"), button = el("live");
    if (!badge || shown.live === undefined) return;
    var old = shown.last === null ? null : Date.now() - shown.last;
    var stale = shown.live && !paused && (old === null || old > shown.stale);
    var text = !shown.live ? "History" : paused ? "Paused" : old === null ? "no data yet" : stale ? age(old / 1000) + " old" : "Live";
    if (badge.textContent !== text) badge.textContent = text;
    button.className = "btn live" + (stale ? " stale" : "") + (shown.live && !paused ? "" : " off");
    button.setAttribute("aria-pressed", String(Boolean(shown.live && !paused)));
    document.body.classList.toggle("stale", stale && old !== null);
  }

  function heartbeat() {
    var box = el("offline");
    if (!box || paused || !shown.live) return;
    fetch("/healthz", { cache: "no-store" }).then(function (r) {
      box.textContent = r.ok ? "" : "The dashboard answers with an error; what you see is from before.";
    }).catch(function () {
      box.textContent = "The dashboard does not answer; what you see is from before. It is asked again every five seconds.";
    });
  }

  document.addEventListener("mousedown", function () { held = true; }, true);
  document.addEventListener("mouseup", function () { held = false; }, true);
  setInterval(watch, 1000);
  setInterval(heartbeat, 5000);

  function chosenTheme() {
    var kept = null;
    try { kept = localStorage.getItem("wellfed-theme"); } catch (e) { /* no storage */ }
    if (kept === "dark" || kept === "light") return kept;
    return window.matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  }
  document.documentElement.dataset.theme = chosenTheme();

  /* A drag over a chart of time becomes the range; a double click takes it back. */
  function zoomed(figure, change) {
    var a = change["xaxis.range[0]"], b = change["xaxis.range[1]"];
    if (a === undefined || b === undefined) return;
    var ms = [a, b].map(function (t) { return typeof t === "number" ? t : Date.parse(String(t).replace(" ", "T") + "Z"); });
    if (isNaN(ms[0]) || isNaN(ms[1]) || ms[1] - ms[0] < 20000) return;
    before.push(location.search);
    wellfed.go({ from: iso(ms[0]), to: iso(ms[1]) });
  }

  function listen() {
    document.querySelectorAll("#main .js-plotly-plot").forEach(function (figure) {
      if (figure.dataset.heard || !figure.on || figure.parentElement.id === "heat") return;
      figure.dataset.heard = "1";
      figure.on("plotly_relayout", function (change) { zoomed(figure, change); });
      figure.on("plotly_doubleclick", function () {
        if (before.length) wellfed.visit(location.pathname + before.pop());
      });
    });
  }
  new MutationObserver(listen).observe(document.documentElement, { childList: true, subtree: true });

  var wellfed = {
    toast: toast,

    facts: function () { return shown; },

    /* Opens an address as a link would. */
    visit: function (address) {
      history.pushState({}, "", address);
      window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    },

    /* This page with some of its state changed. */
    go: function (changes) {
      var state = query(location.search);
      Object.keys(changes).forEach(function (name) {
        if (changes[name]) state.set(name, changes[name]); else state.delete(name);
      });
      wellfed.visit(location.pathname + said(state));
    },

    /* No update under a hand that drags, or for nobody. */
    beat: function (n) { return held || document.hidden ? none() : n; },

    theme: function (clicks) {
      var name = chosenTheme();
      if (clicks) {
        name = name === "dark" ? "light" : "dark";
        try { localStorage.setItem("wellfed-theme", name); } catch (e) { /* no storage */ }
      }
      document.documentElement.dataset.theme = name;
      return name;
    },

    shown: function (facts) {
      if (!facts) return none();
      document.body.classList.remove("busy");
      if (!facts.failed) shown = facts;
      watch();
      requestAnimationFrame(function () { document.dispatchEvent(new CustomEvent("wellfed:shown")); });
      return String(facts.to || "");
    },

    leave: function (path, search) {
      var next = (path || "") + (search || "");
      if (next !== at) document.body.classList.add("busy");
      if (at !== null && at.split("?")[0] !== path) window.scrollTo(0, 0);
      at = next;
      return next;
    },

    live: function (clicks, search) {
      if (!clicks) return [none(), none()];
      if (!shown.live) {
        var state = query(search);
        state.delete("from");
        state.delete("to");
        paused = false;
        return [false, said(state)];
      }
      paused = !paused;
      watch();
      return [paused, none()];
    },

    copy: function (clicks) {
      if (!clicks) return none();
      var state = query(location.search);
      state.set("from", iso(Date.parse(shown.from)));
      state.set("to", iso(Date.parse(shown.to)));
      var address = location.origin + location.pathname + said(state);
      var done = function () { toast("Copied a link to " + state.get("from") + " – " + state.get("to")); };
      if (navigator.clipboard && window.isSecureContext) {
        navigator.clipboard.writeText(address).then(done, function () { toast(address); });
      } else {
        toast(address);
      }
      return address;
    },

    keys: function (opened, closed) {
      var box = el("help");
      if (!box) return none();
      if (box.open) box.close(); else if (opened) box.showModal();
      return String(box.open);
    },

    between: function (clicks, from, to) {
      if (!clicks) return none();
      var good = function (text) { return /^\d{1,4}[mhd]$/.test(text) || !isNaN(Date.parse(text)); };
      if (!good(from || "") || (to && !good(to))) {
        toast("A range is like 2h, or 2026-03-02 09:00 and 2026-03-02 12:00");
        return none();
      }
      var state = query(location.search);
      var fixed = isNaN(Date.parse(from)) || /^\d{1,4}[mhd]$/.test(from) ? from : from.replace(" ", "T");
      state.set("from", fixed);
      if (fixed !== from || !/^\d{1,4}[mhd]$/.test(from)) state.set("to", to ? to.replace(" ", "T") : iso(Date.now()));
      else state.delete("to");
      return said(state);
    },

    /* Which GPU a cell of the heat map is. */
    find: function (point, index) {
      if (!point || !index) return null;
      var x = Math.round(point.x), y = Math.round(point.y);
      var column = Math.floor(x / (index.wide + 1)), row = Math.floor(y / (index.tall + 2));
      var block = index.blocks[row * index.across + column];
      var host = block && block[y - row * (index.tall + 2)];
      var gpu = host && host[1][x - column * (index.wide + 1)];
      return gpu === undefined || gpu === null ? null : { host: host[0], gpu: gpu };
    },

    /* What the page told about the cells of its heat map. */
    places: function () {
      var box = el("heat-places"), text = box && box.dataset.index;
      if (text !== wellfed._text) { wellfed._text = text; wellfed._places = text ? JSON.parse(text) : null; }
      return wellfed._places;
    },

    tip: function (hover) {
      var point = hover && hover.points[0], index = wellfed.places();
      var found = wellfed.find(point, index);
      if (!found) return wellfed.selected ? wellfed.selected() : "";
      var names = index.names || [];
      var state = names[point.z];
      return found.host + " · GPU " + found.gpu + (state ? " · " + state : "");
    },

    open: function (click, search) {
      var found = click && wellfed.find(click.points[0], wellfed.places());
      if (!found) return none();
      var kept = new URLSearchParams(), state = query(search);
      ["from", "to"].forEach(function (name) { if (state.get(name)) kept.set(name, state.get(name)); });
      return "/gpu/" + encodeURIComponent(found.host) + "/" + encodeURIComponent(found.gpu) + said(kept);
    }
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { wellfed: wellfed });
})();
