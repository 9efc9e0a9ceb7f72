/* Notes on findings: the buttons of remarks.py, by mouse and by key. The API answers, as it does others. */
(function () {
  "use strict";
  var api = window.dash_clientside.wellfed;
  var about = null;        // key of the finding that the dialog is about

  function el(id) { return document.getElementById(id); }

  /* The range shown: a finding is looked for in it. */
  function range() {
    var state = new URLSearchParams(location.search), kept = new URLSearchParams();
    ["from", "to"].forEach(function (k) { if (state.get(k)) kept.set(k, state.get(k)); });
    var text = kept.toString();
    return text ? "?" + text : "";
  }

  function ask(method, path, body, done) {
    return fetch("/api/v1" + path, {
      method: method,
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body ? JSON.stringify(body) : undefined
    }).then(function (r) {
      return r.json().then(function (told) {
        if (!r.ok) throw new Error(told.detail || r.statusText);
        api.toast(done + " as " + told.who);
        window.dash_clientside.set_props("beat", { data: Date.now() });
        return true;
      });
    }).catch(function (e) { api.toast("Not kept: " + e.message); return false; });
  }

  function say(key, kind, long, text) {
    var body = { kind: kind };
    if (long) body.for = long;
    if (text) body.text = text;
    var done = { acknowledge: "Acknowledged", mute: "Muted for " + long, comment: "Kept" }[kind];
    return ask("POST", "/findings/" + encodeURIComponent(key) + "/notes" + range(), body, done);
  }

  function write(key) {
    about = key;
    el("say-text").value = "";
    el("say").showModal();
    el("say-text").focus();
  }

  function save() {
    var kind = el("say-kind").value.split(" "), text = el("say-text").value.trim();
    if (kind[0] === "comment" && !text) { api.toast("A comment needs a text"); el("say-text").focus(); return; }
    say(about, kind[0], kind[1], text).then(function (kept) { if (kept) el("say").close(); });
  }

  /* a, m, n: on the page of a finding, or on the chosen row of a list. */
  api.note = function (kind) {
    var button = document.querySelector('#main [data-say="' + kind + '"]');
    if (button) { button.click(); return true; }
    var row = api.chosen();
    if (!row || row.indexOf("/findings/") !== 0) {
      if (document.querySelector("#main [data-undo]")) api.toast("That holds already");
      return false;
    }
    var key = decodeURIComponent(row.split("?")[0].split("/")[2]);
    if (kind === "ask") write(key); else say(key, kind, kind === "mute" ? "4h" : "");
    return true;
  };

  document.addEventListener("click", function (event) {
    var button = event.target.closest && event.target.closest("button");
    if (!button) return;
    var data = button.dataset;
    if (data.press) el(data.press).click();
    else if (data.undo) ask("DELETE", "/notes/" + encodeURIComponent(data.undo), null, "Taken back");
    else if (data.say === "ask") write(data.of);
    else if (data.say) say(data.of, data.say, data.for);
    else if (button.id === "say-save") save();
    else if (button.id === "say-cancel") el("say").close();
  });
  document.addEventListener("keydown", function (event) {
    if (event.target.id === "say-text" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
  });
})();
