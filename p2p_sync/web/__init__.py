"""The roof: the page and the server that serves it over HTTP."""
