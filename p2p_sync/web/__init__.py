"""The HTTP port: the page, the API, the metrics, and which clients may use them."""
