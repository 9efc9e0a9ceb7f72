"""One module a page. Each has `body(answer, query, ...)`, which returns crumbs and the children of main."""
