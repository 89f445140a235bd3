"""The scrape: the metrics of the service, and those of the application, as Prometheus reads them."""
