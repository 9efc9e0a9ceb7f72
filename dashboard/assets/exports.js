/* What of the page can be kept: its tables as CSV, its charts as PNG, all of the range as HTML and JSON. */
(function () {
  "use strict";
  var api = window.dash_clientside.wellfed;

  function el(id) { return document.getElementById(id); }

  function made(tag, text, classes) {
    var node = document.createElement(tag);
    node.textContent = text;
    if (classes) node.className = classes;
    return node;
  }

  /* The page as it is shown: a live range that moved on gives newer data. */
  function address(name, more) {
    var state = new URLSearchParams(location.search);
    state.set("path", location.pathname);
    Object.keys(more || {}).forEach(function (k) { state.set(k, more[k]); });
    return "/export/" + name + "?" + state.toString();
  }

  function link(text, kind, href) {
    var node = made("a", text);
    node.href = href;
    node.setAttribute("download", "");
    node.appendChild(made("span", kind, "kind"));
    return node;
  }

  function charts() {
    return Array.prototype.slice.call(document.querySelectorAll("#main .js-plotly-plot")).map(function (gd) {
      var card = gd.closest(".card"), head = card && card.querySelector("h2");
      return { figure: gd, name: head ? head.textContent : document.title };
    });
  }

  function fill() {
    var box = el("exports");
    box.replaceChildren();
    var job = location.pathname.indexOf("/job/") === 0;
    box.appendChild(link(job ? "Report of this job" : "Report of this range", "HTML", address("report.html")));
    box.appendChild(link("Diagnosis of this range", "JSON", address("diagnosis.json")));
    document.querySelectorAll("#main table.rows caption").forEach(function (caption) {
      box.appendChild(link(caption.textContent, "CSV", address("table.csv", { table: caption.textContent })));
    });
    charts().forEach(function (chart) {
      var button = made("button", chart.name);
      button.type = "button";
      button.appendChild(made("span", "PNG", "kind"));
      button.addEventListener("click", function () { png(chart.figure, chart.name); });
      box.appendChild(button);
    });
  }

  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  /* Plotly reads markup in titles. */
  function plain(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); }

  /* What the colours mean, from the names beside the chart, in lines no wider than the picture. */
  function legend(figure, width) {
    var near = figure.closest(".card"), page = figure.closest(".drill");
    var names = [near, page].map(function (box) {
      return box ? Array.prototype.slice.call(box.querySelectorAll(".legend .lg, .crows .cause")) : [];
    }).find(function (found) { return found.length; }) || [];
    var lines = [], used = width;
    names.forEach(function (node) {
      var swatch = node.querySelector(".code, .sw"), text = node.innerText.replace(/\s+/g, " ").trim();
      var tone = swatch ? getComputedStyle(swatch).backgroundColor : colour("--ink-2");
      var takes = 7.5 * (text.length + 5);
      if (used + takes > width - 24) { lines.push(""); used = 0; }
      lines[lines.length - 1] += '<span style="color:' + tone + '">■</span> ' + plain(text) + "   ";
      used += takes;
    });
    return lines;
  }

  function png(figure, name) {
    var facts = api.facts(), marked = document.querySelector(".simulated"), where = document.querySelector(".crumbs h1");
    var when = [facts.from, facts.to].map(function (t) { return t.replace("T", " ").slice(0, 16); }).join(" – ") + " UTC";
    var text = [where ? where.textContent : "", name].filter(Boolean).join(" · ");
    var width = Math.max(640, figure.clientWidth + 24);
    var told = ["<b>" + plain(text) + "</b>", when + (marked ? " · " + marked.textContent : "")].concat(legend(figure, width));
    var room = 12 + 18 * told.length, old = figure.layout.margin || {};
    var margin = { l: (old.l || 0) + 12, r: (old.r || 0) + 12, t: (old.t || 0) + room, b: (old.b || 0) + 8 };
    var layout = Object.assign({}, figure.layout, {
      paper_bgcolor: colour("--card"),
      width: width,
      height: figure.clientHeight + room + 8,
      margin: margin,
      annotations: (figure.layout.annotations || []).concat([{
        xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom", align: "left", showarrow: false,
        xshift: 12 - margin.l, yshift: margin.t - room + 4, text: told.join("<br>"), font: { size: 12, color: colour("--ink") }
      }])
    });
    window.Plotly.toImage({ data: figure.data, layout: layout }, {
      format: "png", width: layout.width, height: layout.height, scale: 2
    }).then(function (url) {
      var node = document.createElement("a");
      node.href = url;
      node.download = ("wellfed-" + (marked ? "simulated-" : "") + text).toLowerCase().replace(/[^a-z0-9]+/g, "-") + ".png";
      node.click();
      api.toast("Saved " + node.download);
    }).catch(function (e) { api.toast("No picture: " + e.message); });
  }

  api.exports = function () {
    var box = el("export");
    box.open = !box.open;
    if (box.open) { fill(); el("exports").firstChild.focus(); }
  };

  document.addEventListener("click", function (event) {
    var box = el("export");
    if (!box) return;
    if (event.target.closest("#export summary")) { if (!box.open) fill(); }
    else if (box.open && !event.target.closest("#exports")) box.open = false;
  });
  document.addEventListener("keydown", function (event) {
    var box = el("export");
    if (event.key !== "Escape" || !box || !box.open) return;
    box.open = false;
    box.querySelector("summary").focus();
  });
})();
