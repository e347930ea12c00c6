"""`make loop`: the product's promise on a live engine. Serve, log, retrain, and serve the same kind of traffic again."""
