/* Heat map: which GPU is under the pointer, and opening it. Resolved here so that hovering asks no server. */
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  wellfed: {
    at: function (point, index) {
      if (!point || !index) return null;
      var x = Math.round(point.x), y = Math.round(point.y);
      var column = Math.floor(x / (index.wide + 1)), row = Math.floor(y / (index.tall + 2));
      var block = index.blocks[row * index.across + column];
      var host = block && block[y - row * (index.tall + 2)];
      var gpu = host && host[1][x - column * (index.wide + 1)];
      return gpu === undefined || gpu === null ? null : { host: host[0], gpu: gpu };
    },
    tip: function (hover, index) {
      var found = hover && this.at(hover.points[0], index);
      return found ? found.host + " · GPU " + found.gpu : "";
    },
    open: function (click, index, search) {
      var found = click && this.at(click.points[0], index);
      if (!found) return window.dash_clientside.no_update;
      return "/gpu/" + encodeURIComponent(found.host) + "/" + encodeURIComponent(found.gpu) + (search || "");
    }
  }
});
