"""The HTTP port: the page, the API, the metrics, and who may use them."""
