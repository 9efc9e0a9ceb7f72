/* Everything by keyboard. The help dialog (frame.py) lists the same keys. */
(function () {
  "use strict";
  var api = window.dash_clientside.wellfed;
  var after = null;        // "g" waits for its second key
  var row = -1;            // chosen row of the page's table
  var opens = null;        // what it opens: an update may order the rows anew
  var cell = null;         // chosen cell of the heat map: { host, gpu, x, y }

  function el(id) { return document.getElementById(id); }
  function press(id) { var b = el(id); if (b) b.click(); }

  function typing(target) {
    return target && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
  }

  function rows() { return Array.prototype.slice.call(document.querySelectorAll("#main tr[data-href]")); }

  function choose(step) {
    var all = rows();
    if (!all.length) return;
    all.forEach(function (r) { r.classList.remove("chosen"); });
    row = Math.max(0, Math.min(all.length - 1, row + step));
    cell = null; mark();
    all[row].classList.add("chosen");
    all[row].scrollIntoView({ block: "nearest" });
    opens = all[row].dataset.href;
  }

  /* What a row is about: the key of a finding ends with its start, which moves with a live range. */
  function about(href) { return href.split("?")[0].replace(/-\d{8}T\d{6}Z$/, ""); }

  /* Where the chosen row is now, -1 when it is gone. */
  function where(all) {
    if (!opens) return -1;
    var exact = all.findIndex(function (r) { return r.dataset.href === opens; });
    return exact >= 0 ? exact : all.findIndex(function (r) { return about(r.dataset.href) === about(opens); });
  }

  /* The chosen row after an update. */
  function chooseAgain() {
    var all = rows();
    row = where(all);
    all.forEach(function (r, n) { r.classList.toggle("chosen", n === row); });
    if (row >= 0) opens = all[row].dataset.href;
  }

  /* What the chosen row opens, null without one. */
  api.chosen = function () {
    var all = rows(), n = where(all);
    return n < 0 ? null : all[n].dataset.href;
  };

  function shift(way) {
    var facts = api.facts();
    if (!facts.from) return;
    var a = Date.parse(facts.from), b = Date.parse(facts.to), half = (b - a) / 2;
    var iso = function (ms) { return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z"); };
    if (b + way * half > Date.now()) { api.toast("That would be in the future"); return; }
    api.go({ from: iso(a + way * half), to: iso(b + way * half) });
  }

  /* The heat map's cells. */
  function heat() {
    var box = el("heat");
    return box && box.querySelector(".js-plotly-plot");
  }
  var index = api.places;
  function mark() {
    var gd = heat(), box = el("heat-mark");
    if (!box) return;
    if (!gd || !gd._fullLayout || !cell) { box.hidden = true; return; }
    var l = gd._fullLayout, x = l.xaxis, y = l.yaxis;
    var w = Math.abs(x.d2p(1) - x.d2p(0)), h = Math.abs(y.d2p(1) - y.d2p(0));
    box.hidden = false;
    box.style.left = (x._offset + x.d2p(cell.x) - w / 2 - 1) + "px";
    box.style.top = (y._offset + y.d2p(cell.y) - h / 2 - 1) + "px";
    box.style.width = (w + 1) + "px";
    box.style.height = (h + 1) + "px";
    var tip = el("heat-tip");
    if (tip) tip.textContent = selected();
  }
  function selected() {
    if (!cell) return "";
    var places = index(), gd = heat(), state = "";
    var z = gd && gd.data && gd.data[0] && gd.calcdata && gd.calcdata[0][0].z;
    if (z && z[cell.y]) state = (places.names || [])[z[cell.y][cell.x]] || "";
    return cell.host + " · GPU " + cell.gpu + (state ? " · " + state : "");
  }
  api.selected = selected;

  function move(dx, dy) {
    var places = index();
    if (!places) return false;
    var tall = places.tall + 2, wide = places.wide + 1;
    var maxX = places.across * wide, maxY = Math.ceil(places.blocks.length / places.across) * tall;
    var x = cell ? cell.x : -1, y = cell ? cell.y : 0;
    if (!cell && !dx) { dx = 1; dy = 0; }
    for (var n = 0; n < Math.max(maxX, maxY); n++) {
      x += dx; y += dy;
      if (x < 0 || y < 0 || x >= maxX || y >= maxY) return true;
      var found = api.find({ x: x, y: y }, places);
      if (found) {
        cell = { host: found.host, gpu: found.gpu, x: x, y: y };
        remember();
        mark();
        return true;
      }
    }
    return true;
  }

  /* `sel` in the URL, without asking the server. */
  function remember() {
    var state = new URLSearchParams(location.search);
    state.set("sel", cell.host + "/" + cell.gpu);
    history.replaceState(history.state, "", location.pathname + "?" + state.toString());
  }
  function recall() {
    var places = index(), wanted = new URLSearchParams(location.search).get("sel");
    if (!places || !wanted) { cell = places ? cell : null; mark(); return; }
    places.blocks.forEach(function (block, b) {
      block.forEach(function (host, y) {
        host[1].forEach(function (gpu, x) {
          if (host[0] + "/" + gpu !== wanted) return;
          cell = {
            host: host[0], gpu: gpu,
            x: (b % places.across) * (places.wide + 1) + x,
            y: Math.floor(b / places.across) * (places.tall + 2) + y
          };
        });
      });
    });
    mark();
  }
  document.addEventListener("wellfed:shown", function () {
    setTimeout(function () { chooseAgain(); recall(); }, 0);
  });
  new ResizeObserver(function () { mark(); }).observe(document.documentElement);

  function found() { return Array.prototype.slice.call(document.querySelectorAll("#hits a")); }

  function inSearch(event) {
    var links = found(), on = document.querySelector("#hits a.chosen"), n = links.indexOf(on);
    if (event.key === "Escape") { event.target.blur(); return; }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (on) on.classList.remove("chosen");
      n = Math.max(0, Math.min(links.length - 1, n + (event.key === "ArrowDown" ? 1 : -1)));
      if (links[n]) links[n].classList.add("chosen");
    } else if (event.key === "Enter" && links.length) {
      event.preventDefault();
      (on || links[0]).click();
      event.target.blur();
    }
  }

  function open() {
    if (cell && el("heat")) {
      var kept = new URLSearchParams(), state = new URLSearchParams(location.search);
      ["from", "to"].forEach(function (k) { if (state.get(k)) kept.set(k, state.get(k)); });
      var tail = kept.toString();
      api.visit("/gpu/" + encodeURIComponent(cell.host) + "/" + encodeURIComponent(cell.gpu) + (tail ? "?" + tail : ""));
      return true;
    }
    var all = rows();
    if (row >= 0 && all[row]) { api.visit(all[row].dataset.href); return true; }
    return false;
  }

  var arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.id === "search") { inSearch(event); return; }
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    if (after === "g") {
      after = null;
      var path = (api.facts().pages || {})[event.key];
      if (path) {
        var state = new URLSearchParams(location.search), kept = new URLSearchParams();
        ["from", "to"].forEach(function (k) { if (state.get(k)) kept.set(k, state.get(k)); });
        api.visit(path + (kept.toString() ? "?" + kept.toString() : ""));
        event.preventDefault();
      }
      return;
    }
    if (arrows[event.key]) {
      if (el("heat") && move.apply(null, arrows[event.key])) event.preventDefault();
      return;
    }
    switch (event.key) {
      case "g": after = "g"; setTimeout(function () { after = null; }, 1500); break;
      case "/": event.preventDefault(); el("search").focus(); el("search").select(); break;
      case "j": choose(1); break;
      case "k": choose(-1); break;
      case "a": api.note("acknowledge"); break;
      case "m": api.note("mute"); break;
      case "n": if (api.note("ask")) event.preventDefault(); break;
      case "[": shift(-1); break;
      case "]": shift(1); break;
      case "l": press("live"); break;
      case "c": press("copy"); break;
      case "d": press("skin"); break;
      case "e": api.exports(); event.preventDefault(); break;
      case "?": press("keys"); break;
      case "Enter":
        if (!/^(A|BUTTON|SUMMARY)$/.test(event.target.tagName) && open()) event.preventDefault();
        break;
      default: return;
    }
  });
})();
